"""Any text, document, setting or argument gives an answer or one of the errors that are raised on purpose.

`benchmarks/fuzz.py` draws many more from the same strategies.
"""

from __future__ import annotations

import pytest
from fuzzing import PROPERTIES, Property
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = 60
"""Inputs of each kind that the tests draw."""


@pytest.mark.parametrize("name", PROPERTIES)
def test_any_input_is_answered_or_refused(name: str) -> None:
    prop: Property = PROPERTIES[name]

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        prop.check(data.draw(prop.inputs))

    check()


def test_the_properties_can_fail() -> None:
    with pytest.raises(ZeroDivisionError):
        Property(st.just(0), lambda number: 1 / number).check(0)

"""Memory of steps that serves again: never while anything is in it."""

from __future__ import annotations

import gc

import pytest
import torch

from estimators.contract import normal
from estimators.rules import blockwise, make_rule
from estimators.rules.base import next_state
from estimators.rules.memory import MOST, lent, reused
from estimators.state import State

pytestmark = pytest.mark.fast
SIZE = 900


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK", 50)
    monkeypatch.setattr(blockwise, "NARROWEST", 10)


def states(count: int) -> list[State]:
    """What AdamW passes through."""
    rule, theta = make_rule("adamw", weight_decay=0.1), normal(1, SIZE, seed=1).float()
    passed = [rule.init(theta)]
    for step in range(count):
        passed.append(next_state(rule, passed[-1], normal(1, SIZE, seed=10 + step).float(), 0.1))
    return passed


def test_what_is_held_is_never_written_over() -> None:
    expected = states(6)
    with reused():
        found = states(6)
        kept = found[2].theta[0, 5:9]  # a view alone
        wanted = kept.clone()
        assert all(torch.equal(a.theta, b.theta) for a, b in zip(found, expected, strict=True))
        found.clear()
        states(6)
        assert torch.equal(kept, wanted)
    assert torch.equal(kept, wanted)


def test_memory_that_nothing_holds_serves_again() -> None:
    with reused():
        first = lent(1000)
        place = first.data_ptr()
        other = lent(1000)
        assert other.data_ptr() != place
        del first
        assert lent(2000).data_ptr() != place
        assert lent(1000).data_ptr() == place


def test_memory_outlives_the_context_in_which_it_was_lent() -> None:
    with reused():
        held = lent(1000).fill_(7)
    with reused():
        assert lent(1000).data_ptr() != held.data_ptr()
    del held
    gc.collect()
    assert lent(1000).shape == (1000,)


def test_no_more_than_some_is_kept() -> None:
    with reused():
        many = [lent(1000) for _ in range(2 * MOST)]
        places = {one.data_ptr() for one in many}
        many.clear()
        again = [lent(1000) for _ in range(MOST)]
        assert {one.data_ptr() for one in again} <= places


def test_vectors_begin_where_torch_has_them_begin() -> None:
    assert lent(1000).data_ptr() % 64 == 0

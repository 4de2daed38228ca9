"""Inputs of all kinds for the front door, and what must hold of each: an answer, or an error that is raised on purpose."""

from __future__ import annotations

import datetime
import json
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import fut
from estimators.orders.order import NAMES, named_order
from fut.data.labels import checked_labels
from fut.methods.settings import parse_config
from fut.orders.editing import EDITS, Edit, edited
from fut.orders.parsing import listed_order
from fut.questions.whatif.query import read_query
from storage import FORMAT, ContentError, DamagedError, IdentityError, Manifest, MissingError, parse_json, read_json

LONGEST = 3000
"""Characters of a message at most."""


@dataclass(frozen=True)
class Property:
    """A kind of input, and what is done with each.

    Args:
        inputs: what is drawn.
        ask: input -> anything, or an error of `fut.EXPECTED`.
    """

    inputs: st.SearchStrategy[Any]
    ask: Callable[[Any], object]

    def check(self, value: Any) -> None:
        """Ask; any error that is not raised on purpose goes through."""
        try:
            self.ask(value)
        except fut.EXPECTED as error:
            if not str(error) or len(str(error)) > LONGEST:
                raise AssertionError(f"expected a message of a few lines, got {str(error)[:400]!r}") from error


REFERENCE = fut.Order.of(range(8))

big = st.integers(-(10**25), 10**25)
numbers = st.one_of(st.integers(-3, 12), big, st.floats(), st.builds(pow, st.just(10), st.just(5000)))
words = st.one_of(st.sampled_from(NAMES.replace(",", " ").replace(";", " ").split()), st.text(max_size=12))
order_texts = st.one_of(
    st.text(max_size=30),
    st.lists(numbers, max_size=9).map(lambda n: ",".join(_shown(x) for x in n)),
    st.tuples(
        st.sampled_from([*EDITS, "random", "random-steps", "identity", "reverse", "sort"]),
        st.lists(numbers, max_size=4),
    ).map(lambda pair: f"{pair[0]}:{','.join(_shown(x) for x in pair[1])}"),
    st.tuples(words, words, words).map(":".join),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8))
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=12,
)
odd = st.one_of(
    scalars,
    st.integers(-3, 12).map(np.int64),
    st.integers(0, 12).map(np.uint8),
    st.integers(-3, 12).map(torch.tensor),
    st.lists(st.integers(0, 9), max_size=3).map(torch.tensor),
    st.lists(st.integers(0, 9), max_size=3).map(np.array),
    st.lists(st.floats(), max_size=3).map(np.array),
    st.sets(st.integers(0, 9), max_size=3),
    st.complex_numbers(),
    st.fractions(),
    st.decimals(),
    st.binary(max_size=4),
    st.just(np.ma.masked),
    st.just(np.ma.array([1, 2], mask=[True, False])),
    st.integers(0, 9).map(lambda n: np.timedelta64(n, "D")),
    st.integers(0, 9).map(lambda n: datetime.timedelta(n)),
    st.just(object()),
    st.just(int),
    st.dictionaries(st.integers(0, 9), st.integers(0, 9), max_size=2),
    st.integers(0, 5).map(range),
    st.just(Fraction(3)),
)
orders = st.one_of(odd, st.lists(odd, max_size=9), st.lists(st.lists(odd, max_size=3), max_size=4), st.just(range(8)))
entries = st.fixed_dictionaries({"items": st.lists(odd, max_size=3)}, optional={"weights": st.lists(odd, max_size=3)})


def _shown(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python writes
        return "9" * 5000


def _text_to_order(text: str) -> None:
    listed = listed_order(text, REFERENCE)
    order = named_order(text, REFERENCE) if listed is None else fut.Order.of(listed)
    _sound(order.check(8, 8, partial=True))


def _sound(order: fut.Order) -> None:
    """Plain numbers alone, which can be written and read again."""
    for step in order.steps:
        if any(type(item) is not int for item in step):
            raise AssertionError(f"expected plain item numbers, got {step}")
    if fut.Order.of(json.loads(json.dumps(order.tolist()))) != order:
        raise AssertionError(f"expected the order to survive JSON, got another: {order}")
    _ = order.digest, order.multiset_digest


def _edit(asked: tuple[str, list[Any]]) -> None:
    name, arguments = asked
    if name == "without":
        _sound(REFERENCE.without(arguments))
    else:
        count = EDITS[name] or 1
        given = (arguments * 2 + [0, 0])[:count]
        _sound(getattr(REFERENCE, name)(*given))


def _whole_edit(written: Any) -> None:
    _sound(edited(REFERENCE, [Edit.of(written)], lambda order, key: order))


@cache
def _place() -> Path:
    return Path(tempfile.mkdtemp(prefix="fut-fuzz-"))


def _document(content: bytes) -> None:
    """A file of any bytes is JSON, or damaged; as a manifest it is refused."""
    file = _place() / "file.json"
    file.write_bytes(content)
    with suppress(DamagedError):
        read_json(file)
    try:
        Manifest.read(file)
    except (DamagedError, IdentityError, MissingError):
        return
    raise AssertionError(f"expected no manifest in {content[:80]!r}, got one")


def _values(content: bytes) -> None:
    try:
        value = parse_json(content)
    except ValueError:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise AssertionError(f"expected finite numbers, got {value}")


def _settings(values: dict[str, Any]) -> None:
    config = parse_config(values)
    config.toml().encode()
    _ = config.steps, config.training()


def _jsons(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except ValueError:
        return b"9" * 5000


SECTIONS = {name: sorted(type(getattr(fut.Config(), name)).model_fields) for name in fut.Config.model_fields}
settings_tables = st.fixed_dictionaries(
    {},
    optional={
        name: st.fixed_dictionaries({}, optional=dict.fromkeys(keys, documents)) for name, keys in SECTIONS.items()
    },
)
overrides = st.lists(
    st.tuples(
        st.sampled_from([f"{s}.{k}" for s, keys in SECTIONS.items() for k in keys]),
        st.one_of(order_texts, documents.map(_shown)),
    ).map("=".join),
    max_size=3,
)

KEYS = ("config", "data", "model", "order")
signed_manifests = st.fixed_dictionaries(
    {
        "identity": st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, documents)),
        "environment": st.fixed_dictionaries({}, optional={"config.toml": documents, "model": documents}),
    }
)


def _signed(content: dict[str, Any]) -> None:
    """A run directory whose manifest has a right digest over anything: it is refused."""
    run = _place() / "run"
    run.mkdir(exist_ok=True)
    try:
        Manifest("run", FORMAT, content["identity"], content["environment"]).write(run / "manifest.json")
    except (IdentityError, ContentError):  # no JSON holds it
        return
    try:
        fut.open(run, device="cpu")
    except fut.EXPECTED:
        return
    raise AssertionError(f"expected no run, got one: {content}")


PROPERTIES: dict[str, Property] = {
    "order texts": Property(order_texts, _text_to_order),
    "orders": Property(orders, lambda given: _sound(fut.Order.of(given))),
    "weighted orders": Property(st.lists(entries, max_size=4), lambda given: _sound(fut.Order.of(given))),
    "edits by method": Property(
        st.tuples(st.sampled_from([e for e in EDITS if e != "sort"]), st.lists(odd, min_size=1, max_size=3)), _edit
    ),
    "edits as written": Property(
        st.one_of(odd, order_texts, st.tuples(st.sampled_from(list(EDITS)), odd, odd), st.lists(odd, max_size=3)),
        _whole_edit,
    ),
    "query lines": Property(st.one_of(order_texts, documents.map(lambda d: _jsons(d).decode())), read_query),
    "files of JSON": Property(st.one_of(st.binary(max_size=60), documents.map(_jsons)), _document),
    "signed manifests": Property(signed_manifests, _signed),
    "JSON texts": Property(st.one_of(st.binary(max_size=60), documents.map(_jsons)), _values),
    "settings": Property(settings_tables, _settings),
    "overrides": Property(overrides, lambda texts: _settings(fut.load_config(None, texts).model_dump())),
    "labels": Property(
        st.one_of(odd, st.lists(odd, max_size=9), st.dictionaries(st.text(max_size=3), odd, max_size=4)),
        lambda g: checked_labels(g, 8),
    ),
}
"""By name."""

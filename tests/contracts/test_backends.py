"""Every registered backend, and the twin in memory, keeps the published contract; the contract sees backends that break it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_terms import MemoryTerms

from storage import BACKENDS, Backend, Block, IdentityError, TermStore, read_json
from storage.contract import (
    CHECKS,
    IDENTITY,
    ITEM_BLOCK,
    SPECS,
    ContractError,
    check_backend,
    check_reopening,
    fill,
    new_store,
)

Check = Callable[[Any], None]


@pytest.fixture(params=[*BACKENDS, "MemoryTerms"])
def terms(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryTerms | TermStore:
    if request.param == "MemoryTerms":
        return MemoryTerms(SPECS, IDENTITY, ITEM_BLOCK)
    return new_store(request.param, tmp_path / "terms")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_store_keeps_the_contract(check: Check, terms: MemoryTerms | TermStore) -> None:
    check(terms)


@pytest.mark.parametrize("name", [name for name, backend in BACKENDS.items() if backend.durable])
def test_every_durable_backend_is_opened_again(name: str, tmp_path: Path) -> None:
    check_reopening(new_store(name, tmp_path / "terms"))


class Arrays(Backend):
    """Blocks in a dictionary: sound, but for what the classes below change."""

    name = "arrays"
    durable = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.held: dict[tuple[str, Block], np.ndarray] = {}

    def completed(self, name: str) -> set[Block]:
        return {block for term, block in self.held if term == name}

    def write(self, name: str, block: Block, stored: np.ndarray) -> None:
        self.held[name, block] = stored.copy()

    def read(self, name: str, block: Block) -> np.ndarray:
        return self.held[name, block]

    def delete(self, name: str, block: Block) -> None:
        self.held.pop((name, block), None)


class Forgetful(Arrays):
    durable = True


class Aliasing(Arrays):
    def write(self, name: str, block: Block, stored: np.ndarray) -> None:
        self.held[name, block] = stored


class Rounding(Arrays):
    def write(self, name: str, block: Block, stored: np.ndarray) -> None:
        self.held[name, block] = stored.astype(np.float32) if stored.dtype == np.float64 else stored.copy()


class Keeping(Arrays):
    def delete(self, name: str, block: Block) -> None:
        pass


class Sweeping(Arrays):
    def delete(self, name: str, block: Block) -> None:
        self.held = {key: array for key, array in self.held.items() if key[1] != block}


class Once(Arrays):
    def write(self, name: str, block: Block, stored: np.ndarray) -> None:
        self.held.setdefault((name, block), stored.copy())


class Steps(Arrays):
    """Which takes a whole step for complete once a block of it is."""

    def completed(self, name: str) -> set[Block]:
        steps = {block.step for block in super().completed(name)}
        return {block for block in self.layout.blocks(name) if block.step in steps}


class Disagreeing(Arrays):
    def has(self, name: str, block: Block) -> bool:
        return True


BROKEN: list[tuple[type[Backend], str]] = [
    (Forgetful, "missing, opened again"),
    (Aliasing, "expected what was written"),
    (Rounding, "expected what was written"),
    (Keeping, "missing terms after one was discarded"),
    (Sweeping, "missing terms after one was discarded"),
    (Once, "expected what was written"),
    (Steps, "expected a MissingError that says .*items 0 to 3.*, got KeyError"),
    (Disagreeing, "expected a MissingError that says .*items 0 to 3.*, got KeyError"),
]


@pytest.mark.parametrize(("backend", "says"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_backend_is_seen(
    backend: type[Backend], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "arrays", backend)
    with pytest.raises(ContractError, match=says):
        check_backend("arrays", tmp_path)


def test_a_sound_one_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "arrays", Arrays)
    check_backend("arrays", tmp_path)


def test_a_manifest_says_where_blocks_lie_and_nothing_of_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "arrays", Arrays)
    other, usual = new_store("arrays", tmp_path / "other"), new_store("zarr", tmp_path / "usual")
    assert (other.backend, usual.backend) == ("arrays", "zarr")
    assert TermStore.open(tmp_path / "other").backend == "arrays"
    assert read_json(tmp_path / "other" / "manifest.json")["identity"]["backend"] == "arrays"
    assert sorted(read_json(tmp_path / "usual" / "manifest.json")["identity"]) == ["identity", "layout"]
    fill(other, "gradient", 0)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["manifest.json"]


def test_a_store_is_not_taken_for_one_in_another_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(BACKENDS, "arrays", Arrays)
        new_store("arrays", tmp_path)
        with pytest.raises(IdentityError, match='backend: expected "zarr", found "arrays"'):
            new_store("zarr", tmp_path)
    with pytest.raises(IdentityError, match="expected one of the backends zarr; got 'arrays'"):
        TermStore.open(tmp_path)
    with pytest.raises(IdentityError, match="expected one of the backends zarr; got 'cloud'"):
        new_store("cloud", tmp_path / "new")
    assert not (tmp_path / "new").exists()

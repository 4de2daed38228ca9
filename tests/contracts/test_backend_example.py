"""The worked example of a storage backend, as it stands in CONTRIBUTING.md: it keeps the contract and holds a store's terms."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import ROOT, module_of

from storage import BACKENDS, Backend
from storage.contract import check_backend, fill, new_store


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Backend]:
    """The example's class, from a module of its own, registered."""
    module = module_of(ROOT / "CONTRIBUTING.md", "## Add a backend", "compressed_blocks", tmp_path, monkeypatch)
    made: type[Backend] = module.Compressed
    monkeypatch.setitem(BACKENDS, made.name, made)
    return made


def test_the_example_keeps_the_contract(backend: type[Backend], tmp_path: Path) -> None:
    check_backend(backend.name, tmp_path / "stores")


def test_blocks_lie_in_it_and_nowhere_else(backend: type[Backend], tmp_path: Path) -> None:
    store = new_store(backend.name, tmp_path / "store")
    fill(store, "half", 0)
    assert store.backend == "compressed"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["manifest.json"]

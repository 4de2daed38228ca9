"""What is refused before there is a store: specs and layouts. The contract of stores is in `tests/contracts/test_backends.py`."""

import pytest
from memory_terms import MemoryTerms

from storage import ContentError, TermSpec, TermStore
from storage.contract import SPECS


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("a/b", (1, 1, 1), "float32"),
        ("", (1, 1, 1), "float32"),
        ("zarr.json", (1, 1, 1), "float32"),
        ("a", (1, 1), "float32"),
        ("a", (1, 0, 1), "float32"),
        ("a", (1, 1.0, 1), "float32"),
        ("a", (1, 1, 1), "float16"),
    ],
)
def test_a_spec_is_checked(name, shape, dtype):
    with pytest.raises(ContentError):
        TermSpec(name, shape, dtype)


@pytest.mark.parametrize(("specs", "item_block"), [([], 4), ([*SPECS, SPECS[0]], 4), (SPECS, 0), (SPECS, 2.0)])
def test_a_layout_is_checked(tmp_path, specs, item_block):
    for make in (MemoryTerms, lambda *arguments: TermStore.create_or_open(tmp_path / "terms", *arguments)):
        with pytest.raises(ContentError):
            make(specs, {}, item_block)
    assert not (tmp_path / "terms").exists()

"""One contract for every store of terms: on disk and in memory."""

import numpy as np
import pytest

from storage import (
    Block,
    ContentError,
    MemoryTerms,
    MissingError,
    Terms,
    TermSpec,
    TermStore,
    from_bfloat16,
    to_bfloat16,
)

IDENTITY = {"seed": 3, "rule": {"name": "adam", "betas": (0.9, 0.999)}}
SPECS = [
    TermSpec("gradient", (3, 10, 5), "float32"),
    TermSpec("update", (2, 7, 4), "float64"),
    TermSpec("half", (2, 10, 5), "bfloat16"),
]


@pytest.fixture(params=["disk", "memory"])
def terms(request, tmp_path) -> Terms:
    if request.param == "memory":
        return MemoryTerms(SPECS, IDENTITY, 4)
    return TermStore.create_or_open(tmp_path / "terms", SPECS, IDENTITY, 4)


def values(name: str, block: Block) -> np.ndarray:
    spec = next(spec for spec in SPECS if spec.name == name)
    rng = np.random.default_rng([len(name), block.step, block.first])
    return rng.normal(size=(block.last - block.first, spec.shape[2])).astype(spec.read_dtype)


def fill(terms: Terms, name: str, step: int) -> np.ndarray:
    blocks = [block for block in terms.blocks(name) if block.step == step]
    for block in blocks:
        terms.write(block, {name: values(name, block)})
    return np.concatenate([values(name, block) for block in blocks])


def test_it_says_what_it_holds(terms):
    assert terms.specs == tuple(sorted(SPECS, key=lambda spec: spec.name))
    assert terms.identity == {"seed": 3, "rule": {"name": "adam", "betas": [0.9, 0.999]}}
    assert terms.item_block == 4


def test_blocks_cover_every_item_once(terms):
    assert terms.blocks("update") == [Block(0, 0, 4), Block(0, 4, 7), Block(1, 0, 4), Block(1, 4, 7)]
    for spec in SPECS:
        covered = [(block.step, item) for block in terms.blocks(spec.name) for item in range(block.first, block.last)]
        assert covered == [(step, item) for step in range(spec.shape[0]) for item in range(spec.shape[1])]


def test_what_is_written_is_read(terms):
    for name in ("gradient", "update"):
        written = fill(terms, name, 1)
        read = terms.read(name, 1)
        assert (read.dtype, read.shape) == (written.dtype, written.shape)
        np.testing.assert_array_equal(read, written)


def test_bfloat16_is_rounded_and_comes_back_as_float32(terms):
    written = fill(terms, "half", 1)
    read = terms.read("half", 1)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, from_bfloat16(to_bfloat16(written)))
    assert not np.array_equal(read, written)


@pytest.mark.parametrize("name", ["gradient", "half"])
@pytest.mark.parametrize("items", [[0], [9, 0, 9, 4], range(10), np.array([8, 3], np.int32), []])
def test_read_items_keeps_order_and_repetition(terms, name, items):
    fill(terms, name, 0)
    read = terms.read_items(name, 0, items)
    np.testing.assert_array_equal(read, terms.read(name, 0)[np.array(items, int)])
    assert (read.dtype, read.shape) == (np.float32, (len(items), 5))


def test_read_items_needs_only_its_own_blocks(terms):
    block = Block(1, 4, 8)
    terms.write(block, {"gradient": values("gradient", block)})
    np.testing.assert_array_equal(terms.read_items("gradient", 1, [7, 5]), values("gradient", block)[[3, 1]])
    with pytest.raises(MissingError, match="items 0 to 3"):
        terms.read_items("gradient", 1, [5, 3])


def test_an_incomplete_block_is_named_with_the_command_to_run(terms):
    terms.write(Block(1, 0, 4), {"gradient": values("gradient", Block(1, 0, 4))})
    with pytest.raises(MissingError, match=r"gradient of checkpoint index 1, items 4 to 7.*`fut cache RUN`"):
        terms.read("gradient", 1)


def test_missing_lists_blocks_for_which_any_term_is_missing(terms):
    block = Block(0, 0, 4)
    assert terms.missing(["gradient"]) == terms.blocks("gradient")
    assert terms.missing() == sorted({block for spec in SPECS for block in terms.blocks(spec.name)})
    terms.write(block, {"gradient": values("gradient", block)})
    assert block not in terms.missing(["gradient"])
    assert block in terms.missing(["gradient", "half"])
    assert terms.missing_names(block) == ["half", "update"]
    assert terms.missing_names(block, ["gradient", "half"]) == ["half"]
    assert terms.missing_names(Block(2, 0, 4)) == ["gradient"]
    assert terms.progress() == (1, 9 + 4 + 6)


def test_all_written_is_nothing_missing(terms):
    for spec in SPECS:
        for step in range(spec.shape[0]):
            fill(terms, spec.name, step)
    assert terms.missing() == []
    assert terms.progress() == (19, 19)


def test_discarded_blocks_are_missing_again(terms):
    fill(terms, "gradient", 0)
    fill(terms, "half", 0)
    terms.discard(Block(0, 4, 8), ["gradient"])
    assert terms.missing_names(Block(0, 4, 8), ["gradient", "half"]) == ["gradient"]
    with pytest.raises(MissingError):
        terms.read("gradient", 0)
    terms.discard(Block(0, 4, 8))
    assert terms.missing_names(Block(0, 4, 8)) == ["gradient", "half"]
    terms.discard(Block(0, 4, 8))


def test_a_block_can_be_written_again(terms):
    fill(terms, "update", 0)
    block = Block(0, 4, 7)
    terms.write(block, {"update": np.full((3, 4), 7.0)})
    np.testing.assert_array_equal(terms.read("update", 0)[4:], np.full((3, 4), 7.0))
    np.testing.assert_array_equal(terms.read("update", 0)[:4], values("update", Block(0, 0, 4)))


def test_the_store_keeps_its_own_copy(terms):
    block = Block(0, 0, 4)
    given = values("gradient", block)
    terms.write(block, {"gradient": given})
    given[:] = 0
    read = terms.read_items("gradient", 0, range(4))
    np.testing.assert_array_equal(read, values("gradient", block))
    read[:] = 0
    np.testing.assert_array_equal(terms.read_items("gradient", 0, range(4)), values("gradient", block))


@pytest.mark.parametrize(
    ("name", "block", "array"),
    [
        ("other", Block(0, 0, 4), np.zeros((4, 5), np.float32)),
        ("gradient", Block(0, 1, 5), np.zeros((4, 5), np.float32)),
        ("gradient", Block(3, 0, 4), np.zeros((4, 5), np.float32)),
        ("gradient", Block(-1, 0, 4), np.zeros((4, 5), np.float32)),
        ("gradient", Block(0, 8, 12), np.zeros((4, 5), np.float32)),
        ("gradient", Block(0, 0, 4), np.zeros((4, 4), np.float32)),
        ("gradient", Block(0, 0, 4), np.zeros((3, 5), np.float32)),
        ("gradient", Block(0, 0, 4), np.zeros((4, 5), np.float64)),
        ("gradient", Block(0, 0, 4), np.zeros((4, 5), ">f4")),
        ("update", Block(0, 0, 4), np.zeros((4, 4), np.float32)),
        ("half", Block(0, 0, 4), np.zeros((4, 5), np.uint16)),
        ("gradient", Block(0, 0, 4), [[0.0] * 5] * 4),
    ],
)
def test_what_does_not_fit_is_refused(terms, name, block, array):
    with pytest.raises(ContentError, match=r"expected .*; got .*; "):
        terms.write(block, {name: array})
    assert terms.progress()[0] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["gradient", "update", "half"])
def test_values_that_are_not_finite_are_refused_before_anything_is_written(terms, name, bad):
    block = Block(0, 0, 4)
    arrays = {spec.name: values(spec.name, block) for spec in SPECS}
    arrays[name][2, 1] = bad
    with pytest.raises(ValueError, match=rf"finite values for {name} of .*item 2, coordinate 1"):
        terms.write(block, arrays)
    assert terms.progress()[0] == 0


def test_a_value_that_overflows_bfloat16_is_refused(terms):
    array = np.full((4, 5), np.finfo(np.float32).max)
    terms.write(Block(0, 0, 4), {"gradient": array})
    with pytest.raises(ContentError, match="bfloat16"):
        terms.write(Block(0, 0, 4), {"half": array})


@pytest.mark.parametrize("step", [-1, 3])
def test_a_checkpoint_index_outside_is_refused(terms, step):
    with pytest.raises(ContentError, match="from 0 to 2"):
        terms.read("gradient", step)


@pytest.mark.parametrize("items", [[-1], [10], [0.5], [[0, 1]], [True, False]])
def test_items_outside_are_refused(terms, items):
    fill(terms, "gradient", 0)
    with pytest.raises(ContentError, match="from 0 to 9"):
        terms.read_items("gradient", 0, items)


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


@pytest.mark.parametrize(("specs", "item_block"), [([], 4), (SPECS + SPECS[:1], 4), (SPECS, 0), (SPECS, 2.0)])
def test_a_layout_is_checked(tmp_path, specs, item_block):
    for make in (MemoryTerms, lambda *arguments: TermStore.create_or_open(tmp_path / "terms", *arguments)):
        with pytest.raises(ContentError):
            make(specs, {}, item_block)
    assert not (tmp_path / "terms").exists()

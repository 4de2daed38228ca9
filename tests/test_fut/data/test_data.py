"""Items: disjoint, hashed by content, from files, directories and tokenizers."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import small_config

import fut.data.text
from fut.data.dataset import Dataset
from fut.data.text import build_dataset, detokenize, read_text, read_texts
from fut.errors import DataError, UsageError
from fut.models.objective import Item, item_digest


def numbers(count: int) -> str:
    """A text in which every word of ten letters occurs once, so that a segment is known by its words."""
    return "".join(f"{i:09d} " for i in range(count))


@pytest.fixture
def counted(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(numbers(2000))
    return str(tmp_path / "text.txt")


def rows(items: tuple[Item, ...]) -> list[str]:
    return [bytes(row.tolist()).decode() for item in items for row in item[0]]


def test_items_are_disjoint_from_each_other_and_from_the_probe(counted: str) -> None:
    data = build_dataset(small_config(data={"text": counted, "context": 29, "items": 20, "batch": 8, "probe": 40}))
    items, probe = rows(data.items), rows(data.probe)
    assert (len(items), len(probe)) == (160, 40)
    assert len({*items, *probe}) == 200, "every segment of this text is unique, so a repeated one was dealt twice"
    assert all(len(row) == 30 for row in items)
    assert max(int(r.split()[1]) for r in items) < min(int(r.split()[1]) for r in probe), "the probe comes from the end"


def test_the_seed_decides_the_items_and_nothing_else_does(counted: str) -> None:
    first, again, other = (
        build_dataset(small_config(data={"text": counted, "seed": seed})).identity() for seed in (0, 0, 1)
    )
    assert first == again
    assert first["items"] != other["items"]
    assert first["probe"] != other["probe"]


def test_content_hashes_follow_the_content() -> None:
    a, b = torch.arange(6).view(2, 3), torch.arange(6).view(2, 3)
    assert item_digest((a,)) == item_digest((b,))
    b[1, 2] = 9
    different = [(a,), (b,), (a.view(3, 2),), (a.int(),), (a, a), (a.T.contiguous(),)]
    assert len({item_digest(item) for item in different}) == len(different)


def test_heterogeneous_items_are_zones_in_order(counted: str) -> None:
    sections = {"text": counted, "context": 29, "items": 10, "batch": 8}
    zones, mixed = (
        [[int(r.split()[1]) for r in rows((item,))] for item in build_dataset(small_config(data=d)).items]
        for d in (sections | {"heterogeneous": True}, sections)
    )
    assert all(max(a) < min(b) for a, b in pairwise(zones))
    assert not all(max(a) < min(b) for a, b in pairwise(mixed))


def test_a_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, text in {"b/x.txt": "second", "a.txt": "first", "c.txt": "third"}.items():
        (tmp_path / name).write_text(text)
    assert read_text(str(tmp_path)) == "first\nsecond\nthird"


def test_without_a_text_there_is_cpythons_own() -> None:
    text = read_text("")
    assert 'The "if" statement' in text
    assert len(text) > 400_000


def test_unreadable_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got a directory without any"):
        read_text(str(tmp_path))
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        read_text(str(tmp_path / "nowhere.txt"))
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "wrong.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"expected UTF-8 in .*wrong\.txt"):
        read_text(str(tmp_path))


def test_line_ends_and_bytes_of_names_stay_as_they_are(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    (Path(folder) / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    (Path(folder) / ".DS_Store").write_bytes(b"\0\1Bud1\xff\xfe")
    (Path(folder) / ".hidden").mkdir()
    (Path(folder) / ".hidden" / "b.txt").write_text("no")
    written = small_config(data={"text": folder}).data.text
    assert written.endswith("caf\\xe9"), "as a configuration can hold it"
    for source in (folder, written):
        assert read_texts(source) == [("a.txt", "one\r\ntwo\rthree\n")]


def test_a_short_text_gives_both_numbers_and_the_first_is_enough(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("x" * 300)
    config = small_config(data={"text": str(tmp_path / "t.txt"), "items": 20})
    with pytest.raises(DataError, match=r"at least (\d+) tokens.*got 300; give a longer --text") as caught:
        build_dataset(config)
    enough = int(str(caught.value).split("at least ")[1].split()[0])
    (tmp_path / "t.txt").write_text("x" * enough)
    assert len(build_dataset(config).items) == 20


def words(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def test_any_tokenizer_by_hook(counted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fut.data.text, "the_words", words, raising=False)
    sections = {"text": counted, "tokenizer": "fut.data.text:the_words", "vocabulary": 2000}
    config = small_config(data=sections)
    data = build_dataset(config)
    assert torch.equal(data.items[0][0].diff(dim=1), torch.ones(2, 12, dtype=torch.long)), "words follow each other"
    assert detokenize(data.items[0], config.data)[0].split() == [str(i) for i in data.items[0][0][0].tolist()]
    with pytest.raises(DataError, match=r"expected token ids 0\.\.255, got 0\.\.1999; set data\.vocabulary"):
        build_dataset(small_config(data=sections | {"vocabulary": 256}))
    with pytest.raises(UsageError, match="expected an importable"):
        build_dataset(small_config(data=sections | {"tokenizer": "fut.data.text:nothing"}))


def text_pieces(text: str) -> list[str]:
    return text.split()


def fractions(text: str) -> list[float]:
    return [float(word) / 2 for word in text.split()]


@pytest.mark.parametrize("hook", [text_pieces, fractions, len])
def test_a_tokenizer_that_gives_no_ids_is_refused(
    counted: str, monkeypatch: pytest.MonkeyPatch, hook: Callable[[str], object]
) -> None:
    monkeypatch.setattr(fut.data.text, "the_hook", hook, raising=False)
    with pytest.raises(
        DataError, match=r"data\.tokenizer: expected a flat list of whole numbers .*got .* return a list"
    ):
        build_dataset(small_config(data={"text": counted, "tokenizer": "fut.data.text:the_hook"}))


def test_items_that_are_no_bytes_are_shown_as_numbers() -> None:
    config = small_config().data
    assert detokenize((torch.tensor([[1000, 2]]),), config) == ["1000 2"]
    assert detokenize((torch.tensor([[0.5, 2.0]]),), config) == ["0.5 2.0"]
    assert detokenize((torch.tensor([[104, 105]]),), config) == ["hi"]


@pytest.mark.parametrize(
    ("items", "probe", "message"),
    [
        ((), ((torch.ones(1),),), "at least one of `items`"),
        (((torch.ones(1),),), (), "at least one of `probe`"),
        (("text",), ((torch.ones(1),),), "expected items as"),
        (((torch.ones(1),),), ((torch.ones(1),), (torch.ones(2),)), "probe items of one shape"),
    ],
)
def test_wrong_data_is_refused(items: tuple[Any, ...], probe: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(items, probe)


def test_the_probe_is_cut_evenly() -> None:
    data = build_dataset(small_config(data={"probe": 30, "batch": 4}))
    assert np.unique([len(item[0]) for item in data.probe]).tolist() == [15]

"""The page on banks in several processes says what its record says."""

from __future__ import annotations

import json
from pathlib import Path

from bank import INLINE, PARTS, RAY, THREADS, WAYS, table

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PAGE = (BENCHMARKS / "pages" / "bank.md").read_text(encoding="utf-8")
RECORD = json.loads((BENCHMARKS / "records" / "bank.json").read_text(encoding="utf-8"))
ROWS = RECORD["results"]


def test_the_table_is_made_from_the_record() -> None:
    for line in table(ROWS):
        assert line in PAGE


def test_ways_were_run_as_often_as_it_says_and_left_the_same_bits_with_the_same_threads() -> None:
    repeats = {way: sorted(row["repeat"] for row in ROWS if row["way"] == way) for way in WAYS}
    assert repeats[INLINE] == repeats[RAY] == repeats[PARTS]
    assert f"n = {len(repeats[INLINE])}, two threads n = {len(repeats[THREADS])}, by turns" in " ".join(PAGE.split())
    bits = {way: {row["endpoints"] for row in ROWS if row["way"] == way} for way in WAYS}
    assert bits[INLINE] == bits[RAY] == bits[PARTS]
    assert len(bits[INLINE]) == len(bits[THREADS]) == 1
    assert {row["orders"] for row in ROWS} == {32}


def middle(line: str, column: int) -> str:
    """The median of a cell."""
    return line.split("|")[column].split("[")[0].strip()


def test_the_answer_of_the_page_and_of_the_index_is_that_of_the_table() -> None:
    lines = dict(zip(WAYS, table(ROWS), strict=True))
    whole, alone = ({way: middle(lines[way], column) for way in (RAY, PARTS)} for column in (4, 7))
    said = f"{whole[RAY]} times as fast with two workers of Ray, {whole[PARTS]} times with two `--part` processes"
    index = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    for text in (PAGE, index):
        words = " ".join(text.split())
        assert said in words
        assert f"trainings alone {'are ' if text is PAGE else ''}{alone[RAY]} and {alone[PARTS]} times" in words


def test_what_the_page_says_of_a_busy_machine_is_of_its_record() -> None:
    busy = json.loads((BENCHMARKS / "records" / "bank-busy.json").read_text(encoding="utf-8"))["results"]
    lines = dict(zip(WAYS, table(busy), strict=True))
    (whole, alone), words = ([[middle(lines[w], c) for w in (RAY, PARTS)] for c in (4, 7)]), " ".join(PAGE.split())
    assert f"{whole[0]} times as fast with Ray and {whole[1]} times with `--part`" in words
    assert f"the trainings alone {alone[0]} and {alone[1]} times" in words
    assert f"two threads took {middle(lines[THREADS], 3)} s in their one turn" in words

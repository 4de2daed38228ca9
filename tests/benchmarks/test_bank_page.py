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
    assert f"n = {len(repeats[INLINE])}, two threads n = {len(repeats[THREADS])}, by turns" in PAGE
    bits = {way: {row["endpoints"] for row in ROWS if row["way"] == way} for way in WAYS}
    assert bits[INLINE] == bits[RAY] == bits[PARTS]
    assert len(bits[INLINE]) == len(bits[THREADS]) == 1
    assert {row["orders"] for row in ROWS} == {32}


def test_the_answer_of_the_page_and_of_the_index_is_that_of_the_table() -> None:
    faster = {way: line.split("|")[3].split("[")[0].strip() for way, line in zip(WAYS, table(ROWS), strict=True)}
    said = f"{faster[RAY]} times as fast with two workers of Ray, {faster[PARTS]} times with two `--part` processes"
    assert said in " ".join(PAGE.split())
    assert said in " ".join((BENCHMARKS / "README.md").read_text(encoding="utf-8").split())

"""Every name in the list of tiers is of tests that are there."""

from __future__ import annotations

from pathlib import Path

from tiers import TESTS, TIERS, tier_of


def test_every_listed_name_is_of_tests_that_are_there() -> None:
    there = {part for file in TESTS.rglob("test_*.py") for part in file.relative_to(TESTS).with_suffix("").parts}
    assert {name for names in TIERS.values() for name in names} <= there


def test_a_test_has_the_last_tier_that_names_it_and_none_that_trains_is_fast() -> None:
    def tier(path: str, *fixtures: str) -> str:
        return tier_of(TESTS / Path(path), {*fixtures})

    assert tier("test_storage/test_manifest.py", "tmp_path") == "fast"
    assert tier("test_storage/test_terms_kill.py") == "durability"
    assert tier("test_fut/report/test_report_page.py", "browser") == "browser"
    assert (
        tier("test_fut/data/test_data.py", "small_run")
        == tier("test_fut/questions/accuracy/test_verify.py")
        == "integration"
    )

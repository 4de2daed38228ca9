"""Answers are kept and read in one place, by kind and key, with a schema number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fut.artifacts.archive import SCHEMA, RunArchive
from storage import DamagedError, IdentityError


class Said:
    """An answer."""

    def __init__(self, **content: Any) -> None:
        self.content = content

    def as_dict(self) -> dict[str, Any]:
        return self.content


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    archive = RunArchive(tmp_path, "abc")
    archive.keep("whatif", "b", Said(x=2))
    archive.keep("whatif", "a", Said(x=1), basis={"m": "d"})
    archive.keep("orders", "3-seed-0", Said(x=3))
    assert list(archive.read("whatif")) == [
        {"question": "whatif", "x": 1, "basis": {"m": "d"}},
        {"question": "whatif", "x": 2},
    ]
    assert archive.find("orders", "3-seed-0") == {"question": "orders", "x": 3}
    assert archive.find("orders", "4-seed-0") is None
    assert (tmp_path / "verification" / "orders-3-seed-0.json").exists()
    assert json.loads((tmp_path / "answers" / "whatif-a.json").read_text())["schema"] == SCHEMA
    archive.keep("whatif", "a", Said(x=4))
    assert archive.find("whatif", "a") == {"question": "whatif", "x": 4}, "the later one"


def test_a_key_may_be_what_was_asked(tmp_path: Path) -> None:
    archive = RunArchive(tmp_path, "abc")
    archive.keep("domains", [{"a": [1]}, 3], Said(x=1))
    assert archive.find("domains", [{"a": [1]}, 3]) == {"question": "domains", "x": 1}
    assert archive.find("domains", [{"a": [1]}, 4]) is None


@pytest.mark.parametrize("content", [{"x": 1}, {"x": 1, "schema": SCHEMA + 1}, [1]])
def test_answers_of_another_schema_are_not_read(tmp_path: Path, content: object) -> None:
    archive = RunArchive(tmp_path, "abc")
    archive.keep("whatif", "a", Said())
    archive.file("whatif", "a").write_text(json.dumps(content))
    assert archive.find("whatif", "a") is None
    assert list(archive.read("whatif")) == []


def test_a_damaged_answer_is_named(tmp_path: Path) -> None:
    archive = RunArchive(tmp_path, "abc")
    archive.keep("whatif", "a", Said())
    archive.file("whatif", "a").write_text("{")
    with pytest.raises(DamagedError, match="whatif-a"):
        archive.find("whatif", "a")


def test_an_answer_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    RunArchive(tmp_path, "other").keep("whatif", "a", Said())
    archive = RunArchive(tmp_path, "abc")
    with pytest.raises(IdentityError, match=r"whatif-a.json: expected a file of this run \(abc…\), got one of another"):
        archive.find("whatif", "a")
    with pytest.raises(IdentityError, match="whatif-a"):
        list(archive.read("whatif"))

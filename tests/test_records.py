"""Records of benchmarks: they keep every call that made a row, and none is of code that no commit has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import merge_records
import pytest
import record
from record import ALLOWED, RECORDS, UncommittedError, began, resumed, write_record

UNCOMMITTED = {"sketch-error.json"}
"""Records made before such code was refused; the list may shrink."""
FOUND = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test's records go; the code is taken as that of commit `one`."""
    monkeypatch.setattr(record, "RECORDS", tmp_path)
    monkeypatch.setattr(merge_records, "RECORDS", tmp_path)
    monkeypatch.setattr(record, "UNCOMMITTED", [])
    monkeypatch.setattr(record, "COMMIT", "one")
    monkeypatch.delenv(ALLOWED, raising=False)
    return tmp_path


def called(monkeypatch: pytest.MonkeyPatch, command: str, commit: str) -> None:
    monkeypatch.setattr("sys.argv", command.split())
    monkeypatch.setattr(record, "COMMIT", commit)


def calls(path: Path) -> list[tuple[str, str, list[int]]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [(one["command"], one["commit"], one["rows"]) for one in content["calls"]]


def test_a_record_that_goes_on_keeps_every_call_that_made_a_row(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called(monkeypatch, "bench.py --steps 32", "one")
    call, rows = began("mine"), [{"steps": 32}]
    write_record("mine", {"steps": [32]}, rows, call)
    rows.append({"steps": 48})
    path = write_record("mine", {"steps": [32]}, rows, call)
    first = ("python bench.py --steps 32", "one", [0, 2])
    assert calls(path) == [first], "one call, however often it writes"
    called(monkeypatch, "bench.py --steps 64", "two")
    call = began("mine")
    rows, done = resumed("mine", ["steps"])
    assert done == {(32,), (48,)}
    write_record("mine", {"steps": [64]}, [*rows, {"steps": 64}], call)
    second = ("python bench.py --steps 64", "two", [2, 3])
    assert calls(path) == [first, second]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["command"], content["commit"]) == second[:2]
    called(monkeypatch, "bench.py", "three")
    write_record("mine", {}, {"rows": [1]}, began())
    assert calls(path) == [("python bench.py", "three", [0, 1])], (
        "one that begins anew forgets the old rows' calls with them"
    )


def test_a_call_whose_rows_are_all_made_anew_is_no_longer_named(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit, rows in (("one", [1, 2, 3]), ("two", [1, 2, 3, 4, 5])):
        called(monkeypatch, commit, commit)
        write_record("mine", {}, rows, began("mine"))
    called(monkeypatch, "three", "three")
    path = write_record("mine", {}, [2, 4, 6], began("mine").keeping([1, 3]))
    assert calls(path) == [
        ("python one", "one", [0, 1]),
        ("python two", "two", [1, 2]),
        ("python three", "three", [2, 3]),
    ]
    path = write_record("mine", {}, [2, 6, 7], began("mine").keeping([0, 2]))
    assert calls(path) == [
        ("python one", "one", [0, 1]),
        ("python three", "three", [1, 2]),
        ("python three", "three", [2, 3]),
    ]


def test_a_record_without_calls_is_of_its_one_command(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As records were written before; of one that was resumed, only the last command is known."""
    old = {"command": "old", "commit": "zero", "date": "d", "seconds": 1.0, "uncommitted_changes": True}
    (written / "mine.json").write_text(json.dumps(old | {"results": {"rows": [1, 2], "settings": {}}}))
    called(monkeypatch, "new", "one")
    path = write_record("mine", {}, {"rows": [1, 2, 3], "settings": {}}, began("mine"))
    assert calls(path) == [("old", "zero", [0, 2]), ("python new", "one", [2, 3])]
    assert json.loads(path.read_text())["uncommitted_changes"] is True, "a row of uncommitted code stays one"


def test_uncommitted_code_is_refused_before_the_work_and_after_it(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = began()
    monkeypatch.setattr(record, "UNCOMMITTED", ["fut/new.py"])
    for refused in (began, lambda: write_record("mine", {}, [], call)):
        with pytest.raises(UncommittedError, match=r"got changes in fut/new\.py; commit them, or set FUT_RECORD"):
            refused()
    assert not list(written.iterdir())
    monkeypatch.setenv(ALLOWED, "1")
    path = write_record("mine", {}, [], began())
    assert json.loads(path.read_text())["uncommitted_changes"] is True


@pytest.mark.parametrize(
    ("name", "counts"), [("fut/new.py", True), ("benchmarks/new.py", True), ("docs/new.md", False)]
)
def test_changes_are_of_what_decides_a_figure(tmp_path: Path, name: str, counts: bool, monkeypatch: Any) -> None:
    """Changed files and those that git does not know; a record or a page is no code."""
    monkeypatch.setattr(record, "RECORDS", tmp_path / "benchmarks" / "records")
    (tmp_path / "benchmarks" / "records").mkdir(parents=True)
    for arguments in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        record._git(*arguments)
    (tmp_path / "benchmarks" / "records" / "new.json").write_text("{}")
    assert record._git("status", "--porcelain", "--", *record.CODE) == ""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1")
    assert bool(record._git("status", "--porcelain", "--", *record.CODE)) == counts


def test_no_committed_record_is_of_uncommitted_code() -> None:
    assert {name for name, content in FOUND.items() if content["uncommitted_changes"]} == UNCOMMITTED


def test_every_row_of_a_record_has_its_call() -> None:
    for name, content in FOUND.items():
        if "calls" in content:  # since records keep them
            ends = [one["rows"] for one in content["calls"]]
            assert [first for first, _ in ends] == [0, *(last for _, last in ends[:-1])], name
            assert ends[-1][1] == record._rows(content["results"]), name
            assert all(one["commit"] and one["command"] for one in content["calls"]), name


def test_parts_that_ran_side_by_side_make_one_record(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for name, rows in (("a", [1, 2]), ("b", [3])):
        called(monkeypatch, f"bench.py --name {name}", f"commit of {name}")
        parts.append(write_record(name, {"name": name}, rows, began()))
    merge_records.main(["both", *map(str, parts)])
    found = json.loads((written / "both.json").read_text())
    assert found["results"] == [1, 2, 3]
    assert calls(written / "both.json") == [
        ("python bench.py --name a", "commit of a", [0, 2]),
        ("python bench.py --name b", "commit of b", [2, 3]),
    ]
    assert found["settings"] == {"parts": {"a": {"name": "a"}, "b": {"name": "b"}}}
    other = json.loads(parts[1].read_text()) | {"machine": {"cpu": "another"}}
    with pytest.raises(SystemExit, match="expected the machine of a, got another"):
        merge_records.merged("both", [json.loads(parts[0].read_text()), other])

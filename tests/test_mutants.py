"""The runner of mutation testing: what it says of a mutant, what it accepts, and what its record holds."""

from __future__ import annotations

import json
from pathlib import Path

import mutants
import pytest
from mutants import ROOT, SCOPE, SMOKE, TESTS, accepted, change_of, drawn, function_of, place, replace_tree
from record import RECORDS

SOURCE = '''"""A module."""


def first(x):
    return x + 1


class Kept:
    @classmethod
    def of(cls, x):
        """One line."""
        y = x * 2
        return cls(
            y,
            x,
        )
'''
DIFF = """# estimators.made.xǁKeptǁof__mutmut_3: survived
--- estimators/made.py
+++ estimators/made.py
@@ -1,6 +1,6 @@
 @classmethod
 def of(cls, x):
     \"\"\"One line.\"\"\"
-    y = x * 2
+    y = x / 2
     return cls(
         y,
"""


def test_a_mutant_is_found_in_its_file() -> None:
    assert place("estimators.orders.order.x__checked__mutmut_12") == ("estimators/orders/order.py", "_checked")
    assert place("estimators.made.xǁKeptǁ__call____mutmut_1") == ("estimators/made.py", "Kept.__call__")
    assert place("estimators.rules.x_make_rule__mutmut_1") == ("estimators/rules/__init__.py", "make_rule")
    found = change_of("estimators.made.xǁKeptǁof__mutmut_3", DIFF, SOURCE)
    assert found == ("estimators/made.py", 12, "Kept.of", "y = x * 2", "y = x / 2")
    assert SOURCE.splitlines()[found.line - 1].strip() == found.was
    removed = DIFF.replace("+    y = x / 2\n", "")
    assert change_of("estimators.made.xǁKeptǁof__mutmut_3", removed, SOURCE).becomes == ""
    with pytest.raises(ValueError, match="another version of mutmut"):
        change_of("estimators.made.xǁKeptǁof__mutmut_3", "", SOURCE)


def test_what_is_mutated_and_tested_is_there() -> None:
    for pattern in SCOPE:
        assert list(ROOT.glob(pattern)), pattern
    for path in TESTS:
        assert (ROOT / path).exists(), path
    file, function = place(SMOKE)
    assert "def signed_variance" in function_of((ROOT / file).read_text(encoding="utf-8"), function)[1]


def test_every_accepted_survivor_is_of_code_that_is_there_and_has_a_reason() -> None:
    for one in accepted():
        assert one.keys() == {"file", "function", "was", "becomes", "reason"}
        text = function_of((ROOT / one["file"]).read_text(encoding="utf-8"), one["function"])[1]
        flat = " ".join(line.strip() for line in text.splitlines())
        assert one["was"] in flat, f"{one['file']}, {one['function']}: no longer has `{one['was']}`; remove the entry"
        assert len(one["reason"]) > 10


def test_another_commit_takes_the_place_of_a_tree_and_equal_files_stay(tmp_path: Path) -> None:
    fresh, tree = tmp_path / "fresh", tmp_path / "tree"
    for root, names in ((fresh, {"fut/a.py": "1", "fut/b.py": "2"}), (tree, {"fut/a.py": "1", "fut/c.py": "3"})):
        for name, content in names.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
    for name in ("fut/a.py", "fut/c.py", "fut/c.py.meta"):
        (tree / "mutants" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "mutants" / name).write_text("mutated")
    before = (tree / "fut/a.py").stat().st_mtime_ns
    replace_tree(fresh, tree)
    found = {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}
    assert found == {"fut/a.py": "1", "fut/b.py": "2", "mutants/fut/a.py": "mutated"}
    assert (tree / "fut/a.py").stat().st_mtime_ns == before


def test_a_summary_counts_and_names_what_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "estimators").mkdir()
    (tmp_path / "estimators" / "made.py").write_text(SOURCE)
    shown = {
        "estimators.made.xǁKeptǁof__mutmut_3": DIFF,
        "estimators.made.xǁKeptǁof__mutmut_4": DIFF.replace("/", "//"),
    }
    monkeypatch.setattr(mutants, "mutmut", lambda tree, command, name: shown[name])
    excuse = {"file": "estimators/made.py", "function": "Kept.of", "was": "y = x * 2", "becomes": "y = x // 2"}
    monkeypatch.setattr(mutants, "accepted", lambda: [excuse | {"reason": "x is 0 here"}])
    names = [
        *shown,
        "estimators.made.x_first__mutmut_1",
        "estimators.made.x_first__mutmut_2",
        "estimators.made.x_first__mutmut_3",
    ]
    names += ["estimators.made.x_first__mutmut_4"]
    statuses = ["survived", "survived", "killed", "timeout", "no tests", "not checked"]
    found = mutants.summary([mutants.row_of(n, s, tmp_path) for n, s in zip(names, statuses, strict=True)], tmp_path)
    assert found["share_killed"] == pytest.approx(2 / 3)
    counts = {"mutants": 6, "killed": 2, "survived": 1, "accepted": 1, "without fast tests": 1, "not run": 1}
    assert found["modules"] == {"estimators/made.py": counts}
    assert [(one["line"], one["becomes"]) for one in found["survivors"]] == [(12, "y = x / 2")]
    assert [one["reason"] for one in found["accepted"]] == ["x is 0 here"]


def test_a_sample_is_continued_and_does_not_depend_on_what_else_there_is() -> None:
    names = [f"m{n}" for n in range(50)]
    first = drawn(names, [], 10, 0)
    assert len(set(first)) == 10
    assert first != drawn(names, [], 10, 1)
    fewer = [name for name in names if name != first[3]]
    assert drawn(fewer, [], 9, 0) == [name for name in first if name != first[3]]
    assert drawn(names, ["m7", "gone", "m9"], 5, 0)[:2] == ["m7", "m9"]
    assert len(drawn(names, ["m7", "m8", "m9"], 2, 0)) == 3, "what was drawn once stays"
    assert sorted(drawn(names, [], 0, 0)) == sorted(names)


def test_what_was_killed_stands_while_its_module_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "RECORDS", tmp_path)
    monkeypatch.setattr(mutants, "version", lambda name: "1")
    (tmp_path / "estimators").mkdir()
    for name in ("one", "two"):
        (tmp_path / "estimators" / f"{name}.py").write_text(name)
    names = [f"estimators.{module}.x_f__mutmut_{n}" for module in ("one", "two") for n in (1, 2, 3)]
    results = ["killed", "survived", "not checked", "timeout", "killed", "no tests"]
    rows = [mutants.row_of(n, s, tmp_path) for n, s in zip(names, results, strict=True)]
    assert mutants.standing(rows, names, tmp_path) == [0, 3, 4]
    assert mutants.standing(rows, names[:4], tmp_path) == [0, 3], "not what is no longer drawn"
    (tmp_path / "estimators" / "two.py").write_text("changed")
    assert mutants.standing(rows, names, tmp_path) == [0]
    assert mutants.recorded(0) == []
    (tmp_path / "mutants.json").write_text(
        json.dumps({"results": {"rows": rows}, "settings": {"mutmut": "1", "seed": 0}})
    )
    assert mutants.recorded(0) == rows
    assert mutants.recorded(1) == []
    monkeypatch.setattr(mutants, "version", lambda name: "2")
    assert mutants.recorded(0) == [], "another version numbers them otherwise"


def test_the_record_is_of_the_goal() -> None:
    """At least 95 % of what is judged is killed, and no survivor is accepted without its reason."""
    record = json.loads((RECORDS / "mutants.json").read_text(encoding="utf-8"))
    found = record["results"]
    assert found["share_killed"] >= 0.95
    assert found["share_killed"] == pytest.approx(
        found["total"]["killed"] / (found["total"]["killed"] + len(found["survivors"]))
    )
    assert sum(counts["mutants"] for counts in found["modules"].values()) == len(found["rows"])
    assert all(one["reason"] for one in found["accepted"])

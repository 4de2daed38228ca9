"""Mutation testing: do the fast tests fail where one thing in the mathematics is changed?

make mutants                                           (or: python benchmarks/mutants.py --work build/mutants)
python benchmarks/mutants.py --sample 0 --minutes 600  (every mutant)

mutmut makes the mutants in an export of the commit, never in the checkout, and runs for each the fast tests that call the
function it is in, in a forked process with a limit on its time. An interrupted call goes on where it stopped. A later call
keeps what was killed in modules that have not changed since, and tests the survivors again.
"""

from __future__ import annotations

import argparse
import ast
import filecmp
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from record import COMMIT, RECORDS, began, write_record

ROOT = Path(__file__).resolve().parent.parent
ACCEPTED = Path(__file__).with_name("mutants.toml")
SCOPE = (
    "estimators/*.py",
    "estimators/orders/*.py",
    "estimators/rules/*.py",
    "fut/methods/adjoint/quadratic.py",
    "fut/methods/adjoint/control_variate.py",
    "fut/estimation/calibration.py",
    "fut/estimation/accuracy.py",
)
"""What is mutated: the mathematics, as far as tests without a run reach it."""
LEFT_OUT = (
    "estimators/contract.py",
    "estimators/torch_optimizers.py",
    *(f"estimators/rules/{name}.py" for name in ("grouped", "optimizer_rule", "rates")),
)
"""Of those, what is not: checks that are tests themselves, and rules that torch's optimizers are made into."""
TESTS = (
    "tests/test_estimators",
    "tests/contracts/test_rules.py",
    "tests/test_fut/estimation/test_accuracy.py",
    "tests/test_fut/estimation/test_calibration.py",
    "tests/test_fut/methods/adjoint/test_quadratic.py",
    "tests/test_fut/methods/adjoint/test_samples.py",
)
"""Fast tests, of which mutmut takes for a mutant those that call its function."""
COPIED = (
    "fut",
    "storage",
    "scripts",
    "benchmarks",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    "constraints.txt",
    "mkdocs.yml",
)
UNMUTATED = (r"^\s*raise ", r"^\s*check_(number|choice)\(")
"""Lines whose expressions stay: the words of messages."""
SMOKE = "estimators.control_variates.x_signed_variance__mutmut_1"
"""One that must be killed, with which mutants are made; else the set-up is broken, and not the tests good."""
KILLED = ("killed", "timeout", "segfault")


class Change(NamedTuple):
    """What a mutant changes: the file, the line there, the function, and the changed lines before and after."""

    file: str
    line: int
    function: str
    was: str
    becomes: str


def exported(work: Path, without: str) -> Path:
    """The files of the commit in `work/tree`, and mutmut's settings. Of another commit's what is equal stays, with what mutmut
    knows of it, but for the results: the record keeps those that stand."""
    tree, mark = work / "tree", work / "commit"
    if not mark.exists() or mark.read_text() != COMMIT:
        mark.unlink(missing_ok=True)
        with TemporaryDirectory() as fresh:
            archive = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=True)
            subprocess.run(["tar", "-x"], cwd=fresh, input=archive.stdout, check=True)
            replace_tree(Path(fresh), tree)
        for meta in (tree / "mutants").rglob("*.meta"):
            known = json.loads(meta.read_text(encoding="utf-8"))
            known["exit_code_by_key"] = dict.fromkeys(known["exit_code_by_key"])
            meta.write_text(json.dumps(known), encoding="utf-8")
        mark.write_text(COMMIT)
    lists = {
        "source_paths": ("estimators", "fut"),
        "only_mutate": SCOPE,
        "do_not_mutate": LEFT_OUT,
        "do_not_mutate_patterns": UNMUTATED,
        "also_copy": COPIED,
        "pytest_add_cli_args": (
            "-m",
            "fast",
            "-p",
            "no:cacheprovider",
            *(("-k", f"not ({without})") if without else ()),
        ),
        "pytest_add_cli_args_test_selection": TESTS,
    }
    lines = ["[mutmut]", "timeout_multiplier = 5.0", "timeout_constant = 4.0", "track_dependencies = false"]
    lines += [line for key, values in lists.items() for line in (f"{key} =", *(f"    {value}" for value in values))]
    (tree / "setup.cfg").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return tree


def replace_tree(fresh: Path, tree: Path) -> None:
    """Make the files of `tree` those of `fresh`; those that are equal are not touched, and `mutants/` loses what has gone."""
    wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    for name in sorted(wanted):
        target = tree / name
        if not target.exists() or not filecmp.cmp(fresh / name, target, shallow=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / name, target)
    for path in [path for path in tree.rglob("*.py") if path.is_file()]:
        name = path.relative_to(tree)
        if (Path(*name.parts[1:]) if name.parts[0] == "mutants" else name) not in wanted:
            path.unlink()
            path.with_name(f"{path.name}.meta").unlink(missing_ok=True)


def mutmut(tree: Path, *arguments: str, seconds: float | None = None) -> str:
    """What a command of mutmut prints. It is ended after so many seconds; what it found by then stays."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    process: subprocess.Popen[str] = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # with its child; SIGINT is ignored by what runs in the background
        return process.communicate()[0]


def statuses(tree: Path) -> dict[str, str]:
    """Every mutant's status by its name; `not checked` where it has none yet."""
    found = re.findall(r"^ +(\S+__mutmut_\d+): (.+)$", mutmut(tree, "results", "--all", "true"), re.MULTILINE)
    return dict(found)


def place(name: str) -> tuple[str, str]:
    """The file and the function, with its class, of a mutant's name."""
    module, _, mangled = name.rpartition(".")
    own = mangled.rpartition("__mutmut_")[0].removeprefix("x")
    path = module.replace(".", "/")
    file = f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"
    return file, own.strip("ǁ").replace("ǁ", ".") if "ǁ" in own else own.removeprefix("_")


def function_of(source: str, function: str) -> tuple[int, str]:
    """The first line of a function in a module, its decorators included, and its text."""
    body: Sequence[ast.AST] = ast.parse(source).body
    for part in function.split("."):
        node = next(n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part)
        body = node.body
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return first, "\n".join(source.splitlines()[first - 1 : node.end_lineno])


def change_of(name: str, diff: str, source: str) -> Change:
    """What a mutant changes, from mutmut's diff of its function and the source of its module."""
    file, function = place(name)
    hunk = re.search(r"^@@ -(\d+).*?@@.*\n((?:[ +\-].*\n?)*)", diff, re.MULTILINE)
    if hunk is None:
        raise ValueError(f"mutants: expected a diff of {name}, got {diff!r}; is this another version of mutmut?")
    lines = hunk[2].splitlines()
    before = next(n for n, line in enumerate(lines) if line[0] in "+-")
    was, becomes = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return Change(file, function_of(source, function)[0] + int(hunk[1]) - 1 + before, function, was, becomes)


def accepted() -> list[dict[str, str]]:
    """Survivors that no test should kill: file, function, was, becomes, reason."""
    found: list[dict[str, str]] = tomllib.loads(ACCEPTED.read_text(encoding="utf-8")).get("accepted", [])
    return found


def reason(change: Change) -> str | None:
    """Why a survivor is accepted, if it is."""
    keys = ("file", "function", "was", "becomes")
    return next((one["reason"] for one in accepted() if all(one[k] == getattr(change, k) for k in keys)), None)


def row_of(name: str, status: str, tree: Path) -> str:
    """A mutant's result in one line, with a digest of its module."""
    digest = hashlib.sha256((tree / place(name)[0]).read_bytes()).hexdigest()[:12]
    return f"{status} | {name} | {digest}"


def summary(rows: Sequence[str], tree: Path) -> dict[str, Any]:
    """Counts by module, survivors, accepted ones, and the share that is killed of those that are not accepted."""
    survivors, excused, modules = list[dict[str, Any]](), list[dict[str, Any]](), dict[str, Counter[str]]()
    for status, name, _ in (row.split(" | ") for row in rows):
        counts = modules.setdefault(place(name)[0], Counter())
        counts["mutants"] += 1
        if status in ("no tests", "not checked"):
            counts["without fast tests" if status == "no tests" else "not run"] += 1
        elif status in KILLED:
            counts["killed"] += 1
        else:
            change = change_of(name, mutmut(tree, "show", name), (tree / place(name)[0]).read_text(encoding="utf-8"))
            why = reason(change)
            counts["survived" if why is None else "accepted"] += 1
            (survivors if why is None else excused).append(change._asdict() | ({"reason": why} if why else {}))
    total: Counter[str] = sum(modules.values(), Counter())
    judged = total["killed"] + total["survived"]
    return {
        "share_killed": total["killed"] / judged if judged else None,
        "total": dict(total),
        "modules": {name: dict(counts) for name, counts in sorted(modules.items())},
        "survivors": sorted(survivors, key=lambda one: (one["file"], one["line"])),
        "accepted": sorted(excused, key=lambda one: (one["file"], one["line"])),
        "rows": list(rows),
    }


def recorded(seed: int) -> list[str]:
    """Rows of the record, if it is of this seed and version of mutmut, which numbers mutants."""
    path = RECORDS / "mutants.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"settings": {}}
    same = (record["settings"].get("mutmut"), record["settings"].get("seed")) == (version("mutmut"), seed)
    rows: list[str] = record["results"]["rows"] if same else []
    return rows


def drawn(names: Sequence[str], before: Sequence[str], count: int, seed: int) -> list[str]:
    """A sample of mutants: those that were drawn before and are still there, then others by a digest of seed and name."""
    there, ranked = set(names), sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    first = [name for name in before if name in there]
    return list(dict.fromkeys([*first, *ranked]))[: max(count or len(names), len(first))]


def standing(rows: Sequence[str], names: Sequence[str], tree: Path) -> list[int]:
    """Places of rows that need no new run: killed mutants of modules that are as they were."""
    split = [row.split(" | ") for row in rows]
    known = [n for n, (status, name, _) in enumerate(split) if status in KILLED and name in {*names}]
    return [n for n in known if rows[n] == row_of(split[n][1], split[n][0], tree)]


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--work", type=Path, default=ROOT / "build" / "mutants")
    cli.add_argument("--sample", type=int, default=1200, help="mutants that are drawn; 0 for all")
    cli.add_argument("--seed", type=int, default=0, help="of the draw")
    cli.add_argument("--minutes", type=float, default=40, help="after which it stops; the same command goes on")
    cli.add_argument(
        "--without", default="", help="expression of pytest's -k: tests that are no judges, as they fail anyway"
    )
    arguments = cli.parse_args(argv)
    call, tree = began("mutants"), exported(arguments.work.absolute(), arguments.without)
    found = statuses(tree)
    if SMOKE not in found:  # the first call makes the mutants
        mutmut(tree, "run", "--max-children", "1", SMOKE)
        found = statuses(tree)
        if found.get(SMOKE) not in KILLED:
            cli.error(f"expected that {SMOKE} is killed, got {found.get(SMOKE)}; run `mutmut run` in {tree} to see why")
    names, rows = sorted(found), recorded(arguments.seed)
    sample = drawn(names, [row.split(" | ")[1] for row in rows], arguments.sample, arguments.seed)
    places = standing(rows, sample, tree)
    kept = [rows[n] for n in places]
    fresh = [name for name in sample if name not in {row.split(" | ")[1] for row in kept}]
    if left := [name for name in fresh if found[name] == "not checked"]:
        mutmut(tree, "run", "--max-children", "1", *left, seconds=60 * arguments.minutes)
    found = statuses(tree)
    made = [row_of(name, found[name], tree) for name in fresh if name in found]
    results = summary([*kept, *made], tree) | {"of": len(found)}
    call = call.keeping(places)
    settings = vars(arguments) | {"mutmut": version("mutmut"), "scope": SCOPE, "tests": TESTS, "unmutated": UNMUTATED}
    path = write_record("mutants", settings, results, call)
    print(f"{path}: {results['total']}, {results['share_killed'] or 0:.1%} killed")
    for one in results["survivors"]:
        print(f"{one['file']}:{one['line']} {one['function']}\n  - {one['was']}\n  + {one['becomes']}")
    return 0


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())

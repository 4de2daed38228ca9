"""The house: imports point down only, files stay small, and no other package can pass for a room of it."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import PATIENCE

import fut

ROOT = Path(fut.__file__).parents[1]
ROOMS = ("storage", "estimators", "fut")
LIMIT = 400


def imported(source: str, package: str) -> set[str]:
    """Every module that a source names in an import, relative ones resolved against their package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found |= {base} if node.module else {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
    return found


def sources(folder: str) -> list[tuple[Path, set[str]]]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"no source in {folder}"
    return [(f, imported(f.read_text(), ".".join(f.parent.relative_to(ROOT).parts))) for f in files]


def offenders(folder: str, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file, names in sources(folder)
        for name in sorted(names)
        if any(name == f or name.startswith(f"{f}.") for f in forbidden)
    ]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("storage", ("fut", "estimators", "torch", "tests", "scripts")),
        ("estimators", ("fut", "storage", "h5py", "zarr", "tests", "scripts")),
        ("fut", ("scripts", "benchmarks", "tests")),
        (
            "fut/questions",
            ("storage", "torch", "h5py", "zarr", "fut.api.run", "fut.artifacts.directory", "fut.cli.app"),
        ),
    ],
)
def test_imports_point_down_only(folder: str, forbidden: tuple[str, ...]) -> None:
    assert offenders(folder, forbidden) == []


def test_the_import_check_sees_what_is_forbidden() -> None:
    source = (
        "import torch\nfrom ..run import Run\nfrom . import verify\nfrom ... import storage\nfrom storage import x\n"
    )
    assert imported(source, "fut.questions") == {"torch", "fut.run", "fut.questions.verify", "storage"}


@pytest.mark.parametrize("room", [r for r in ROOMS if r != "fut"])
def test_a_leaf_imports_itself_only_relatively(room: str) -> None:
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            absolute = isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == room
            assert not absolute, f"{file}: write the import of {room} relatively"


@pytest.mark.parametrize("room", ROOMS)
def test_files_are_small_and_say_what_they_hold(room: str) -> None:
    for file in sorted((ROOT / room).rglob("*.py")):
        lines = len(file.read_text().splitlines())
        assert lines <= LIMIT, f"{file} has {lines} lines, at most {LIMIT} are read in one sitting; split it"
        assert file.stem not in ("utils", "util", "helpers", "misc", "common"), f"{file}: name it by what it holds"


def test_the_library_never_prints_nor_sets_up_logging() -> None:
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)}
            assert not calls & {"print", "logging.basicConfig"}, file


@pytest.mark.parametrize("room", ["storage", "estimators"])
@pytest.mark.parametrize("form", ["module", "package"])
def test_a_shadowing_module_is_refused_with_both_paths(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]], room: str, form: str
) -> None:
    shadow = tmp_path / (f"{room}.py" if form == "module" else f"{room}/__init__.py")
    shadow.parent.mkdir(exist_ok=True)
    shadow.write_text("mine = True\n")
    process = start_python("import fut", path=str(tmp_path))
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    message = err.splitlines()[-1]
    assert message.startswith("ImportError: fut: expected the package")
    assert str(ROOT / room) in message
    assert str(shadow) in message


def test_every_package_is_found_for_installation() -> None:
    import tomllib

    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert found == [f"{room}*" for room in ("fut", "storage", "estimators")]
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.parent} is no package"

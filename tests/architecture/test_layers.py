"""The house has floors, and imports only go down: at run time, inside functions and for type checking alike.

A new file without a home fails, and so does a class or a function that has grown too wide.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Top first. Rooms of one line stand beside one another and do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("benchmarks", "scripts"),
    ("fut.__main__",),
    ("fut.cli", "fut.__init__"),
    ("fut.api",),
    ("fut.report",),
    ("fut.studies",),
    ("fut.questions",),
    ("fut.estimation", "fut.planning"),
    ("fut.orders",),
    ("fut.methods", "fut.recording"),
    ("fut.artifacts", "fut.readouts"),
    ("fut.training",),
    ("fut.data",),
    ("fut.models",),
    ("fut.execution",),
    ("fut.resources", "fut.display"),
    ("fut.errors",),
    ("fut.config", "fut.protocols", "fut.registry", "fut.progress", "fut.version", "fut.divergence", "fut.spoken"),
    ("estimators", "storage"),
)
# Slices of one room: none imports another, but for what is written here.
SLICES: dict[str, dict[str, set[str]]] = {
    "fut.methods": {name: {"expansion"} for name in ("adjoint", "lowrank", "reweighting")},
    "fut.questions": {},
}
MEMBERS, PARAMETERS, LINES = 25, 10, 400
# Heavy packages: the only rooms that may import them.
ONLY = {
    "h5py": {"storage", "fut.resources"},  # whose version is recorded
    "zarr": {"storage", "fut.resources"},
    "obstore": {"storage"},
    "typer": {"fut.cli"},
    "jinja2": {"fut.report"},
    "transformers": {"fut.models", "fut.recording"},
    "peft": {"fut.models", "fut.recording"},
    "lightning": {"fut.recording"},
    "ray": {"fut.execution"},
}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module by its dotted name; a package by its own name, the top package as `fut.__init__`."""
    names = {}
    for top in ("fut", "storage", "estimators", "benchmarks", "scripts"):
        for file in sorted((root / top).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)
            names[name] = file
    return names


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that a file names in any import: TYPE_CHECKING blocks and function bodies count."""
    package = name.removesuffix(".__init__") if file.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level else []
            base = ".".join([*parts[: len(parts) - max(node.level - 1, 0)], *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in known else f"{base}.__init__" if f"{base}.__init__" in known else base


def floor(module: str) -> int:
    """Height of a module's layer, 0 at the top. Every module stands in exactly one."""
    found = {i for i, rooms in enumerate(LAYERS) for r in rooms if module == r or module.startswith(f"{r}.")}
    assert len(found) == 1, f"{module}: expected one layer, got {sorted(found)}; add it to LAYERS"
    return found.pop()


def room(module: str) -> str:
    return next(r for rooms in LAYERS for r in rooms if module == r or module.startswith(f"{r}."))


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(name, file, known)) for name, file in known.items()}


def test_imports_point_down(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} ({room(name)}) imports {target} ({room(target)})"
        for name, targets in graph.items()
        for target in sorted(targets & graph.keys())
        if room(target) != room(name) and floor(target) <= floor(name)
    ]
    assert wrong == []


def test_no_circle_anywhere(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter({n: t & graph.keys() - {n} for n, t in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("parent", SLICES)
def test_slices_do_not_know_one_another(graph: dict[str, set[str]], parent: str) -> None:
    folders = {f.name for f in (ROOT / parent.replace(".", "/")).iterdir() if f.is_dir()}

    def slice_of(module: str) -> str | None:
        first = module.removeprefix(f"{parent}.").partition(".")[0]
        return first if module.startswith(f"{parent}.") and first in folders else None

    wrong = [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in sorted(targets & graph.keys())
        if (here := slice_of(name))
        and (there := slice_of(target))
        and here != there
        and there not in SLICES[parent].get(here, set())
    ]
    assert wrong == []


def test_heavy_packages_stay_in_their_rooms(graph: dict[str, set[str]]) -> None:
    for name, targets in graph.items():
        for package, rooms in ONLY.items():
            if name.startswith(("benchmarks", "scripts")) or not any(t.split(".")[0] == package for t in targets):
                continue
            assert room(name) in rooms, f"{name} imports {package}"


def test_what_is_slow_to_import_is_imported_where_it_is_used() -> None:
    """A command of `fut` begins without scipy and matplotlib, which take a second."""
    for name, file in modules().items():
        if name.startswith(("fut", "estimators", "storage")):
            at_once = [
                n
                for n in ast.parse(file.read_text(encoding="utf-8")).body
                if isinstance(n, (ast.Import, ast.ImportFrom))
            ]
            named = [n.module or "" if isinstance(n, ast.ImportFrom) else n.names[0].name for n in at_once]
            assert not {"scipy", "matplotlib"} & {n.split(".")[0] for n in named}, f"{name}: import it in the function"


def test_the_check_sees_hidden_imports(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..api.run import Run\n"
        "def f():\n    from . import b\n"
    )
    known = {"fut.methods.a": tmp_path / "a.py", "fut.api.run": tmp_path, "fut.methods.b": tmp_path}
    assert set(imports("fut.methods.a", tmp_path / "a.py", known)) == {"typing", "fut.api.run", "fut.methods.b"}


def definitions() -> Iterator[tuple[str, ast.AST]]:
    """Every class and function, with the module that it is in."""
    for name, file in modules().items():
        if name.startswith(("fut", "estimators", "storage")):
            yield from ((name, node) for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def test_no_class_is_a_room_of_its_own() -> None:
    def public(node: ast.ClassDef) -> int:
        names = [part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
        names += [
            part.target.id
            for part in node.body
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
        ]
        return sum(not name.startswith("_") for name in names)

    wide = {n.name for _, n in definitions() if isinstance(n, ast.ClassDef) and public(n) > MEMBERS}
    assert wide == set()


def test_no_function_takes_more_than_it_can_be_asked() -> None:
    long = {
        f"{module}.{n.name}"
        for module, n in definitions()
        if isinstance(n, ast.FunctionDef)
        and not module.startswith("fut.cli")
        and len([a for a in (*n.args.posonlyargs, *n.args.args, *n.args.kwonlyargs) if a.arg not in ("self", "cls")])
        > PARAMETERS
    }
    assert long == set()


def test_every_file_is_read_in_one_sitting() -> None:
    for name, file in modules().items():
        if name.startswith(("fut", "estimators", "storage")):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES, f"{name}: split it"

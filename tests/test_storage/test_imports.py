"""`storage` is a leaf: it knows neither torch nor the packages above it."""

import ast
import sys
from pathlib import Path

import storage

ALLOWED = sys.stdlib_module_names | {"numpy", "h5py", "zarr", "google_crc32c", "obstore"}
FOLDER = Path(storage.__file__).parent


def foreign_imports(source: str, depth: int = 1) -> list[str]:
    """What a source imports from outside; `depth` is how many packages it lies in."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.level > depth:
            found.append("." * node.level)
    return [name for name in found if name.split(".")[0] not in ALLOWED]


def test_storage_imports_only_what_a_leaf_may():
    paths = {path.relative_to(FOLDER): path for path in FOLDER.rglob("*.py")}
    found = {str(name): foreign_imports(path.read_text(), len(name.parts)) for name, path in paths.items()}
    assert len(found) > 5
    assert "backends/base.py" in found
    assert {name: names for name, names in found.items() if names} == {}


def test_the_import_check_sees_forbidden_imports():
    source = (
        "import torch\nfrom fut.run import open\nfrom .. import estimators\nimport storage.terms\nfrom . import errors"
    )
    assert foreign_imports(source) == ["torch", "fut.run", "..", "storage.terms"]
    assert foreign_imports("from ..layout import Block\nfrom ... import fut", depth=2) == ["..."]


def test_everything_exported_exists():
    assert [name for name in storage.__all__ if not hasattr(storage, name)] == []

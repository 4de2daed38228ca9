"""`storage` is a leaf: it knows neither torch nor the packages above it."""

import ast
import sys
from pathlib import Path

import storage

ALLOWED = sys.stdlib_module_names | {"numpy", "h5py", "zarr", "google_crc32c"}
FOLDER = Path(storage.__file__).parent


def foreign_imports(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.level > 1:
            found.append("." * node.level)
    return [name for name in found if name.split(".")[0] not in ALLOWED]


def test_storage_imports_only_what_a_leaf_may():
    found = {path.name: foreign_imports(path.read_text()) for path in FOLDER.glob("*.py")}
    assert len(found) > 5
    assert {name: names for name, names in found.items() if names} == {}


def test_the_import_check_sees_forbidden_imports():
    source = (
        "import torch\nfrom fut.run import open\nfrom .. import estimators\nimport storage.terms\nfrom . import errors"
    )
    assert foreign_imports(source) == ["torch", "fut.api.run", "..", "storage.terms"]


def test_everything_exported_exists():
    assert [name for name in storage.__all__ if not hasattr(storage, name)] == []

"""What a user installs: a wheel with every file that the program reads, under a name that is ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from documents import ROOT, environment

import fut

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("fut", "storage", "estimators")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources as `make dist` builds it, without the network."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "frozen"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    done = subprocess.run(command, cwd=source, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = (source / "dist").glob("*.whl")
    return made


def test_the_wheel_holds_every_file_of_the_packages_and_no_test(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (
        f for package in PACKAGES for f in (ROOT / package).rglob("*") if f.is_file() and "__pycache__" not in f.parts
    )
    expected = {str(file.relative_to(ROOT)) for file in files}
    assert held == expected
    assert {name for name in held if name.endswith((".j2", ".css", ".js"))}, "the report's templates and its assets"


def test_the_wheel_has_our_name_and_the_command(wheel: Path) -> None:
    assert wheel.name.startswith(f"fut_orders-{fut.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "fut = fut.cli.entry:main" in archive.read(entry).decode()


def test_one_version_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    assert found is not None
    assert fut.__version__ == PROJECT["version"] == found[1]


def test_nothing_installs_the_package_of_that_name_from_the_index() -> None:
    """`fut` on the package index is not this project."""
    folders = [ROOT / name for name in (*PACKAGES, "docs", "scripts", "benchmarks")]
    texts = [f for folder in folders for f in folder.rglob("*") if f.suffix in (".py", ".md", ".j2", ".js")]
    texts += [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    pattern = re.compile(r"pip3? install[^\n`]*?[ '\"]fut(-orders)?(?=[\s'\"\[`]|$)", re.MULTILINE)
    assert [str(f) for f in texts if pattern.search(f.read_text(encoding="utf-8"))] == []


def test_make_dist_starts_from_an_empty_build_folder() -> None:
    done = subprocess.run(["make", "-n", "dist"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rm -rf build/lib" in done.stdout
    assert "pip wheel" in done.stdout

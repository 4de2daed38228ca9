"""The documentation runs, keeps to its width, names files that exist, and builds as a site without a warning."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import LANGUAGES, ROOT, WIDTH, blocks, environment, long_lines, pages, run_blocks
from small import small_config

import fut
from fut.cli.app import app

DOCUMENTS = [page for page in pages() if page.name != "README.md"]
RUNNING = [page for page in DOCUMENTS if any(block.language in ("python", "sh", "console") for block in blocks(page))]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with what the pages presume: a run in `demo`, and a text in `book.txt`."""
    monkeypatch.chdir(tmp_path)
    fut.train("demo", small_config(data={"items": 11}), device="cpu").cache(["adjoint"])
    (tmp_path / "book.txt").write_text("".join(f"Sentence {i} of a book about {i * i}. " for i in range(9000)))
    return tmp_path


@pytest.mark.parametrize("document", RUNNING, ids=lambda path: path.name)
def test_every_block_of_a_page_runs(document: Path, place: Path) -> None:
    run_blocks(document)


@pytest.mark.parametrize("document", pages(), ids=lambda path: path.name)
def test_every_block_says_what_it_is(document: Path) -> None:
    strange = [(block.line, block.language) for block in blocks(document) if block.language not in LANGUAGES]
    assert not strange, f"{document.name}: expected one of {sorted(LANGUAGES)}, got {strange}"


@pytest.mark.parametrize("document", [*pages(), ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_lines_are_short(document: Path) -> None:
    found = long_lines(document)
    assert not found, f"{document.name}: lines {found} have more than {WIDTH} characters; break them"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}\n" not in navigation]
    assert not missing, f"mkdocs.yml does not name {missing}"


def test_every_documented_name_is_public() -> None:
    """`api.md` documents each public name of `fut`, and each once."""
    named = re.findall(r"^::: fut\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(fut.__all__)


def test_the_command_line_page_is_what_the_program_says() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli_docs", ROOT / "scripts" / "generate_cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == made.page(app), "run `python scripts/generate_cli_docs.py`"
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == made.settings_page(), "run `python scripts/generate_cli_docs.py`"
    assert made.LISTING.read_text(encoding="utf-8") == made.listing(app), "run `python scripts/generate_cli_docs.py`"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "api/index.html", "benchmarks/index.html"):
        assert (tmp_path / "site" / page).exists(), page
    assert "memorize" in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")

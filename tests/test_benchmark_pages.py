"""The pages on benchmarks: what they name exists, what exists is named, and lines are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RECORDS = BENCHMARKS / "records"
INDEX = BENCHMARKS / "README.md"
PAGES = sorted((BENCHMARKS / "pages").glob("*.md"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in (INDEX, *PAGES)}
WORDS = "\n".join(TEXTS.values())

UNREFERENCED: frozenset[str] = frozenset()
"""Records that no page names, on purpose."""
NOT_RECORDS = {"order.json", "summary.json"}
"""Files of a run that pages name, and placeholders aside the only names that look like a record's."""
WIDTH = 100


def commands() -> set[str]:
    scripts = BENCHMARKS.glob("*.py")
    return {path.name for path in scripts if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")}


def prose(text: str) -> list[str]:
    """Its lines without tables and addresses of links."""
    return [re.sub(r"\]\([^)]*\)|https?://\S+", "]", line) for line in text.splitlines() if not line.startswith("|")]


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_record_that_is_named_exists() -> None:
    named = set(re.findall(r"`([\w-]+\.json|[\w-]+\.png)`", WORDS)) - NOT_RECORDS
    unknown = {name for name in named if "NAME" not in name and not (RECORDS / name).exists()}
    assert len(named) > 50
    assert not unknown


def test_every_record_is_named() -> None:
    missing = {path.name for path in RECORDS.iterdir() if not re.search(rf"(?<![\w-]){re.escape(path.name)}", WORDS)}
    assert missing == UNREFERENCED


def test_every_command_is_named() -> None:
    missing = {name for name in commands() if not re.search(rf"\b{re.escape(name)}", WORDS)}
    assert not missing


def test_every_script_in_a_command_exists() -> None:
    named = set(re.findall(r"python benchmarks/([\w/]+\.py)", WORDS))
    assert named
    assert not {name for name in named if not (BENCHMARKS / name).exists()}


def test_the_index_links_every_page() -> None:
    assert set(re.findall(r"\]\(pages/([\w-]+\.md)\)", TEXTS["README.md"])) == {path.name for path in PAGES}


@pytest.mark.parametrize("page", [INDEX, *PAGES], ids=lambda path: path.stem)
def test_links_and_lines(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text)):
        if target.startswith("http"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links {target}"
        assert not anchor or anchor in anchors(path), f"{page.name} links {target}#{anchor}"
    long = [line for line in prose(text) if len(line) > WIDTH]
    assert not long

"""Hooks of the documentation site (`mkdocs.yml`): pages of the repository outside `docs/`.

The site shows the README as its first page, and CHANGELOG, CONTRIBUTING and the pages and records of
`benchmarks/` beside those of `docs/`. Their links are written for the repository; here they are rewritten
for the site. A link to a file that the site does not hold becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOME = "README.md"
PAGES = (HOME, "CHANGELOG.md", "CONTRIBUTING.md")
RECORDS = ("*.md", "*.json", "*.png")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|!\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the repository's own pages and the benchmarks to the files of `docs/`."""
    from mkdocs.structure.files import File

    found = [ROOT / name for name in PAGES]
    found += [path for pattern in RECORDS for path in sorted((ROOT / "benchmarks").rglob(pattern))]
    for path in found:
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, _on_site(name), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite links that are relative to the repository into links that are relative to the site."""
    own = page.file.src_uri

    def rewritten(match: re.Match[str]) -> str:
        picture, text, target = match[4] is not None, match[1] or match[3] or "", match[2] or match[4]
        if target.startswith(("http:", "https:", "mailto:", "#")):
            return match[0]
        file, _, anchor = target.partition("#")
        repository = posixpath.normpath(posixpath.join(posixpath.dirname(_in_repository(own)), file))
        site = _on_site(repository)
        if files.get_file_from_path(site) is None:
            if (ROOT / repository).exists():
                return text
            return match[0]  # mkdocs names it as a broken link
        relative = posixpath.relpath(site, posixpath.dirname(own) or ".")
        return f"{'!' * picture}[{text}]({relative}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(rewritten, markdown)


def _on_site(repository: str) -> str:
    """`docs/orders.md` is `orders.md` on the site, and the README its first page."""
    return "index.md" if repository == HOME else repository.removeprefix("docs/")


def _in_repository(site: str) -> str:
    """The inverse of `_on_site`."""
    if site == "index.md":
        return HOME
    outside = site in PAGES or site.startswith("benchmarks/")
    return site if outside else f"docs/{site}"

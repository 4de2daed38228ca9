"""The report of a run: one self-contained HTML file, with a board on which batches are put into another order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fut.errors import UsageError
from storage import write_bytes

if TYPE_CHECKING:
    from fut.methods.context import Context

NAME = "report.html"
SAMPLES = 512
"""Random orders that are estimated, not trained, for the picture of the order effect."""


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Args:
        path: of the file.
        nbytes: its size.
        missing: what of the run it could not show: question -> command that would answer it.
    """

    path: Path
    nbytes: int
    missing: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"path": str(self.path), "bytes": self.nbytes, "missing": self.missing}


def write_report(
    run: Context, out: Path | str | None = None, samples: int = SAMPLES, estimator: str = "positions"
) -> Report:
    """Write the report of a run; the same run state gives the same bytes.

    Args:
        run: the opened run.
        out: the file, which is replaced; by default `report.html` in the run's directory.
        samples: random orders that are estimated for the picture of the order effect; 0 for none.
        estimator: the method that estimates them.

    Returns:
        Where the report lies, and what it could not show.

    Raises:
        UsageError: where the file cannot be written.
    """
    from fut.report.page import make_page

    path = Path(out) if out is not None else run.path / NAME
    _require_writable(path)
    page = make_page(run, samples, estimator)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.html)
    return Report(path, len(page.html), page.missing)


def _require_writable(path: Path) -> None:
    """UsageError, before the page is made, where it could not be written."""
    if path.is_dir():
        raise UsageError(f"report: expected a file to write, got the directory {path}; correct --out")
    place = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UsageError(f"report: expected a place that can be written to, got {path}; name another with --out")

"""Pictures written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage import replacing


def save(figure: Any, path: Path) -> Path:
    """Write a matplotlib figure as PNG, and its folder where there is none; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format="png")
    return path

"""A configuration of a few thousand parameters: the real trainer, cacher and text, in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fut
from fut.config import Config, load_config

MakeRun = Callable[..., fut.Run]

SMALL: dict[str, dict[str, Any]] = {
    "data": {"items": 5, "batch": 2, "context": 12, "probe": 4},
    "model": {"width": 8, "layers": 1, "heads": 2},
    "warmup": {"steps": 4, "ramp": 2},
    "cache": {"size": 96, "item_block": 2},
}


def small_config(**sections: dict[str, Any]) -> Config:
    """The small configuration with some keys changed."""
    merged = {name: SMALL.get(name, {}) | sections.get(name, {}) for name in {*SMALL, *sections}}
    return load_config(None, (), **merged)

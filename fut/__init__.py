"""fut: what would training have produced had the data come in another order? Estimated without training again.

    import fut
    run = fut.open("runs/demo")
    run.estimate(["reverse", "random:7"])

`storage` and `estimators` are the two packages that it stands on; users import only `fut`. `except fut.EXPECTED` catches every
error that is raised on purpose, whichever package it comes from.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = Path(__file__).resolve().parent.parent
for _package in ("storage", "estimators"):
    _spec = importlib.util.find_spec(_package)
    if _spec is None or _spec.origin is None or Path(_spec.origin).resolve().parent != _HERE / _package:
        raise ImportError(
            f"fut: expected the package `{_package}` at {_HERE / _package}, got {_spec.origin if _spec else 'none'}; "
            "another module of that name shadows it: rename that one, or put fut earlier on sys.path"
        )

from fut.version import __version__ as __version__

if TYPE_CHECKING:
    from estimators.errors import DivergenceError, OrderError, RuleError
    from estimators.orders.order import Order
    from fut.api.opening import open_run as open
    from fut.api.opening import train
    from fut.api.recorder import Recorder
    from fut.api.run import Run
    from fut.api.transfer import pull, push
    from fut.data.dataset import Dataset
    from fut.errors import EXPECTED, DataError, FutError, ModelError, NotCachedError, ResourceError, UsageError
    from fut.estimation.results import Endpoint, Estimate
    from fut.execution.registry import engine
    from fut.methods.settings import Config, load_config
    from fut.models.transformer import Transformer, next_token_loss
    from fut.planning import Plan, plan
    from storage import DamagedError, DiskFullError, ExistsError, IdentityError, MissingError

_PLACES = {
    "DivergenceError": "estimators.errors",
    "OrderError": "estimators.errors",
    "RuleError": "estimators.errors",
    "Order": "estimators.orders.order",
    "open": "fut.api.opening:open_run",
    "train": "fut.api.opening",
    "Recorder": "fut.api.recorder",
    "Run": "fut.api.run",
    "pull": "fut.api.transfer",
    "push": "fut.api.transfer",
    "Dataset": "fut.data.dataset",
    "EXPECTED": "fut.errors",
    "DataError": "fut.errors",
    "FutError": "fut.errors",
    "ModelError": "fut.errors",
    "NotCachedError": "fut.errors",
    "ResourceError": "fut.errors",
    "UsageError": "fut.errors",
    "engine": "fut.execution.registry",
    "Endpoint": "fut.estimation.results",
    "Estimate": "fut.estimation.results",
    "Config": "fut.methods.settings",
    "load_config": "fut.methods.settings",
    "Transformer": "fut.models.transformer",
    "next_token_loss": "fut.models.transformer",
    "Plan": "fut.planning",
    "plan": "fut.planning",
    "DamagedError": "storage",
    "DiskFullError": "storage",
    "ExistsError": "storage",
    "IdentityError": "storage",
    "MissingError": "storage",
}
"""Where a public name is, by module, and by its name there where that is another. It is imported when it is first used, as
torch takes a second and `fut --help` needs none of it."""

__all__ = [
    "EXPECTED",
    "Config",
    "DamagedError",
    "DataError",
    "Dataset",
    "DiskFullError",
    "DivergenceError",
    "Endpoint",
    "Estimate",
    "ExistsError",
    "FutError",
    "IdentityError",
    "MissingError",
    "ModelError",
    "NotCachedError",
    "Order",
    "OrderError",
    "Plan",
    "Recorder",
    "ResourceError",
    "RuleError",
    "Run",
    "Transformer",
    "UsageError",
    "engine",
    "load_config",
    "next_token_loss",
    "open",
    "plan",
    "pull",
    "push",
    "train",
]


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, imported when it is first asked for."""
    if name in _PLACES:
        module, _, there = _PLACES[name].partition(":")
        value = getattr(importlib.import_module(module), there or name)
    elif not name.startswith("_") and importlib.util.find_spec(f"fut.{name}") is not None:
        value = importlib.import_module(f"fut.{name}")
    else:
        raise AttributeError(f"module `fut` has no attribute `{name}`")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

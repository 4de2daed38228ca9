"""fut: what would training have produced had the data come in another order? Estimated without training again.

    import fut
    run = fut.open("runs/demo")
    run.estimate(["reverse", "random:7"])

`storage` and `estimators` are the two packages that it stands on; users import only `fut`. `except fut.EXPECTED` catches every
error that is raised on purpose, whichever package it comes from.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent
for _package in ("storage", "estimators"):
    _spec = importlib.util.find_spec(_package)
    if _spec is None or _spec.origin is None or Path(_spec.origin).resolve().parent != _HERE / _package:
        raise ImportError(
            f"fut: expected the package `{_package}` at {_HERE / _package}, got {_spec.origin if _spec else 'none'}; "
            "another module of that name shadows it: rename that one, or put fut earlier on sys.path"
        )

from estimators.errors import DivergenceError, OrderError, RuleError
from estimators.orders.order import Order
from fut.api.opening import open_run as open
from fut.api.opening import train
from fut.api.recorder import Recorder
from fut.api.run import Run
from fut.data.dataset import Dataset
from fut.errors import EXPECTED, DataError, FutError, ModelError, NotCachedError, ResourceError, UsageError
from fut.estimation.results import Endpoint, Estimate
from fut.methods.settings import Config, load_config
from fut.models.transformer import Transformer, next_token_loss
from fut.planning import Plan, plan
from fut.version import __version__ as __version__
from storage import DamagedError, DiskFullError, ExistsError, IdentityError, MissingError

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
    "load_config",
    "next_token_loss",
    "open",
    "plan",
    "train",
]

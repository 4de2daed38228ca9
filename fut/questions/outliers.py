"""Items whose gradient is far larger than others': what first order in curvature is too little for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fut.methods.registry import method_of
from fut.protocols import RunFacts

OUTLYING = 4.0
"""Gradient norm of an item, as a multiple of the median item's, above which estimates of its moves are warned of."""


def outlier_note(run: RunFacts, items: Sequence[int], estimator: str) -> str:
    """A warning, as the end of a note, of those of the items that are outliers to an estimator; nothing where none is."""
    inexact = bool(items) and not method_of(estimator).capabilities.exact_curvature
    scores = run.scores("gradient-norm") if inexact else []
    typical = float(np.median(scores)) if scores else 0.0
    large = [item for item in items if scores and scores[item] > OUTLYING * typical]
    if not large:
        return ""
    times = max(scores[item] for item in large) / typical if typical else math.inf
    return (
        f"; the gradient of item {', '.join(map(str, large))} is up to {times:.1f} times the median item's: estimates of such "
        "an outlier err by more than their intervals, --estimator replay-exact and --verify are to be trusted"
    )

"""The reweighting method: items left out or reweighted in their own steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fut.methods.base import Capabilities, Estimator, Method
from fut.methods.context import Context
from fut.methods.reweighting.estimator import Reweighting
from fut.methods.reweighting.pipeline import REWEIGHTING_TERMS
from fut.methods.reweighting.terms import open_reweighting
from fut.readouts.readout import PROBE


class ReweightingMethod(Method):
    """Leave-out effects about the reference run itself; no gradient per order."""

    name = "reweighting"
    capabilities = Capabilities(moves_items=False, needs_smooth=True, coupling="coordinate", swept=True)
    preparation = REWEIGHTING_TERMS

    def open(self, context: Context, readout: str = PROBE, **options: Any) -> Estimator:
        return Reweighting(context, readout, **options)

    def fingerprint(self, context: Context, readout: str) -> Mapping[str, Any]:
        return open_reweighting(context).spec.settings


REWEIGHTING_METHOD = ReweightingMethod()

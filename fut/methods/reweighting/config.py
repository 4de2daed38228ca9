"""Settings of the reweighting method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fut.config.schema import MANY, ReadoutNames, Section


class ReweightingConfig(Section):
    """The expansion about the reference run itself, which the reweighting estimator reads."""

    products: Literal["difference", "exact"] = Field(
        "difference", description="Hessian-vector products by central difference (2 gradients) or torch.func"
    )
    coordinates: int = Field(
        0, ge=0, le=MANY, description="expected number of sampled coordinates; 0 for all of up to 131072, else 32768"
    )
    readouts: ReadoutNames = Field(["probe"], description="what is estimated, as adjoint.readouts")
    seed: int = Field(0, ge=0, lt=1 << 63, description="seed of the sample of coordinates")

"""Settings of the terms of every (checkpoint, item) pair."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fut.config.schema import FEW, MANY, Section


class CacheConfig(Section):
    """What the cacher computes for every (checkpoint, item) pair."""

    sketch: Literal["gaussian", "rademacher", "sjlt", "coordinates", "identity"] = Field(
        "sjlt", description="random projection of update terms to `size` numbers; identity keeps all of them"
    )
    size: int = Field(
        4096, ge=1, le=MANY, description="k, numbers kept of each update term; all of a model that has fewer"
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="seed of the sketch and of the sample of coordinates")
    coordinates: int = Field(0, ge=0, le=MANY, description="coordinates kept of each item gradient; 0 for all")
    derivative: Literal["jvp", "secant"] = Field("jvp", description="exact products, or the paper's diagonal secant")
    products: Literal["difference", "exact"] = Field(
        "difference", description="Hessian-vector products by central difference (2 gradients) or torch.func (about 4)"
    )
    item_block: int = Field(8, ge=1, le=FEW, description="items computed and made durable together")

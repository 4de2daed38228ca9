"""Settings of the low-rank method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fut.config.schema import FEW, MANY, Section


class LowRankConfig(Section):
    """Low-rank curvature of the mean loss about the trajectory, which the lowrank estimator reads beside item gradients; the
    centre and its anchors are as in `adjoint`."""

    rank: int = Field(
        32, ge=1, le=FEW, description="Ritz pairs at every curvature anchor, a Hessian-vector product each"
    )
    num_anchors: int = Field(4, ge=1, le=FEW, description="checkpoints of the trajectory at which they are taken")
    pool: int = Field(
        2, ge=1, le=FEW, description="size of a batch drawn from all items, in steps (items per step each)"
    )
    refresh: int = Field(
        16,
        ge=0,
        le=MANY,
        description="steps between true mean gradients of an order, which put back what low rank leaves out; 0: none",
    )
    clamp: float = Field(
        0.99, gt=0, le=1, description="quantile above which the metric's weights are clamped; 1 for none"
    )
    dtype: Literal["model", "bfloat16"] = Field(
        "model", description="how item gradients and low-rank vectors are stored: as the model computes, or in 16 bits"
    )
    seed: int = Field(
        0, ge=0, lt=1 << 31, description="seed of drawn batches and of the start of the Lanczos iteration"
    )

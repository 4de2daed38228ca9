"""Settings of the adjoint method."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fut.config.schema import ALL, FEW, MANY, ReadoutNames, Section

STORED = ("storage", "scratch", "scratch_bytes", "replay_error")
"""Settings on which no number that an expansion is made of depends: how scratch is stored, and how finely orders are replayed."""


class ReplayConfig(Section):
    """How finely orders are replayed, whatever the expansion is made of."""

    replay_error: float = Field(
        0.03,
        ge=0,
        lt=1,
        description="where all coordinates are kept: what replaying few of them may err by, as a share of what simulated orders "
        "differ by; the fewest are drawn that come within it. 0 replays all",
    )


class AdjointConfig(ReplayConfig):
    """The expansion about the trajectory that the adjoint estimator reads."""

    trajectory: Literal["ensemble", "mixture"] = Field(
        "ensemble",
        description="what is expanded about: the mean of runs under a few orders, with curvature averaged over them, or one "
        "trajectory of which every step averages transitions",
    )
    num_runs: int = Field(
        4,
        ge=1,
        le=FEW,
        description="how many runs, or transitions in every step, each of as many items as a step consumes",
    )
    left_out: list[Annotated[int, Field(ge=0, le=MANY)]] = Field(
        [],
        max_length=2 * FEW,
        description="numbers of runs in whose place others stand, as their training diverges; `fut cache` finds and keeps them",
    )
    curvature: Literal["items", "pooled"] = Field(
        "pooled",
        description="Hessian-vector products of the trajectory's own items, or of one batch drawn from all items",
    )
    pool: int = Field(2, ge=1, le=FEW, description="size of that batch, in steps (items per step each)")
    draw: Literal["balanced", "independent"] = Field(
        "balanced",
        description="whether every sample occurs once in consecutive batches before any occurs again, or each step draws anew",
    )
    functionals: int = Field(
        8,
        ge=0,
        le=FEW,
        description="directions along which the first read-out is read quadratically; 0 for a linear reading",
    )
    products: Literal["difference", "exact"] = Field(
        "difference",
        description="Hessian-vector products of the exact read-outs' adjoint pass, by difference (one-sided for items, whose "
        "gradients are known) or torch.func; functionals and pooled read-outs have one-sided differences",
    )
    num_exact_readouts: int = Field(
        0,
        ge=0,
        le=MANY,
        description="how many of the read-outs, the first ones, have products on the whole pool; the others have theirs as "
        "functionals do, at an eighth of the cost; 0 for all",
    )
    rank: int = Field(
        0,
        ge=0,
        le=ALL,
        description="Ritz pairs of curvature with which orders are replayed, at each of `curvatures` checkpoints of the "
        "trajectory; what they do to first order is in the adjoint pass already, and is taken off (of a linear rule without "
        "clipping that is all); "
        "0 for a replay without curvature",
    )
    curvatures: int = Field(4, ge=1, le=FEW, description="checkpoints of the trajectory at which those are taken")
    num_anchors: int = Field(
        3,
        ge=0,
        le=FEW,
        description="checkpoints of the trajectory at which item gradients are taken; 0 for 3, 5 or 9, whichever is enough for "
        "`anchor_error`",
    )
    anchor_error: float = Field(
        0.05,
        gt=0,
        description="with num_anchors = 0, what gradients half-way between two anchors may err by once interpolated: as a share "
        "of what items differ by, both as the first read-out feels them",
    )
    spacing: Literal["rate", "steps"] = Field(
        "rate", description="whether anchors are spread evenly over the sum of learning rates, or over steps"
    )
    coordinates: int = Field(
        0, ge=0, le=ALL, description="expected number of sampled coordinates; 0 for all of up to 131072, else 8192"
    )
    simulated: int = Field(4, ge=1, le=FEW, description="simulated orders behind the sampling probabilities")
    control: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether the table of positions is taken on all coordinates as a control variate of a sample of them; auto: "
        "while it has at most 32768 entries (steps times items), as each takes a step of the rule on all parameters",
    )
    drawn: Literal["after", "before"] = Field(
        "after",
        description="when a sample of coordinates is drawn: after the backward pass, by what coordinates contribute to simulated "
        "orders, for which the pass is scratch on all of them; or before it, by updates and slopes alone, so that nothing of "
        "whole size is stored a step",
    )
    storage: Literal["auto", "store", "retrain"] = Field(
        "auto",
        description="whether the trajectory is stored step by step, or every ceil(sqrt(T)) steps and trained again in between; "
        "the numbers are the same bits. auto: stored where that takes no more than `scratch_bytes`, and than is free",
    )
    scratch: Literal["disk", "memory"] = Field(
        "disk",
        description="where trajectory and scratch are until the expansion is complete: files, from which a killed command goes "
        "on; or memory, of a GPU while half of it is free and else of the host, and a killed command begins again. Read-outs "
        "that are added later train the trajectory again where it was in memory",
    )
    scratch_bytes: int = Field(
        1 << 34,
        ge=0,
        le=1 << 62,
        description="bytes of trajectory and scratch above which the trajectory is not stored step by step",
    )
    readouts: ReadoutNames = Field(
        ["probe"],
        description="what is estimated: probe, accuracy, items, item:I, package.module:name, or a name registered in Python; "
        "after some steps probe@STEP and the like",
    )
    seed: int = Field(
        0, ge=0, lt=1 << 63, description="seed of the runs' orders, of drawn batches and of the sample of coordinates"
    )

    def identity(self) -> dict[str, Any]:
        """What an expansion pins, read-outs and fields without an effect on its numbers aside."""
        return self.model_dump(mode="json", exclude={"readouts", *self.idle()})

    def idle(self) -> set[str]:
        """Names of fields that have no effect, the others being what they are."""
        idle = {"curvatures": not self.rank, "anchor_error": self.num_anchors, "left_out": not self.left_out}
        without_effect = {name for name, idles in idle.items() if idles}
        return set(STORED) | without_effect | (set() if self.drawn == "before" else {"drawn"})


def in_memory(config: AdjointConfig) -> bool:
    """Whether trajectory and scratch are in memory alone."""
    return config.scratch == "memory"

"""The sections of a configuration: what each key means, and which values it may have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataConfig(Section):
    """Text and how it is cut into items. Lengths in tokens."""

    text: str = Field("", description="file or directory; empty for the language reference inside CPython")
    tokenizer: str = Field("", description="package.module:name of a callable str -> list of ids; empty for bytes")
    vocabulary: int = Field(256, ge=2, description="number of token ids; 256 for bytes")
    items: int = Field(32, ge=1, description="number of items the order permutes")
    per_step: int = Field(1, ge=1, description="items that each step consumes; a divisor of items")
    epochs: int = Field(1, ge=1, description="times each item occurs in the reference order")
    batch: int = Field(16, ge=1, description="sequences per item")
    context: int = Field(64, ge=2, description="tokens per sequence")
    probe: int = Field(128, ge=1, description="held-out sequences of the probe set")
    heterogeneous: bool = Field(False, description="item i from zone i of the text, instead of mixed items")
    seed: int = Field(0, ge=0, lt=1 << 63)

    @field_validator("per_step")
    @classmethod
    def _divides(cls, per_step: int, info: ValidationInfo) -> int:
        items = info.data.get("items", per_step)  # absent where it is wrong itself
        if items % per_step:
            raise ValueError(f"expected a divisor of data.items={items}; change one of the two")
        return per_step


class ModelConfig(Section):
    """Built-in transformer, or the user's module by hook."""

    width: int = Field(48, ge=1)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    factory: str = Field("", description="package.module:name called with (vocabulary, context)")
    loss: str = Field("", description="package.module:name called with (module, *item)")
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = Field(0, ge=0, lt=1 << 63)


USUAL: dict[str, dict[str, Any]] = {name: {"betas": [0.9, 0.95], "eps": 1e-8} for name in ("adam", "adamw")}
"""Constants of a rule where none are given: for language models a shorter memory of squares than torch's."""


class RuleConfig(Section):
    """Update rule: a name and its constants."""

    name: str = "adamw"
    options: dict[str, Any] = Field(default_factory=lambda data: dict(USUAL.get(data.get("name", ""), {})))


class ScheduleConfig(Section):
    """Learning rate over the window's steps."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    rate: float = Field(1e-3, gt=0)
    warmup: int = Field(0, ge=0)
    final: float = Field(0.0, ge=0, le=1, description="last rate as a fraction of the first")


class WarmupConfig(Section):
    """Training before the window, on text that no item holds; the same for every order."""

    steps: int = Field(100, ge=0)
    rate: float = Field(3e-3, gt=0)
    ramp: int = Field(20, ge=1, description="steps of linear ramp to the rate")


class CacheConfig(Section):
    """What the cacher computes for every (checkpoint, item) pair."""

    sketch: Literal["gaussian", "rademacher", "sjlt", "coordinates", "identity"] = "sjlt"
    size: int = Field(4096, ge=1, description="k, numbers kept of each update term")
    seed: int = Field(0, ge=0, lt=1 << 63)
    coordinates: int = Field(0, ge=0, description="coordinates kept of each item gradient; 0 for all")
    derivative: Literal["jvp", "secant"] = Field("jvp", description="exact products, or the paper's diagonal secant")
    products: Literal["difference", "exact"] = Field(
        "difference", description="Hessian-vector products by central difference (2 gradients) or torch.func (about 4)"
    )
    item_block: int = Field(8, ge=1, description="items computed and made durable together")


def _distinct(names: list[str]) -> list[str]:
    if not all(names) or len(set(names)) < len(names):
        raise ValueError("expected names that are not empty, each once")
    return names


ReadOuts = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]


class AdjointConfig(Section):
    """The expansion about the centre that the adjoint estimator reads."""

    centre: Literal["ensemble", "mixture"] = Field(
        "ensemble",
        description="what is expanded about: the mean of runs under a few orders, with curvature averaged over them, or one "
        "trajectory of which every step averages transitions",
    )
    mixture: int = Field(
        4, ge=1, description="how many runs, or transitions in every step, each of as many items as a step consumes"
    )
    curvature: Literal["items", "pooled"] = Field(
        "pooled",
        description="Hessian-vector products of the centre's own items, or of one batch drawn from all items",
    )
    pool: int = Field(2, ge=1, description="size of that batch, in steps (items per step each)")
    draw: Literal["balanced", "independent"] = Field(
        "balanced",
        description="whether every sample occurs once in consecutive batches before any occurs again, or each step draws anew",
    )
    functionals: int = Field(
        8, ge=0, description="directions along which the first read-out is read quadratically; 0 for a linear reading"
    )
    products: Literal["difference", "exact"] = Field(
        "difference",
        description="Hessian-vector products of the fine read-outs' sweep, by difference (one-sided for items, whose gradients "
        "are known) or torch.func; functionals and coarse read-outs have one-sided differences",
    )
    fine: int = Field(
        0,
        ge=0,
        description="how many of the read-outs, the first ones, have products on the whole pool; the others have theirs as "
        "functionals do, at an eighth of the cost; 0 for all",
    )
    rank: int = Field(
        0,
        ge=0,
        description="Ritz pairs of curvature with which orders are replayed, at each of `curvatures` checkpoints of the centre; "
        "what they do to first order is in the sweep already, and is taken off (of a linear rule without clipping that is all); "
        "0 for a replay without curvature",
    )
    curvatures: int = Field(4, ge=1, description="checkpoints of the centre at which those are taken")
    anchors: int = Field(
        3,
        ge=0,
        description="checkpoints of the centre at which item gradients are taken; 0 for 3, 5 or 9, whichever is enough for "
        "`anchor_error`",
    )
    anchor_error: float = Field(
        0.05,
        gt=0,
        description="with anchors = 0, what gradients half-way between two anchors may err by once interpolated: as a share of "
        "what items differ by, both as the first read-out feels them",
    )
    spacing: Literal["rate", "steps"] = Field(
        "rate", description="whether anchors are spread evenly over the sum of learning rates, or over steps"
    )
    coordinates: int = Field(
        0, ge=0, description="expected number of sampled coordinates; 0 for all of up to 131072, else 8192"
    )
    simulated: int = Field(4, ge=1, description="simulated orders behind the sampling probabilities")
    control: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether the table of positions is taken on all coordinates as a control variate of a sample of them; auto: "
        "while it has at most 32768 entries (steps times items), as each takes a step of the rule on all parameters",
    )
    readouts: ReadOuts = Field(
        ["probe"],
        description="what is estimated: probe, accuracy, items, item:I, package.module:name, or a name registered in Python",
    )
    seed: int = Field(0, ge=0, lt=1 << 63)
    apart: bool = Field(
        True,
        description="whether the centre's orders are drawn apart from random orders of the same seed, which a verification may "
        "hold out; not so in expansions of earlier versions",
    )

    def identity(self) -> dict[str, Any]:
        """What an expansion pins, read-outs aside; fields that earlier versions did not have only where they are not what
        those did."""
        usual = {name for name, value in ADDED.items() if getattr(self, name) == value}
        return self.model_dump(mode="json", exclude={"readouts", *usual, *self.idle()})

    def idle(self) -> set[str]:
        """Names of fields that have no effect, the others being what they are."""
        return (set() if self.rank else {"curvatures"}) | ({"anchor_error"} if self.anchors else set())

    @classmethod
    def stored(cls, identity: dict[str, Any]) -> AdjointConfig:
        """The configuration that an expansion of this or an earlier version pins."""
        return cls.model_validate(ADDED | identity)


ADDED = {
    "products": "difference",
    "fine": 0,
    "centre": "mixture",
    "spacing": "steps",
    "control": "never",
    "draw": "independent",
    "apart": False,
    "rank": 0,
    "curvatures": 4,
    "anchor_error": 0.05,
}
"""What expansions of earlier versions were made with, which had no such fields."""


class CurvedConfig(Section):
    """Low-rank curvature of the mean loss about the centre, which the curved estimator reads beside item gradients; the
    centre and its anchors are as in `adjoint`."""

    rank: int = Field(32, ge=1, description="Ritz pairs at every curvature anchor, a Hessian-vector product each")
    anchors: int = Field(4, ge=1, description="checkpoints of the centre at which they are taken")
    pool: int = Field(2, ge=1, description="size of a batch drawn from all items, in steps (items per step each)")
    refresh: int = Field(
        16,
        ge=0,
        description="steps between true mean gradients of an order, which put back what low rank leaves out; 0: none",
    )
    clamp: float = Field(
        0.99, gt=0, le=1, description="quantile above which the metric's weights are clamped; 1 for none"
    )
    dtype: Literal["model", "bfloat16"] = Field(
        "model", description="how item gradients and low-rank vectors are stored: as the model computes, or in 16 bits"
    )
    seed: int = Field(0, ge=0, lt=1 << 31)


class ReweightingConfig(Section):
    """The expansion about the reference run itself, which the reweighting estimator reads."""

    products: Literal["difference", "exact"] = Field(
        "difference", description="Hessian-vector products by central difference (2 gradients) or torch.func"
    )
    coordinates: int = Field(
        0, ge=0, description="expected number of sampled coordinates; 0 for all of up to 131072, else 32768"
    )
    readouts: ReadOuts = Field(["probe"], description="what is estimated, as adjoint.readouts")
    seed: int = Field(0, ge=0, lt=1 << 63)

"""The sections of a configuration: what each key means, and which values it may have."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

MANY = 10**8
"""The most of anything that is counted: items, sequences, tokens, steps."""
ALL = 10**12
"""The most of what is cut to as much as there is, so that a large number stands for all: coordinates, directions."""
FEW = 10**4
"""The most of what takes a training run, a sweep or a layer each."""
LARGEST = 1e300
"""The largest number of an option."""
LARGEST_WEIGHT = 1e30
"""The largest weight of an item."""
WIDE = 10**6
"""The most numbers of a vector inside the model, or of a sketch."""


def printable(path: str) -> str:
    """A text that can be written down: bytes of paths that are no UTF-8 as `\\xNN`, by which `fut.data.text` finds a file."""
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # no bytes of a path
        return path.encode("utf-8", "backslashreplace").decode("utf-8")


def plain_values(value: Any) -> Any:
    """What TOML and JSON both hold: texts, truth values, finite numbers, and lists and tables of them."""
    if isinstance(value, dict):
        return {key: plain_values(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(part) for part in value]
    number = type(value) in (int, float) and -LARGEST <= value <= LARGEST
    if number or type(value) in (bool, str):
        return value
    raise ValueError("expected finite numbers, texts and lists of them")


def _positive(weight: Any) -> bool:
    """Whether something is a weight: a finite number above 0, and no truth value."""
    return isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 < weight <= LARGEST_WEIGHT


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _python_numbers(cls, values: Any) -> Any:
        """Numbers of numpy as Python's own."""
        if not isinstance(values, dict):
            return values
        return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}


class DataConfig(Section):
    """Text and how it is cut into items. Lengths in tokens."""

    text: Annotated[str, AfterValidator(printable)] = Field(
        "", description="file or directory; empty, or language-reference, for the language reference inside CPython"
    )
    tokenizer: str = Field("", description="package.module:name of a callable str -> list of ids; empty for bytes")
    vocabulary: int = Field(256, ge=2, le=MANY, description="number of token ids; 256 for bytes")
    items: int = Field(
        32, ge=1, le=MANY, description="number of items the order permutes; counted where a data set is given"
    )
    per_step: int = Field(1, ge=1, le=MANY, description="items that each step consumes; a divisor of items")
    epochs: int = Field(1, ge=1, le=FEW, description="times each item occurs in the reference order")
    batch: int = Field(16, ge=1, le=MANY, description="sequences per item")
    context: int = Field(64, ge=2, le=MANY, description="tokens per sequence")
    probe: int = Field(128, ge=1, le=MANY, description="held-out sequences of the probe set")
    heterogeneous: bool = Field(False, description="item i from zone i of the text, instead of mixed items")
    seed: int = Field(0, ge=0, lt=1 << 63, description="seed of the draw of items, warm-up and probe set from the text")
    weights: list[Annotated[float, Field(gt=0, le=LARGEST_WEIGHT)]] = Field(
        default_factory=list,
        description="weight of every item in the mean of a step that holds several, as its number of counted tokens; none: alike",
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _weighs(cls, weights: Any) -> Any:
        """What is wrong with a list of weights, said of its first wrong entry alone."""
        if not isinstance(weights, list):
            return weights
        wrong = [place for place, weight in enumerate(weights) if not _positive(weight)]
        if not wrong:
            return weights
        more = f", and of {len(wrong) - 1} others" if len(wrong) > 1 else ""
        about = {"got": repr(weights[wrong[0]])[:40], "item": wrong[0], "more": more}
        raise PydanticCustomError(
            "weights",
            "expected a finite number above 0 for every item, got {got} of item {item}{more}; leave an item out of an order "
            "instead of weighing it 0",
            about,
        )

    @field_validator("epochs")
    @classmethod
    def _countable(cls, epochs: int, info: ValidationInfo) -> int:
        if epochs * info.data.get("items", 1) > MANY:
            raise ValueError(f"expected data.items × data.epochs of at most {MANY}; lower one of the two")
        return epochs

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if "items" in self.model_fields_set and self.items % self.per_step:  # else a data set says how many there are
            about = {"key": "per_step", "items": self.items, "got": self.per_step}
            raise PydanticCustomError("key", "expected a divisor of data.items={items}; change one of the two", about)
        return self


class ModelConfig(Section):
    """Built-in transformer, or the user's module by hook."""

    width: int = Field(
        48, ge=1, le=WIDE, description="width of the built-in transformer, numbers per token; a multiple of heads"
    )
    layers: int = Field(2, ge=1, le=FEW, description="number of blocks of the built-in transformer")
    heads: int = Field(4, ge=1, le=WIDE, description="attention heads of each layer")
    factory: str = Field(
        "", description="package.module:name called with (vocabulary, context), returns an nn.Module; empty: built-in"
    )
    loss: str = Field(
        "", description="package.module:name called with (module, *item), returns a mean loss; empty: next-token loss"
    )
    unit: str = Field(
        "",
        max_length=40,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="unit of the loss, as nats/token, which has a perplexity; empty: nats/token for the built-in loss, none else",
    )
    forward: list[str] = Field(
        default_factory=list,
        description="arguments of a forward pass that returns its loss, one for each tensor of an item; with * before "
        "it, one that is given by its place",
    )
    constants: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="further arguments of that forward pass, the same for every item"
    )
    training: dict[str, float | Literal["targets", "shifted targets"]] = Field(
        default_factory=dict,
        description="further arguments in training mode alone, as the number of targets that a loss is divided by; for targets "
        "and shifted targets (all but the first of each row) that of the item's own labels",
    )
    noise: Literal["content", "recorded"] = Field(
        "content",
        description="what random numbers of the loss are keyed by: an item's content, or the generator's state that was recorded "
        "with it and is its last tensor; both travel with the item",
    )
    noise_key: Literal["item", "step"] = Field(
        "item",
        description="whether random numbers of the loss travel with the item, or stay at the step, as in a loop that draws them "
        "in turn: then an item has those of the step and of its place among the items of its own step in the reference order",
    )
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="number format of parameters and of all that is computed with them"
    )
    autocast: Literal["", "bfloat16"] = Field(
        "",
        description="number format in which torch.autocast runs forward and backward passes, parameters and optimizer being in "
        "`dtype`; empty: no autocast. Differences of gradients are taken without it",
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="seed of the starting parameters")


USUAL: dict[str, dict[str, Any]] = {name: {"betas": [0.9, 0.95], "eps": 1e-8} for name in ("adam", "adamw")}
"""Constants of a rule where none are given: for language models a shorter memory of squares than torch's."""


class RuleConfig(Section):
    """Update rule: a name and its constants."""

    name: str = Field("adamw", description="update rule: sgd, momentum, adam, adamw, or another that is registered")
    options: Annotated[dict[str, Any], AfterValidator(plain_values)] = Field(
        default_factory=lambda data: dict(USUAL.get(data.get("name", ""), {})),
        description="constants of the rule by name, as betas, eps, weight_decay, clip; of adam and adamw betas 0.9, 0.95",
    )


class ScheduleConfig(Section):
    """Learning rate over the window's steps."""

    kind: Literal["constant", "linear", "cosine", "recorded"] = Field(
        "cosine", description="how the learning rate goes from `rate` to `final` over the window"
    )
    rate: float = Field(1e-3, gt=0, description="largest learning rate, per step")
    warmup: int = Field(
        0, ge=0, le=MANY, description="steps of the window with a linear ramp to the rate, before the schedule begins"
    )
    final: float = Field(0.0, ge=0, le=1, description="last rate as a fraction of the first")
    rates: list[float] = Field(default_factory=list, description="of kind recorded: the rate of every step")
    groups: dict[str, list[float]] = Field(
        default_factory=dict, description="of kind recorded: rates of every step of groups that have their own, by name"
    )


class WarmupConfig(Section):
    """Training before the window, on text that no item holds; the same for every order."""

    steps: int = Field(100, ge=0, le=WIDE, description="steps before the window; counted where a data set is given")
    rate: float = Field(3e-3, gt=0, description="learning rate of the warm-up, per step, constant after the ramp")
    ramp: int = Field(20, ge=1, le=MANY, description="steps of linear ramp to the rate")


class CheckpointsConfig(Section):
    """Which checkpoints of the reference run are kept; states in between are trained again on demand, with the same bits."""

    every: int = Field(
        0,
        ge=0,
        le=MANY,
        description="steps between two that are kept; 1 for all, 0 for all while they take at most `bytes`, else every "
        "ceil(sqrt(T)). The first, the last and the one before it are always kept",
    )
    bytes: int = Field(1 << 34, ge=0, le=1 << 62, description="bytes of all checkpoints above which fewer are kept")


def _distinct(names: list[str]) -> list[str]:
    if not all(names) or len(set(names)) < len(names):
        raise ValueError("expected names that are not empty, each once")
    return names


ReadoutNames = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]

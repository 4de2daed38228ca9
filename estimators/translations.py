"""Which optimizers of torch are which rules: constants, memory and counters, class by class.

Sources: the state and parameter groups that torch 2.13 documents. A class is translated only if it stands in `TRANSLATIONS`
itself: a subclass may do something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .errors import RuleError
from .rules.adafactor import Adafactor
from .rules.adam import Adam, AdamW
from .rules.base import Rule
from .rules.momentum import Momentum
from .rules.muon import Muon
from .rules.nadam import NAdam
from .rules.radam import RAdam
from .rules.sgd import SGD

Constants = Mapping[str, Any]
"""A parameter group of torch without its tensors."""
Shape = tuple[int, ...]


def _as_parameter(buffer: str, shape: Shape) -> Shape | None:
    return shape


def _step_alone(rule: Any, steps: int) -> dict[str, Tensor]:
    return {"step": torch.tensor(float(steps))}


def _nothing(rule: Any, steps: int) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Translation:
    """How one class of optimizer is a rule.

    Args:
        optimizer: the class.
        rules: the kinds of rules that it becomes.
        rule: the rule of a parameter group's constants; RuleError for what it cannot express.
        constants: arguments of the class for a rule; the inverse of `rule`.
        buffers: torch's name of each buffer of the rule's memory.
        clock: the rule's counters after so many steps.
        counters: torch's counters of a tensor after so many steps, at least one.
        form: the shape of a buffer, by torch's name, of a tensor of a shape; None where the tensor has none.
    """

    optimizer: Callable[..., Optimizer]
    rules: tuple[type[Rule], ...]
    rule: Callable[[Constants], Rule]
    constants: Callable[[Any], dict[str, Any]]
    buffers: Mapping[str, str]
    clock: Callable[[Any, int], dict[str, float]]
    counters: Callable[[Any, int], dict[str, Tensor]] = _step_alone
    form: Callable[[str, Shape], Shape | None] = _as_parameter


def _adam(constants: Constants) -> Rule:
    _refuse(constants, maximize=False, differentiable=False)
    kind = AdamW if constants.get("decoupled_weight_decay", False) else Adam
    return kind(**_moments(constants), amsgrad=bool(constants["amsgrad"]))


def _moments(constants: Constants) -> dict[str, Any]:
    betas = (float(constants["betas"][0]), float(constants["betas"][1]))
    return {"betas": betas, "eps": constants["eps"], "weight_decay": float(constants["weight_decay"])}


def _adam_constants(rule: Adam) -> dict[str, Any]:
    if rule.decay != type(rule)().decay:
        other = AdamW.name if rule.decay == "decoupled" else Adam.name
        raise RuleError(f"the rule `{rule.name}`: expected its usual decay, got {rule.decay}; use `{other}`")
    return {"betas": rule.betas, "eps": rule.eps, "weight_decay": rule.weight_decay, "amsgrad": rule.amsgrad}


def _adam_clock(rule: Adam | RAdam, steps: int) -> dict[str, float]:
    b1, b2 = rule.betas
    return {"step": float(steps), "p1": b1**steps, "p2": b2**steps}


def _radam(constants: Constants) -> Rule:
    _refuse(constants, maximize=False, differentiable=False)
    return RAdam(**_moments(constants), decay=_decay(constants))


def _decay(constants: Constants) -> Any:
    return "decoupled" if constants["decoupled_weight_decay"] else "coupled"


def _decoupled_constants(rule: RAdam | NAdam) -> dict[str, Any]:
    own = {"betas": rule.betas, "eps": rule.eps, "weight_decay": rule.weight_decay}
    return own | {"decoupled_weight_decay": rule.decay == "decoupled"}


def _nadam(constants: Constants) -> Rule:
    _refuse(constants, maximize=False, differentiable=False)
    return NAdam(**_moments(constants), momentum_decay=constants["momentum_decay"], decay=_decay(constants))


def _nadam_constants(rule: NAdam) -> dict[str, Any]:
    return _decoupled_constants(rule) | {"momentum_decay": rule.momentum_decay}


def _nadam_clock(rule: NAdam, steps: int) -> dict[str, float]:
    product = math.prod(rule.momentum_at(step + 1.0) for step in range(steps))
    return {"step": float(steps), "p2": rule.betas[1] ** steps, "mu_product": product}


def _nadam_counters(rule: NAdam, steps: int) -> dict[str, Tensor]:
    return _step_alone(rule, steps) | {"mu_product": torch.tensor(_nadam_clock(rule, steps)["mu_product"])}


def _sgd(constants: Constants) -> Rule:
    _refuse(constants, dampening=0, maximize=False, differentiable=False)
    decay, beta = float(constants["weight_decay"]), float(constants["momentum"])
    if not beta:
        return SGD(weight_decay=decay)
    return Momentum(kind="nesterov" if constants["nesterov"] else "heavy_ball", beta=beta, weight_decay=decay)


def _sgd_constants(rule: SGD | Momentum) -> dict[str, Any]:
    if rule.decay != "coupled":
        raise RuleError(f"the rule `{rule.name}`: expected coupled decay, as torch.optim.SGD has, got {rule.decay}")
    if isinstance(rule, SGD):
        return {"weight_decay": rule.weight_decay}
    if rule.kind == "ema":
        raise RuleError("the rule `momentum` of kind ema: expected one that torch.optim.SGD has; use kind heavy_ball")
    return {"momentum": rule.beta, "nesterov": rule.kind == "nesterov", "weight_decay": rule.weight_decay}


def _count(rule: Rule, steps: int) -> dict[str, float]:
    return {"step": float(steps)}


def _adafactor(constants: Constants) -> Rule:
    _refuse(constants, maximize=False)
    (eps1, eps2), decay = constants["eps"], float(constants["weight_decay"])
    own = {"eps1": eps1, "eps2": eps2, "clipping": constants["d"], "weight_decay": decay}
    return Adafactor(beta2_decay=constants["beta2_decay"], **own)


def _adafactor_constants(rule: Adafactor) -> dict[str, Any]:
    _require_decoupled(rule)
    if rule.clipping < 1:
        raise RuleError(f"the rule `adafactor`: expected clipping >= 1, as torch.optim.Adafactor, got {rule.clipping}")
    own = {"beta2_decay": rule.beta2_decay, "eps": (rule.eps1, rule.eps2), "d": rule.clipping}
    return own | {"weight_decay": rule.weight_decay}


def _adafactor_form(buffer: str, shape: Shape) -> Shape | None:
    if buffer == "variance" or len(shape) < 2:
        return shape if buffer == "variance" and len(shape) < 2 else None
    return (*shape[:-1], 1) if buffer == "row_var" else (*shape[:-2], 1, shape[-1])


def _muon(constants: Constants) -> Rule:
    own: dict[str, Any] = {"weight_decay": float(constants["weight_decay"]), "beta": float(constants["momentum"])}
    own |= {"iterations": constants["ns_steps"], "coefficients": constants["ns_coefficients"], "eps": constants["eps"]}
    own |= {"nesterov": bool(constants["nesterov"]), "scale": constants["adjust_lr_fn"] or "original"}
    return Muon(precision="bfloat16", **own)


def _muon_constants(rule: Muon) -> dict[str, Any]:
    _require_decoupled(rule)
    found = (rule.precision, rule.variant, rule.scale == "none")
    if found != ("bfloat16", "torch", False):
        raise RuleError(
            "the rule `muon`: expected what torch.optim.Muon has, precision bfloat16, variant torch and a scale, got precision "
            f"{rule.precision}, variant {rule.variant}, scale {rule.scale}"
        )
    own = {"weight_decay": rule.weight_decay, "momentum": rule.beta, "nesterov": rule.nesterov, "eps": rule.eps}
    return own | {"ns_coefficients": rule.coefficients, "ns_steps": rule.iterations, "adjust_lr_fn": rule.scale}


def _require_decoupled(rule: Rule) -> None:
    if rule.decay != "decoupled":
        raise RuleError(f"the rule `{rule.name}`: expected decoupled decay, as torch's has, got {rule.decay}")


def _refuse(constants: Constants, **expected: object) -> None:
    """RuleError where a constant of a parameter group is not what the rule presumes."""
    for name, value in expected.items():
        if constants.get(name, value) != value:
            raise RuleError(f"optimizer: expected {name}={value}, got {constants[name]}; the rule has no such form")


_MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "largest": "max_exp_avg_sq"}
_FACTORS = {"row": "row_var", "col": "col_var", "v": "variance"}
_MOMENTUM = {"m": "momentum_buffer"}
_OPTIM = torch.optim
TRANSLATIONS: tuple[Translation, ...] = (
    Translation(_OPTIM.Adam, (Adam,), _adam, _adam_constants, _MOMENTS, _adam_clock),
    Translation(_OPTIM.AdamW, (AdamW,), _adam, _adam_constants, _MOMENTS, _adam_clock),
    Translation(_OPTIM.RAdam, (RAdam,), _radam, _decoupled_constants, _MOMENTS, _adam_clock),
    Translation(_OPTIM.NAdam, (NAdam,), _nadam, _nadam_constants, _MOMENTS, _nadam_clock, _nadam_counters),
    Translation(_OPTIM.SGD, (SGD, Momentum), _sgd, _sgd_constants, _MOMENTUM, _count, _nothing),
    Translation(_OPTIM.Muon, (Muon,), _muon, _muon_constants, _MOMENTUM, _count, _nothing),
    Translation(
        _OPTIM.Adafactor,
        (Adafactor,),
        _adafactor,
        _adafactor_constants,
        _FACTORS,
        _count,
        form=_adafactor_form,
    ),
)
"""The optimizers that are rules."""

NOT_RULES = {
    "schedulefree": "its parameters in training are not those that it is evaluated at; train with a scheduled optimizer",
    "bitsandbytes": "its memory is rounded to 8 bits by blocks; train with the optimizer of full precision",
    "torchao": "its memory is rounded; train with the optimizer of full precision",
    "dadaptation": "its rate depends on the gradients seen so far; take a fixed schedule",
    "prodigyopt": "its rate depends on the gradients seen so far; take a fixed schedule",
}
"""Packages of optimizers that cannot be replayed, and why."""


def translation_of(optimizer: Optimizer) -> Translation:
    """How an optimizer is a rule; RuleError, with the reason, for one that is none."""
    kind = type(optimizer)
    refuse_irreproducible(optimizer)
    for translation in TRANSLATIONS:
        if kind is translation.optimizer:
            return translation
    known = ", ".join(translation.optimizer.__name__ for translation in TRANSLATIONS)
    raise RuleError(
        f"optimizer: expected one of torch.optim's {known}, got {kind.__module__}.{kind.__name__}; train with one of these"
    )


def refuse_irreproducible(optimizer: Optimizer) -> None:
    """RuleError, with the reason, for an optimizer that cannot be replayed in another order."""
    kind = type(optimizer)
    package = kind.__module__.partition(".")[0]
    if package in NOT_RULES:
        raise RuleError(f"optimizer {kind.__module__}.{kind.__name__}: it cannot be replayed, as {NOT_RULES[package]}")


def inverse_of(rule: Rule) -> Translation:
    """The optimizer that a rule is; RuleError where torch has none."""
    for translation in TRANSLATIONS:
        if type(rule) in translation.rules:
            return translation
    raise RuleError(f"the rule `{rule.name}`: expected one that torch.optim has, got one that it has not")

"""What a model predicts on the probe, and how far two models' predictions are apart: in function space, not in parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fut.models.forward import ForwardLoss
from fut.models.objective import Item, Objective
from fut.models.transformer import next_token_loss

BINS = 15
"""Bins of equal width of the confidence, for the calibration error."""
IGNORED = -100
"""Targets that count nothing, as in `torch.nn.functional.cross_entropy`."""


@dataclass
class _Sums:
    """Sums over predictions of one model."""

    correct: float = 0.0
    confidence: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    right: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def add(self, log_p: Tensor, targets: Tensor) -> None:
        best, answer = log_p.exp().max(-1)
        hit = (answer == targets).double()
        places = (best * BINS).long().clamp(max=BINS - 1).cpu()
        self.correct += float(hit.sum())
        self.confidence.index_add_(0, places, best.cpu())
        self.right.index_add_(0, places, hit.cpu())


@dataclass
class _Apart:
    """Sums over predictions of two models."""

    differ: float = 0.0
    divergence: float = 0.0
    square: float = 0.0

    def add(self, first: Tensor, second: Tensor) -> None:
        a, b = first.log_softmax(-1), second.log_softmax(-1)
        self.differ += float((first.argmax(-1) != second.argmax(-1)).sum())
        self.divergence += float(((a.exp() - b.exp()) * (a - b)).sum()) / 2
        gap = (first - first.mean(-1, keepdim=True)) - (second - second.mean(-1, keepdim=True))
        self.square += float(gap.square().mean(-1).sum())


def compared(
    objective: Objective, control: Tensor, treated: Tensor, probe: Sequence[Item]
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Accuracy and calibration error of two models, and how far their predictions are apart.

    Args:
        objective: of the model.
        control: parameters [D].
        treated: parameters [D].
        probe: held-out items.

    Returns:
        Of the control and of the treated, `accuracy` [share of targets] and `calibration_error` (expected calibration error,
        15 bins) [probability]. Between the two `disagreement` [share of targets whose most likely class differs],
        `symmetric_kl` (half of KL(p‖q) + KL(q‖p), mean over targets) [nats] and `logit_rms` (root of the mean square of the
        differences of logits, each prediction's mean taken off). All empty where the predictions of a loss are not known.
    """
    sums, apart, count = (_Sums(), _Sums()), _Apart(), 0
    for item in probe:
        of_control, of_treated = (predictions(objective, theta, item) for theta in (control, treated))
        if of_control is None or of_treated is None:
            return {}, {}, {}
        (first, targets), (second, _) = of_control, of_treated
        count += len(targets)
        for of, logits in zip(sums, (first, second), strict=True):
            of.add(logits.log_softmax(-1), targets)
        apart.add(first, second)
    if not count:
        return {}, {}, {}
    own = [
        {"accuracy": s.correct / count, "calibration_error": float((s.confidence - s.right).abs().sum()) / count}
        for s in sums
    ]
    between = {
        "disagreement": apart.differ / count,
        "symmetric_kl": apart.divergence / count,
        "logit_rms": (apart.square / count) ** 0.5,
    }
    return own[0], own[1], between


def predictions(objective: Objective, theta: Tensor, item: Item) -> tuple[Tensor, Tensor] | None:
    """Logits [n, classes] in double precision and targets [n] of an item; None where the loss does not tell them.

    They are known for the next-token loss, and for models that return `logits` beside the loss for given `labels`, as those of
    Hugging Face do.
    """
    with torch.no_grad(), objective.judging(), objective.holding(theta, item) as module:
        loss = objective.loss_function
        if loss is next_token_loss:
            return _flat(module(item[0][:, :-1]), item[0][:, 1:])
        if isinstance(loss, ForwardLoss) and "labels" in loss.names:
            return _of_labels(module, loss, item)
    return None


def _of_labels(module: nn.Module, loss: ForwardLoss, item: Item) -> tuple[Tensor, Tensor] | None:
    named = dict(zip(loss.names, item, strict=True))
    output: Any = module(**named, **dict(loss.constants))
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    labels = named["labels"]
    if not isinstance(logits, Tensor) or labels.is_floating_point():
        return None
    if logits.ndim == 3 and labels.shape == logits.shape[:2]:
        return _flat(logits[:, :-1], labels[:, 1:])
    return _flat(logits, labels) if logits.ndim == 2 and labels.shape == logits.shape[:1] else None


def _flat(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
    if logits.shape[:-1] != targets.shape:
        return None
    counted = targets != IGNORED
    return logits[counted].double(), targets[counted]

"""Item gradients of a step: in memory together where they fit, else taken in chunks, each reduced to what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from estimators.reweighting import first_order_values, response_squares
from fut.methods.reweighting.terms import ReweightingFiles


class Reduced(NamedTuple):
    """What is kept of a step's item gradients. value: first-order values [r, n], float64; squares: squared responses [r, D];
    gram: inner products [n, n], float64, or 0 where nothing reads them; rows: on the kept coordinates [n, k], where all are."""

    value: Tensor
    squares: Tensor
    gram: Tensor
    rows: Tensor | None


class StepGradients:
    """The gradients [n, D] of one step at a time. Where they are taken in chunks they are taken twice: for their mean, and for
    what is kept of them."""

    def __init__(self, files: ReweightingFiles) -> None:
        self.files = files
        self._held: dict[int, Tensor] = {}

    def mean(self, step: int) -> Tensor:
        """Their mean [D]."""
        if not self.files.spec.chunked:
            self._held = {step: self.files.item_gradients(step)}
            return self._held[step].mean(0)
        total = sum((chunk.sum(0) for chunk in self.files.chunks(step)), torch.zeros(()))
        self._held = {step: total / self.files.spec.per_step}
        return self._held[step]

    def reduced(self, step: int, injection: Tensor) -> Reduced:
        """What is kept of them. injection: lambda_t [r, D] of the read-outs."""
        files, held = self.files, self._held.pop(step)
        if not files.spec.chunked:
            kept = held[:, files.indices] if files.spec.whole else None
            gram = (held @ held.T).double()
            return Reduced(first_order_values(injection, held), response_squares(injection, held), gram, kept)
        mean = held if files.spec.per_step > 1 else torch.zeros_like(held)
        values, rows, squares = list[Tensor](), list[Tensor](), torch.zeros_like(injection)
        for chunk in files.chunks(step):
            values.append(first_order_values(injection, chunk))
            squares += response_squares(injection, chunk, mean)
            rows += [chunk[:, files.indices]] if files.spec.whole else []
        gram = torch.zeros(files.spec.per_step, files.spec.per_step, dtype=torch.float64)
        return Reduced(torch.cat(values, dim=-1), squares, gram, torch.cat(rows) if rows else None)

    def kept(self, step: int) -> Tensor:
        """Them on the kept coordinates [n, k], taken anew."""
        return torch.cat([chunk[:, self.files.indices] for chunk in self._chunks(step)])

    def _chunks(self, step: int) -> Iterator[Tensor]:
        if self.files.spec.chunked:
            yield from self.files.chunks(step)
        else:
            yield self.files.item_gradients(step)

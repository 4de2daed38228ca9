"""The adjoint estimator on a run's expansion: goal-oriented replay about the trajectory, offset by the reference order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from estimators.adjoint import Anchored, AnchoredGradients, DualTransition, partial_sums, weighted_sums
from estimators.control_variates import signed_variance
from estimators.errors import OrderError
from estimators.lowrank import scarcity
from estimators.orders.order import Order
from estimators.position_table import added_up
from estimators.replay import Listener, OrderBatch, RuleTransition, replay
from estimators.rules.base import Rule
from estimators.state import State
from fut.artifacts.directory import MEMORIZATION
from fut.errors import NotCachedError, UsageError
from fut.methods.adjoint.control_variate import Control, Drawn, Half, control_of, part_of
from fut.methods.adjoint.few import Few, few_of
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import expansion_of
from fut.methods.adjoint.quadratic import Bend, bend_of
from fut.methods.adjoint.replay_curvature import curved_gradients
from fut.methods.adjoint.spec import SUMS
from fut.methods.adjoint.sweep import curvature_caution
from fut.methods.adjoint.tables import RITZ
from fut.methods.base import Estimator, one_of
from fut.methods.context import Context
from fut.methods.timings import BLOCK, LEAST
from fut.readouts.readout import PROBE

AdjointReading = Literal["linear", "quadratic"]
Replayed = Literal["all"]
Rows = slice | list[int]
ALL = slice(None)
WORSE = 2.0
"""Times what its own runs differ by: from there on, an estimate's error on them says that estimates are worse than none."""


class Adjoint(Estimator):
    """Exact to first order in curvature, with no gradient per order.

    The estimate is phi(theta_T) + [a(order) - a(reference order)], where a is the dual-weighted read-out about the trajectory
    and phi(theta_T) the read-out's true value at the reference endpoint: the reference order, and any order that trains on
    the same content, gives the reference exactly. For the expansion's first read-out a holds the quadratic term as well,
    ½ sum_j s_j c_j², from functionals c_j = <q_j, delta_T> (`quadratic_directions.py`) that are looked up (`quadratic.py`),
    corrected by those of true displacements, of the reference run and of an ensemble's own runs: uncorrected, a common error
    of c_j would be multiplied by c_j.

    With `adjoint.rank` the replay has low-rank curvature (`replay_curvature.py`), whose first-order part is taken off again.
    Where coordinates are sampled, the linear part has the table of positions for a control variate (`control_variate.py`). So it
    has where all of them are kept, and few are enough for the replay (`few.py`).

    A *position* is what an order adds to the reference order's: partial sums over sampled coordinates of the linear part, and of
    what its sampling variance is known from; then what the control variate adds, and the m functionals.

    reading: `quadratic` (the default where there are functionals), or `linear`, without them. sample: `first` or `second` for
    one of two independent halves of the sampled coordinates, so that what was chosen by one can be judged by the other; both
    hold the coordinates that are surely kept. replayed: `all` for every coordinate that is kept, where few are enough.
    """

    name, rebuilds = "adjoint", False

    def __init__(
        self,
        context: Context,
        readout: str = PROBE,
        reading: str | None = None,
        sample: str | None = None,
        replayed: str | None = None,
        *,
        expansion: Expansion | None = None,
    ) -> None:
        """expansion: one to be read in place of the run's own."""
        super().__init__(context, readout)
        self.expansion: Expansion = expansion or expansion_of(context, self.readout.name, self.name)
        one_of("sample", sample, Half)
        one_of("replayed", replayed, Replayed)
        self.few = few_of(self.expansion) if replayed is None else None
        self.sample = self.half = sample
        self.row = self.expansion.spec.names.index(self.readout.name)
        one_of("reading", reading, AdjointReading)
        self.functionals = self.expansion.spec.functionals if self.row == 0 and reading != "linear" else 0
        if reading == "quadratic" and not self.functionals:
            raise UsageError(
                f"adjoint: expected an expansion with functionals of `{self.readout.name}` for a quadratic reading, got "
                "none; set adjoint.functionals, name that read-out first, and cache anew"
            )
        self.rows = [self.row]

    @cached_property
    def _part(self) -> tuple[Tensor | None, Tensor]:
        """Which of the drawn coordinates are replayed [k], None for all of them, and their probabilities."""
        return part_of(self._drawn, self.sample)

    @property
    def _drawn(self) -> Drawn:
        """The coordinates that orders are replayed with, halves apart: those that are kept, or few of them."""
        return self.few or self.expansion

    @cached_property
    def indices(self) -> Tensor:
        """Coordinates that are replayed, ascending [k]."""
        places = self._part[0]
        return self._drawn.indices if places is None else self._drawn.indices[places]

    @property
    def probabilities(self) -> Tensor:
        """Their inclusion probabilities [k], float64."""
        return self._part[1]

    @cached_property
    def control(self) -> Control | None:
        """The linear part's control variate; None where there is none."""
        return control_of(self.expansion, self.row, self.sample, self.few)

    @cached_property
    def bend(self) -> Bend | None:
        """The functionals of orders; None for a linear reading."""
        return bend_of(self.expansion, self.sample) if self.functionals else None

    @cached_property
    def _rule(self) -> Rule:
        """The rule of the coordinates that are replayed."""
        return self.problem.rule.restrict(self.indices)

    @property
    def sampled(self) -> bool:
        """Whether an estimate has a sampling error over coordinates."""
        return bool((self.probabilities < 1).any())

    @property
    def judge(self) -> dict[str, str] | None:
        return {"replayed": "all"} if self.few is not None and self.half is None else None

    @cached_property
    def _common(self) -> dict[str, Tensor]:
        """What is replayed whatever the read-out, in memory, by name: [steps, items, k]."""
        lowrank = {name: None for name in RITZ if self.expansion.spec.rank}
        return self._read({"gradient": None, "norm": None, "centre": None, **lowrank})

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        """What is replayed, in memory, by name: [steps, items, k]; of the weights, the read-out's own row."""
        answers = {"answer": self.rows} if self.expansion.spec.rank else {}
        return self._common | self._read({"weight": self.rows, **answers})

    def _read(self, rows: dict[str, list[int] | None]) -> dict[str, Tensor]:
        if self.few is not None:
            return self._read_few(self.few, rows)
        terms = self.expansion.terms()
        missing = terms.missing(list(rows))
        if missing:
            raise NotCachedError(
                f"adjoint: expected a complete expansion, got one with {len(missing)} blocks missing; "
                "run `fut cache RUN --terms adjoint`"
            )

        places = None if self._part[0] is None else self._part[0].cpu().numpy()

        def read(name: str, step: int) -> Tensor:
            selected = rows[name]
            values = terms.read(name, step) if selected is None else terms.read_items(name, step, selected)
            return torch.from_numpy(values if places is None or name in ("norm", "eigenvalue") else values[..., places])

        return {
            spec.name: torch.stack([read(spec.name, t) for t in range(spec.shape[0])]).to(self.problem.device)
            for spec in terms.specs
            if spec.name in rows
        }

    def _read_few(self, few: Few, rows: dict[str, list[int] | None]) -> dict[str, Tensor]:
        """The same of few coordinates."""
        places = slice(None) if self._part[0] is None else self._part[0]

        def read(name: str) -> Tensor:
            values, selected = few.tensor(name), rows[name]
            values = values if selected is None else values[:, selected]
            return values if name == "norm" else values[..., places]

        return {name: read(name) for name in rows}

    @property
    def _source(self) -> tuple[Path, str | None, bool]:
        """Where its tables are from."""
        return self.expansion.directory, self.sample, self.few is None

    def share(self, other: Estimator) -> None:
        if isinstance(other, Adjoint) and other._source == self._source:
            self._common = other._common

    def ready(self) -> None:
        _ = self._tables
        for part in (self.control, self.bend):
            if part is not None:
                _ = part.table

    def seen(self, orders: Sequence[Order]) -> list[Order]:
        """Whole orders: of a read-out that is taken before the end, what comes later has weight 0."""
        return list(orders)

    def width(self) -> int:
        return 2 * len(self.indices)

    def _transition(self, block: slice, rows: Rows = ALL, owned: bool = False) -> DualTransition:
        """The replay on a block of the sampled coordinates. rows: of the weights that are in memory; owned: see there."""
        tables, expansion = self._tables, self.expansion
        gradients = Anchored(expansion.spec.anchors, lambda a: tables["gradient"][a, :, block])
        norms = None
        if self._rule.clip is not None and len(self.indices) < self.problem.objective.size:
            norms = Anchored(expansion.spec.anchors, lambda a: tables["norm"][a])

        def centre(step: int) -> Tensor:
            return tables["centre"][step, 0, block]

        def weights(step: int) -> Tensor:
            return tables["weight"][step, rows, block]

        consumed = AnchoredGradients(gradients, norms, 1.0 / self.probabilities[block])
        rule, rate = self._rule.restrict(block), self.problem.rate
        if not expansion.spec.rank:
            return DualTransition(RuleTransition(rule, rate, consumed, owned), centre, weights, owned=owned)
        lowrank = curved_gradients(expansion, consumed, tables, centre, self._scarce)
        inner = RuleTransition(rule, rate, lowrank)
        return DualTransition(inner, centre, weights, lowrank.response, lambda t: tables["answer"][t, rows, block])

    @cached_property
    def _scarce(self) -> Tensor:
        """One over the share of items that touch each coordinate at the anchors [A, k]."""
        return torch.stack([scarcity([rows]) for rows in self._common["gradient"]])

    def _blocks(self, orders: int, rows: int = 1) -> list[slice]:
        """Coordinates replayed together: as many as suit the device, and those that act on one another: all, for a norm to
        clip, or curvature that is no diagonal.

        Whole runs of LEAST coordinates, which are summed first: the sums do not depend on the blocks.
        """
        size, coupled = len(self.indices), self._rule.clip is not None or self.expansion.spec.rank
        numbers = BLOCK[self.problem.device.type]
        width = LEAST * max(1, numbers // (orders * LEAST * (1 + (rows - 1) // 4)))
        return self._rule.blocks(size, size if coupled else width, LEAST)

    def require_length(self, orders: Sequence[Order]) -> None:
        """OrderError unless all orders have as many steps as the reference run."""
        steps = self.problem.config.steps
        if any(len(order) != steps for order in orders):
            raise OrderError(
                f"adjoint: expected orders of {steps} steps, the length of the reference run, got "
                f"{min(len(o) for o in orders)}; leave an item out in its step (`without:ITEM`) in place of dropping it, or use "
                "--estimator lowrank, replay-exact or retrain"
            )

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        self.require_length(orders)
        values, spreads, batch = [], [], self.batch(orders)
        for block, found in self._contributions(batch, listener):
            sums = self._sums((found - self._reference[:, block]).double(), block, self.control)
            values.append(sums[0])
            spreads.append(sums[1])
        parts = [torch.cat(part, dim=-1).flatten(1) for part in (values, spreads)]
        return torch.cat([*parts, *(t.looked_up(batch) for t in (self.control, self.bend) if t is not None)], dim=-1)

    def _sums(self, found: Tensor, block: slice, control: Control | None) -> tuple[Tensor, Tensor]:
        """Partial sums [n, 1, C] of contributions [n, 1, k], and what their variance is known from: the variance of each
        [n, 1, C], or with a control variate partial sums with random signs [n, SIGNS, C]."""
        sums, variances = partial_sums(found, self.probabilities[block], LEAST)
        return sums, variances if control is None else weighted_sums(found, control.weights[:, block], LEAST)

    def _contributions(
        self, batch: OrderBatch, listener: Listener | None = None, rows: Rows = ALL
    ) -> Iterator[tuple[slice, Tensor]]:
        """Block by block, what its coordinates contribute to the linear part [n, 1, width].

        rows: of the weights that are in memory; [n, rows, width]. What a listener hears of is never overwritten.
        """
        steps, start, n = self.problem.config.steps, self._start, len(batch)
        count = len(self._tables["weight"][0, rows])
        for block in (blocks := self._blocks(n, count)):
            transition = self._transition(block, rows, listener is None)
            begun = transition.start(start.restrict(block).rows(n), count)
            end = replay(transition, begun, batch, listener=listener if block is blocks[-1] else None)
            yield block, transition.contributions(end, steps, self._tables["weight"][steps, rows, block])

    @cached_property
    def _start(self) -> State:
        """The lifted state that every order starts from, on the sampled coordinates."""
        return self.context.state(0).restrict(self.indices)

    @cached_property
    def _reference(self) -> Tensor:
        """Contributions of the reference order [rows, k]."""
        return torch.cat([found[0] for _, found in self._contributions(self.batch([self.problem.reference]))], dim=-1)

    def _summed(self, positions: Tensor) -> Tensor:
        """The sums of the linear part, then what their variances are known from: [n, 1 + rows], float64."""
        extra, last = 0 if self.control is None else SUMS, 0 if self.bend is None else self.bend.sums
        size, rows = positions.shape[1] - extra - last, 1 if self.control is None else len(self.control.weights)
        sums = added_up(positions[:, :size].unflatten(1, (1 + rows, -1)))
        return sums + positions[:, size : size + extra] if extra else sums

    def _quadratic(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What the quadratic term changes against the reference order, and its sampling variance: twice [n]."""
        if self.bend is None:
            return torch.zeros_like(positions[:, 0]), torch.zeros_like(positions[:, 0])
        return self.bend.read(positions[:, -self.bend.sums :])

    def values(self, states: Tensor, steps: int) -> list[float]:
        return (self.reference_value + self._summed(states)[:, 0] + self._quadratic(states)[0]).tolist()

    def own_error(self) -> float | None:
        """Standard deviation of estimate minus truth over an ensemble's own runs, in the first read-out's unit; common offsets
        left out. A first idea of the error before any order is retrained, from few runs. None below three: two are mirror images
        about their mean, where errors of even order are alike."""
        about = self.expansion.spec.trajectory
        return self._own_error if about.ensemble and self.row == 0 and len(about.members) > 2 else None

    def item_likeness(self) -> np.ndarray:
        """How alike items' gradients are at the anchors [items, items]: inner products of what each has beyond their mean, summed
        over anchors, of trace `items`; estimated from the sampled coordinates."""
        total = 0.0
        for rows in self._common["gradient"]:
            apart = (rows - rows.mean(0)).double()
            total = total + (apart / self.probabilities) @ apart.T
        found: np.ndarray = torch.as_tensor(total).cpu().numpy()
        trace = float(np.trace(found))
        return found * (len(found) / trace) if trace > 0 else np.eye(len(found))

    def own_runs(self) -> tuple[float, float] | None:
        """`own_error`, and the standard deviation of the truth over those runs."""
        error = self.own_error()
        return None if error is None else (error, float(self.expansion.own_values.std(ddof=1)))

    @cached_property
    def _own_error(self) -> float:
        ends = self.final_states(self.expansion.spec.trajectory.members)
        errors = np.array(self.values(ends, self.problem.config.steps)) - self.expansion.own_values
        return float(errors.std(ddof=1))

    def caution(self) -> str:
        return "; ".join(filter(None, (curvature_caution(self.expansion), self._own_caution)))

    @cached_property
    def _own_caution(self) -> str:
        """What is said where estimates of its own runs are worse than none; nothing of an expansion for other questions."""
        error = self.own_error() if self.expansion.directory.name != MEMORIZATION else None
        if error is None or error <= WORSE * (spread := float(self.expansion.own_values.std(ddof=1))):
            return ""
        return (
            f"the runs that it is made of differ by {spread:.2g}, and it errs by {error:.2g} on them: estimates are worse than "
            "the reference order's value, as where a loss has kinks; use --estimator replay-exact, or set adjoint.products = "
            f'"exact" and make the run\'s {self.expansion.directory.name}/ anew'
        )

    def variances(self, states: Tensor) -> list[float]:
        """Variance of each estimate over the sample of coordinates, in the unit's square; 0 where all are kept.

        That of the linear part, and of each functional's square to first order; covariances of the parts are left out.
        """
        known = self._summed(states)[:, 1:]
        linear = added_up(known) if self.control is None else signed_variance(known)
        return (linear + self._quadratic(states)[1]).tolist()

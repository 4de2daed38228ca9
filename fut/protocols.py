"""What a question needs, and no more: protocols that stand on the ground floor and import the leaves alone.

A question takes these in place of an opened run, so that it can be asked of anything that has them: a run, or a table in a test.
`fut.estimation.service` and `fut.estimation.facts` provide them for a run, `fut.artifacts.archive` keeps the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy import float64
from numpy.typing import NDArray

from estimators.orders.order import Order

Tick = Callable[[], object]
"""Called after every step that is trained."""


class Value(Protocol):
    """What is said of a read-out under one order; `fut.Estimate` is one."""

    @property
    def value(self) -> float:
        """The read-out at the end of training [`unit`]."""

    @property
    def delta(self) -> float:
        """The value minus the reference order's [`unit`]."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """90 % interval of the value [`unit`]; None where there is none, which `note` explains."""

    @property
    def estimator(self) -> str:
        """The method that was asked."""

    @property
    def source(self) -> str:
        """`estimate`, or `retrained` where the value is the truth."""

    @property
    def note(self) -> str:
        """What the value rests on, in words."""

    @property
    def readout(self) -> str:
        """The read-out's name."""

    @property
    def unit(self) -> str:
        """The read-out's unit; empty for a function of the user's own."""

    @property
    def truth(self) -> float | None:
        """The value after retraining, where it is known [`unit`]."""


class Estimates(Protocol):
    """One read-out under any number of orders, by one method, without training."""

    @property
    def method(self) -> str:
        """The method's name, with its options."""

    @property
    def readout(self) -> str:
        """The read-out's name."""

    @property
    def unit(self) -> str:
        """The read-out's unit."""

    @property
    def reference(self) -> float:
        """Its value in the reference order [`unit`]."""

    @property
    def fitted_to(self) -> str | None:
        """What the intervals are fitted to: `random` orders, or a kind of edit; None without a calibration."""

    @property
    def caution(self) -> str:
        """What the method says against its estimates on this run; empty for nothing."""

    def __call__(self, orders: Sequence[Order]) -> Sequence[Value]:
        """A value per checked order."""

    def edited(self, orders: Sequence[Order], edits: Sequence[str | None]) -> Sequence[Value]:
        """The same, of orders that each may be one edit of the reference order, of the kind beside it."""

    def for_edit(self, edit: str) -> Estimates:
        """The same method, with the calibration on single edits of a kind where there is one."""

    def ready(self) -> None:
        """NotCachedError, naming the command to run, where something is missing."""


class Truths(Protocol):
    """One read-out of orders that have been retrained."""

    @property
    def readout(self) -> str:
        """The read-out's name."""

    @property
    def unit(self) -> str:
        """The read-out's unit."""

    @property
    def reference(self) -> float:
        """Its value in the reference order [`unit`]."""

    def find(self, order: Order) -> float | None:
        """The value, if the order has been trained before; trains nothing."""

    def ahead(self, orders: Iterable[Order], tick: Tick = ...) -> None:
        """Have those that have not been trained yet trained by other processes, where there are some: `train` then finds them.

        Nothing is done where there are none. Orders that diverge are left out here, and `train` says so.
        """

    def train(self, order: Order, tick: Tick = ...) -> float:
        """The value [`unit`]; really trains the order, unless that has been done before."""

    def train_timed(self, order: Order, tick: Tick = ...) -> tuple[float, float]:
        """The same, and the seconds that training took."""


class Answer(Protocol):
    """What a question is answered with."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""


class Archive(Protocol):
    """Where answers are kept, and read again."""

    def keep(self, kind: str, key: Any, answer: Answer, **beside: Any) -> None:
        """Keep an answer under its kind and a key: a text, or what was asked. beside: more that is to stand in the file."""

    def find(self, kind: str, key: Any) -> dict[str, Any] | None:
        """The answer of that kind and key; None where there is none."""

    def read(self, kind: str) -> Iterator[dict[str, Any]]:
        """All answers of a kind."""


class RunFacts(Protocol):
    """What a question asks of a run that is neither estimated nor trained."""

    @property
    def steps(self) -> int:
        """T, steps of the window."""

    @property
    def items(self) -> int:
        """Number of items that the run trains on."""

    @property
    def items_per_step(self) -> int:
        """Items that a step of the reference order consumes."""

    @property
    def consumed(self) -> int:
        """Items consumed in the window: gradients that one training costs."""

    @property
    def rates(self) -> Sequence[float]:
        """The learning rate of every step [T]."""

    @property
    def reference(self) -> Order:
        """The order of the reference run."""

    @property
    def methods(self) -> Sequence[str]:
        """Names of all methods, `retrain` among them."""

    @property
    def default_method(self) -> str:
        """The method that answers where none is named."""

    def order(self, spec: Any, partial: bool = False) -> Order:
        """The checked order behind a name, a list or a file; partial: it may be shorter than the window."""

    def sorted(self, name: str, start: Order | None = None) -> Order | None:
        """The order behind `sort:loss` and its like; None for another name. start: whose items are sorted."""

    def named_orders(self) -> dict[str, Order]:
        """Every order that has a name without a choice."""

    def canonical(self, order: Order) -> Order:
        """The order with equal items made one: orders of one canonical form train the same."""

    def scores(self, key: str) -> Sequence[float]:
        """A score per item, by one of the measures of `fut.orders.scores`."""

    def readouts(self, specs: Sequence[str]) -> list[str]:
        """Names of the read-outs that specifications stand for, each once."""

    def computed_readouts(self) -> list[str]:
        """Read-outs that the run has an adjoint pass of."""

    def sources(self) -> list[str]:
        """The file of a text directory that every item comes from; UsageError where there is none."""

    def probe_groups(self, count: int) -> list[list[int]]:
        """Held-out samples in groups of like ones; UsageError for more groups than samples."""

    def item_similarity(self, groups: int, items: Sequence[int]) -> NDArray[float64]:
        """How like every item is to every group of held-out samples: cosines [items, groups]."""


@dataclass(frozen=True)
class BranchPlan:
    """A branch of a training, and what one of its two arms is treated with.

    Args:
        at: the step before which the arms part.
        window: steps after it in which a treatment acts, and in which all that is not treated is held equal.
        horizon: the step after which training ends; at most T.
        source: of memory, that is treated.
        treatment: what is done to it, as `scale:0.5`.
        clamp: whether the treatment is repeated before every step of the window.
        average: what is judged: None for the parameters, a decay for their exponential average, `uniform` for their mean.
        seed: root of all random numbers of the treatment.
    """

    at: int
    window: int
    horizon: int
    source: str
    treatment: str
    clamp: bool = False
    average: float | str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """Both arms after some steps. metrics: of each arm, by name. distances: between their predictions, by name."""

    step: int
    control: Mapping[str, float]
    treated: Mapping[str, float]
    distances: Mapping[str, float]


@dataclass(frozen=True)
class BranchPair:
    """The two arms of one seed.

    orders: of the control and of the treated arm. readings: by step, ascending; the first is at the branch, after the
    treatment. digests: SHA-256 of every buffer, by moment and arm (`branch`, `treated`, `window control`, …).
    """

    seed: int
    orders: tuple[Order, Order]
    readings: Sequence[Reading]
    digests: Mapping[str, Mapping[str, str]]


class Branches(Protocol):
    """Trainings of a run that part at a step: the same up to there, and one of them treated."""

    @property
    def steps(self) -> int:
        """T, steps of the window of the run."""

    @property
    def half_lives(self) -> Mapping[str, float]:
        """Steps after which half of what entered a buffer of the optimizer is left, by buffer."""

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of every metric and distance, by name."""

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions, machine and precision; how random numbers of the forward pass are keyed; the probe's digest."""

    def check(self, plan: BranchPlan) -> None:
        """UsageError for a plan that this run cannot follow."""

    def gradients(self, plan: BranchPlan, seeds: int) -> int:
        """Gradients that so many pairs take."""

    def pairs(self, plan: BranchPlan, orders: Sequence[Order], tick: Tick) -> Iterator[BranchPair | Order]:
        """Train both arms of every order; where training diverges, the order stands in place of its pair.

        tick: called after every step.
        """


OWN_RULE = "own"
"""The name that stands for a run's own rule."""


@dataclass(frozen=True)
class RuleChoice:
    """An update rule as it is asked for.

    Args:
        name: of the rule; `own` for the one that the run has.
        options: its constants.
        rate: largest learning rate; None where it is searched for.
        fill: steps of the reference order that fill its memory before the window, their displacement taken back; at most T.
    """

    name: str
    options: Mapping[str, Any]
    rate: float | None = None
    fill: int = 0


class OtherRules(Protocol):
    """Trainings of a run's data from its parameters before the window, by any update rule."""

    @property
    def rate(self) -> float:
        """The largest learning rate of the run."""

    def check(self, choice: RuleChoice) -> None:
        """UsageError or RuleError for a rule that cannot train this run."""

    def train(self, choice: RuleChoice, rate: float, order: Order, tick: Tick) -> tuple[float, float]:
        """The read-out and the probe loss at the end; DivergenceError where training diverges.

        Args:
            choice: the rule.
            rate: largest learning rate; the schedule keeps its form.
            order: what is consumed.
            tick: called after every step.
        """

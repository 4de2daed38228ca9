"""`domains`: where labels come from, which orders are asked about, and which are retrained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fut.data.labels import Labels, checked_labels, quantile_labels, read_labels
from fut.divergence import divergence_note
from fut.errors import UsageError
from fut.orders.scores import MEASURES
from fut.protocols import RunFacts
from fut.questions.context import QuestionContext
from fut.questions.domains import render
from fut.questions.domains.blocks import arrangements, domain_order, placements
from fut.questions.domains.estimates import SHARE, DomainEstimates
from fut.questions.domains.result import Domains, Entry, Placement, asked_orders, compare, domains
from fut.questions.outliers import outlier_note
from fut.questions.question import ESTIMATOR, READOUT_HELP, Question, Request, numbers, option
from fut.questions.retraining import LEAST, retraining
from fut.readouts.readout import PROBE

SOURCE = "source"
MOST, PLACES = 24, 5
"""Domain orders that are asked about at most, and places at which every domain is put."""


def _label_order(flag: str, text: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in text.split(","))


@dataclass(frozen=True)
class DomainsRequest(Request[Domains]):
    """What the order of whole domains, and the place of one of them or of one item, does to a read-out.

    Args:
        labels: a mapping of label to items, a list with one label per item, a JSON file of one of both, `source`, or
            `loss:3`.
        orders: lists of all labels; None for all orders, or `most` of them.
        items: each put at every step.
        most: domain orders at most where none are named.
        places: at which every domain is put, from first to last.
        calibrate: how many of the orders that move domains to retrain for intervals that hold for such orders.
        verify: how many others to retrain and compare with, and half as many of those that move an item.
        seed: of what is drawn.
        readout: what is asked for.
        estimator: the method's name; None for the default.

    Raises:
        UsageError: for fewer than 2 places or orders, and for fewer orders to retrain than a fit needs.
    """

    labels: Any = option(
        help="JSON file (label -> items, or a label per item), source, or loss:3, length:3, gradient-norm:3, …"
    )
    orders: Sequence[Sequence[str]] | None = option(
        None,
        help="labels in an order, as in web,books,code; may be repeated; default: all orders",
        read=_label_order,
        many=True,
    )
    items: Sequence[int] = option((), help="items, each put at every step: an odd or poisoned batch, say", read=numbers)
    most: int = option(MOST, help="domain orders at most where none are named, drawn from --seed")
    places: int = option(PLACES, help="places at which every domain is put, from first to last")
    calibrate: int = option(0, help="of the orders that move domains to retrain for intervals that hold for them")
    verify: int = option(0, help="of these orders to retrain and compare with, and half as many that move an item")
    seed: int = option(0, help="seed of what is drawn")
    readout: str = option(PROBE, help=READOUT_HELP)
    estimator: str | None = option(None, help=ESTIMATOR)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tuples("orders", "items")
        counts = (self.calibrate, self.verify)
        if self.places < 2 or self.most < 2 or any(count < 0 or 0 < count < LEAST for count in counts):
            raise UsageError(
                f"domains: expected at least 2 places, 2 orders, and 0 or at least {LEAST} orders to retrain, got "
                f"places={self.places}, most={self.most}, calibrate={self.calibrate}, verify={self.verify}; raise them"
            )


def labels_of(run: RunFacts, given: Any) -> Labels:
    """Checked labels of a run's items.

    given: a mapping of label to items; a list with one label per item; the path of a JSON file with one of both; `source`, the
    file of a text directory that an item comes from; or a key and a number of parts, `loss:3`, `length:2`,
    `gradient-norm:3`, `perplexity-drop:3`, as in `fut.orders.scores`.
    """
    if isinstance(given, (str, Path)):
        text = str(given)
        key, _, parts = text.partition(":")
        if text == SOURCE:
            return checked_labels(run.sources(), run.items)
        if key in MEASURES:
            if not (parts or "3").isdecimal():
                raise UsageError(f"labels: expected a number of parts, got `{text}`; write {key}:3")
            return quantile_labels(key, run.scores(key), int(parts or "3"))
        given = read_labels(Path(given), f"{SOURCE}, {', '.join(f'{key}:3' for key in MEASURES)}")
    return checked_labels(given, run.items)


def ask(request: DomainsRequest, context: QuestionContext) -> Domains:
    """Estimate domain orders and placements, retrain what is asked for; the answer is kept in the run."""
    run, method = context.run, request.estimator or context.run.default_method
    labels, items = labels_of(run, request.labels), list(request.items)
    _require(request, context, method)
    sequences = [tuple(o) for o in request.orders or arrangements(list(labels), request.most, request.seed)]
    estimates = DomainEstimates(context, method, request.readout, request.seed)
    arranged = [(sequence, domain_order(run.reference, labels, sequence)) for sequence in sequences]
    moved = placements(run.reference, labels, items, request.places)
    far, close = asked_orders(arranged, moved)
    if request.calibrate:
        estimates.retrain_to_fit(far, request.calibrate)
    if request.verify:
        estimates.retrain_to_verify(far, close, request.verify)
    entries, placed = domains(estimates.estimate, estimates.estimate_close, estimates.truth, arranged, moved)
    every = [*entries, *(answer for placement in placed for answer in placement.answers)]
    checked = compare(every, estimates.reference, estimates.fitted_on)
    note = _note(entries, placed) + outlier_note(run, items, method)
    if estimates.diverged:
        note += f"; {divergence_note(estimates.trained, estimates.diverged)}"
    about = (estimates.readout, estimates.unit, estimates.reference)
    result = Domains(method, *about, labels, entries, placed, checked, note, request.seed)
    key = [labels, sequences, items, request.places, estimates.readout, method, request.calibrate]
    context.archive.keep("domains", key, result)
    return result


def _note(entries: Sequence[Entry], placed: Sequence[Placement]) -> str:
    """What the estimates rest on: those of domains, and where it is something else, those of single items."""
    single = [a.note for p in placed if p.kind == "item" for a in p.answers if a.delta]
    note = next((entry.note for entry in entries if entry.delta), entries[0].note)
    return note + (f"; of single items: {single[0]}" if single and single[0] != note else "")


def _require(request: DomainsRequest, context: QuestionContext, method: str) -> None:
    """UsageError for what the run cannot answer."""
    context.service.require_movable("domains", [method])
    items, count = request.items, context.run.items
    unknown = [item for item in items if not 0 <= item < count]
    if unknown or len(set(items)) < len(items):
        raise UsageError(
            f"domains: expected different items of 0..{count - 1}, got {', '.join(map(str, items))}; correct --items"
        )


def _costs(request: DomainsRequest, context: QuestionContext) -> Sequence[str]:
    count = request.calibrate + request.verify + (request.verify // SHARE if request.items else 0)
    return [retraining(context, count)] if count else []


DOMAINS = Question(
    "domains",
    DomainsRequest,
    ask,
    render.domains,
    "Domain after domain in every order, one domain early or late, one item at every step: what it does to the loss.",
    _costs,
    draw=render.picture,
    picture=lambda answer, request: "answers/domains.png",
    picture_help="PNG of the answers; default: in the run",
    retrains=True,
)

"""`domains` on a run: where labels come from, which orders are asked about, and which are retrained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.order import Order
from storage import fingerprint, write_json

from . import layout as files
from .answering import Answering
from .answers import Estimate
from .difficulty import MEASURES, difficulty
from .errors import UsageError
from .estimation import require_movable
from .outliers import outlier_note
from .questions.blocks import arrangements
from .questions.domains import Domains, compare, domains
from .questions.labels import Labels, checked_labels, quantile_labels
from .readouts import PROBE
from .sources import source_labels

if TYPE_CHECKING:
    from .run import Run

SOURCE = "source"
MOST, PLACES = 24, 5
"""Domain orders that are asked about at most, and places at which every domain is put."""
SHARE = 2
"""Retrained orders that move domains for every one that moves an item."""


def labels_of(run: Run, given: Any) -> Labels:
    """Checked labels of a run's items.

    given: a mapping of label to items; a list with one label per item; the path of a JSON file with one of both; `source`, the
    file of a text directory that an item comes from; or a key and a number of parts, `loss:3`, `length:2`,
    `gradient-norm:3`, `perplexity-drop:3`, as in `fut.difficulty`.
    """
    if isinstance(given, (str, Path)):
        text = str(given)
        key, _, parts = text.partition(":")
        if text == SOURCE:
            return checked_labels(source_labels(run), run.items)
        if key in MEASURES:
            if not (parts or "3").isdecimal():
                raise UsageError(f"labels: expected a number of parts, got `{text}`; write {key}:3")
            return quantile_labels(key, difficulty(run, key).scores, int(parts or "3"))
        given = _read(Path(given))
    return checked_labels(given, run.items)


def _read(path: Path) -> Any:
    known = f"{SOURCE}, {', '.join(f'{key}:3' for key in MEASURES)}"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"labels: expected a readable JSON file or one of {known}, got {path} ({error.strerror}); check the path"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"labels: expected JSON, got {path}: {error}; mend the file") from error


def domains_run(
    run: Run,
    given: Any,
    orders: Sequence[Sequence[str]] | None = None,
    items: Sequence[int] = (),
    *,
    most: int = MOST,
    places: int = PLACES,
    verify: int = 0,
    seed: int = 0,
    readout: str = PROBE,
    estimator: str | None = None,
) -> Domains:
    """Estimate domain orders and placements; the answer is kept in the run (`answers/`).

    verify: how many of the orders that move domains to retrain and compare with, and half as many of those that move an item.
    """
    labels, name = labels_of(run, given), estimator or run.default_estimator
    _require(run, name, items, most, places, verify)
    chosen = [tuple(o) for o in orders] if orders else arrangements(list(labels), most, seed)
    asked = Asking(run, name, readout, verify, seed)
    entries, placed = domains(
        asked.estimate, asked.estimate_close, asked.truth, run.reference, labels, chosen, items, places
    )
    checked = compare([*entries, *(a for p in placed for a in p.answers)], asked.reference)
    single = [a.note for p in placed if p.kind == "item" for a in p.answers if a.delta]
    note = next((entry.note for entry in entries if entry.delta), entries[0].note)
    note += f"; of single items: {single[0]}" if single and single[0] != note else ""
    note += outlier_note(run, items, name)
    about = asked.readout
    found = Domains(name, about.name, about.unit, asked.reference, labels, entries, placed, checked, note, seed)
    key = [labels, chosen, list(items), places, about.name, name]
    path = run.path / files.ANSWERS / f"domains-{fingerprint(key)[:12]}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, found.as_dict())
    return found


def _require(run: Run, name: str, items: Sequence[int], most: int, places: int, verify: int) -> None:
    require_movable("domains", [name])
    if places < 2 or most < 2 or verify < 0 or verify in (1, 2):
        raise UsageError(
            f"domains: expected at least 2 places, 2 orders, and 0 or at least 3 orders to retrain, got places={places}, "
            f"most={most}, verify={verify}; raise them"
        )
    unknown = [item for item in items if not 0 <= item < run.items]
    if unknown or len(set(items)) < len(items):
        raise UsageError(
            f"domains: expected different items of 0..{run.items - 1}, got {', '.join(map(str, items))}; correct --items"
        )


class Asking:
    """One estimator of one read-out, and the truth about some of the orders that it is asked about."""

    def __init__(self, run: Run, name: str, readout: str, verify: int, seed: int) -> None:
        self._run, self._verify, self._seed = run, verify, seed
        self._far = Answering(run, name, readout, known=False)
        self._close = self._far.for_edit("move") if run.config.data.per_step == 1 else self._far
        self._plain = Answering(run, name, readout, known=False, calibrated=False).beside(self._far)
        self.readout, self.reference = self._far.readout, self._far.reference

    def estimate(self, orders: Sequence[Order]) -> list[Estimate]:
        """Of orders that move domains."""
        answers = self._far(orders)
        _retrain(self._run, orders, self._verify, self._seed)
        return answers

    def estimate_close(self, orders: Sequence[Order]) -> list[Estimate]:
        """Of orders that move one item: by a calibration on such orders where there is one, else `widened`."""
        answers, fit = self._close(orders), self._close.calibration
        if fit is not None and fit.edit is None:
            answers = [widened(*pair) for pair in zip(self._plain(orders), answers, strict=True)]
        _retrain(self._run, orders, self._verify // SHARE, self._seed)
        return answers

    def truth(self, order: Order) -> float | None:
        """The read-out's value, if the order, or the reference order with the same content, has really been trained."""
        if self._run.problem.canonical(order) == self._run.problem.canonical(self._run.reference):
            return self.reference
        found = self._run.retrained.find(order)
        return None if found is None else self._run.readouts.truth(self.readout, found)


def widened(plain: Estimate, fitted: Estimate) -> Estimate:
    """The answer about an order that moves one item: not shifted by a calibration on random orders, whose shift widens the
    interval instead.

    So near to the reference order, where estimates are exact, their common offset is not known to hold.
    """
    if fitted.interval is None or fitted.source == "retrained":
        return fitted
    half = (fitted.interval[1] - fitted.interval[0]) / 2 + abs(fitted.loss - plain.loss)
    note = (
        f"{fitted.note}, widened by the calibration's shift, which is known for random orders alone and not applied; "
        "`fut calibrate RUN --edit move` fits it to orders like this one"
    )
    return replace(
        fitted, loss=plain.loss, delta=plain.delta, interval=(plain.loss - half, plain.loss + half), note=note
    )


def _retrain(run: Run, orders: Sequence[Order], count: int, seed: int) -> None:
    """`count` of the orders that train otherwise than the reference order does, drawn from the seed; all where they are fewer."""
    own, canonical = run.problem.canonical(run.reference), run.problem.canonical
    different = list({of: None for order in orders if (of := canonical(order)) != own})
    drawn = np.random.default_rng([seed, 59]).permutation(len(different))[:count]
    with run.progress("retraining", len(drawn) * run.steps) as tick:
        for k in sorted(drawn.tolist()):
            run.retrain(different[k], lambda step, state: tick())

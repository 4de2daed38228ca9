"""`domains` on a run: where labels come from, which orders are asked about, and which are retrained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fut.artifacts import directory as files
from fut.data.labels import Labels, checked_labels, quantile_labels
from fut.data.provenance import source_labels
from fut.errors import UsageError
from fut.methods.registry import default_estimator, require_movable
from fut.orders.scores import MEASURES, difficulty
from fut.questions.domains.blocks import arrangements
from fut.questions.domains.estimates import Asking
from fut.questions.domains.result import Domains, asked_orders, compare, domains
from fut.questions.memorization.cells import LEAST
from fut.questions.outliers import outlier_note
from fut.readouts.readout import PROBE
from storage import fingerprint, write_json

if TYPE_CHECKING:
    from fut.methods.context import Context


SOURCE = "source"
MOST, PLACES = 24, 5
"""Domain orders that are asked about at most, and places at which every domain is put."""


def labels_of(run: Context, given: Any) -> Labels:
    """Checked labels of a run's items.

    given: a mapping of label to items; a list with one label per item; the path of a JSON file with one of both; `source`, the
    file of a text directory that an item comes from; or a key and a number of parts, `loss:3`, `length:2`,
    `gradient-norm:3`, `perplexity-drop:3`, as in `fut.difficulty`.
    """
    if isinstance(given, (str, Path)):
        text = str(given)
        key, _, parts = text.partition(":")
        if text == SOURCE:
            return checked_labels(
                source_labels(run.config, run.summary["source"], run.manifest.identity["data"]), run.items
            )
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
    run: Context,
    given: Any,
    orders: Sequence[Sequence[str]] | None = None,
    items: Sequence[int] = (),
    *,
    most: int = MOST,
    places: int = PLACES,
    calibrate: int = 0,
    verify: int = 0,
    seed: int = 0,
    readout: str = PROBE,
    estimator: str | None = None,
) -> Domains:
    """Estimate domain orders and placements; the answer is kept in the run (`answers/`).

    calibrate: how many of the orders that move domains to retrain for intervals that hold for such orders. verify: how many
    others to retrain and compare with, and half as many of those that move an item.
    """
    labels, name = labels_of(run, given), estimator or default_estimator(run)
    _require(run, name, items, most, places, (calibrate, verify))
    chosen = [tuple(o) for o in orders] if orders else arrangements(list(labels), most, seed)
    asked = Asking(run, name, readout, seed)
    far, close = asked_orders(run.reference, labels, chosen, items, places)
    if calibrate:
        asked.retrain_to_fit(far, calibrate)
    if verify:
        asked.retrain_to_verify(far, close, verify)
    entries, placed = domains(
        asked.estimate, asked.estimate_close, asked.truth, run.reference, labels, chosen, items, places
    )
    checked = compare([*entries, *(a for p in placed for a in p.answers)], asked.reference, asked.fitted_on)
    single = [a.note for p in placed if p.kind == "item" for a in p.answers if a.delta]
    note = next((entry.note for entry in entries if entry.delta), entries[0].note)
    note += f"; of single items: {single[0]}" if single and single[0] != note else ""
    note += outlier_note(run, items, name)
    about = asked.readout
    found = Domains(name, about.name, about.unit, asked.reference, labels, entries, placed, checked, note, seed)
    _keep(run, found, [labels, chosen, list(items), places, about.name, name, calibrate])
    return found


def _keep(run: Context, found: Domains, key: list[Any]) -> None:
    """Write the answer into the run, in a file named by what was asked."""
    path = run.path / files.ANSWERS / f"domains-{fingerprint(key)[:12]}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, found.as_dict())


def _require(run: Context, name: str, items: Sequence[int], most: int, places: int, counts: tuple[int, int]) -> None:
    require_movable("domains", [name])
    if places < 2 or most < 2 or any(count < 0 or 0 < count < LEAST for count in counts):
        raise UsageError(
            f"domains: expected at least 2 places, 2 orders, and 0 or at least {LEAST} orders to retrain, got places={places}, "
            f"most={most}, calibrate={counts[0]}, verify={counts[1]}; raise them"
        )
    unknown = [item for item in items if not 0 <= item < run.items]
    if unknown or len(set(items)) < len(items):
        raise UsageError(
            f"domains: expected different items of 0..{run.items - 1}, got {', '.join(map(str, items))}; correct --items"
        )

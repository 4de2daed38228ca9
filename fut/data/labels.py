"""Labels of items: which domain every item belongs to, checked so that each item has exactly one.

They are given, or follow from scores, or from the file of a text directory that an item comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from estimators.numbers import as_int, shown
from fut.data.dataset import Dataset
from fut.errors import UsageError
from storage import parse_json

Labels = dict[str, list[int]]
"""Label -> its items, ascending; labels in the order in which they are given."""
OTHERWISE = "give labels in a JSON file"
WORDS = {2: ("low", "high"), 3: ("low", "middle", "high")}


def checked_labels(given: Any, items: int) -> Labels:
    """Labels from a mapping of label -> items, or from a list with one label per item.

    UsageError, naming labels and items, for an unknown item, one with two labels, or one without.
    """
    if hasattr(given, "tolist"):  # of numpy, torch, pandas
        given = given.tolist()
    if isinstance(given, Mapping):
        pairs = [(_name(label), item) for label, listed in given.items() for item in _listed(label, listed)]
    elif isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        if len(given) != items:
            raise UsageError(
                f"labels: expected one label for each of {items} items, got {len(given)}; give a list of {items}, or a mapping "
                "of label to items"
            )
        pairs = [(_name(label), item) for item, label in enumerate(given)]
    else:
        raise UsageError(
            f'labels: expected {{"web": [0, 1], "books": [2, 3]}} or ["web", "web", "books", "books"], got '
            f"{type(given).__name__}; give one of both"
        )
    owner: dict[int, str] = {}
    for label, named in pairs:
        item = as_int(named)
        if item is None or not 0 <= item < items:
            raise UsageError(
                f"labels: expected items 0..{items - 1}, got {shown(named)} under `{label}`; correct that item"
            )
        if item in owner:
            raise UsageError(
                f"labels: expected one label per item, got item {item} under `{owner[item]}` and `{label}`; keep one of both"
            )
        owner[item] = label
    missing = [i for i in range(items) if i not in owner]
    if missing:
        names = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise UsageError(f"labels: expected a label for every item, got none for item {names}; add them")
    labels: Labels = {label: [] for label in owner.values()}
    for item in sorted(owner):
        labels[owner[item]].append(item)
    if len(labels) < 2:
        raise UsageError(f"labels: expected at least two labels, got `{next(iter(labels))}` alone; divide the items")
    return labels


def read_labels(path: Path, known: str) -> Any:
    """Labels as a JSON file has them, not checked yet; UsageError for no such file. known: what else could be given."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"labels: expected a readable JSON file or one of {known}, got {path} ({error.strerror}); check the path"
        ) from error
    except ValueError as error:  # no JSON, no UTF-8, or no possible path
        raise UsageError(f"labels: expected JSON, got {shown(str(path))}: {error}; mend the file") from error


def _name(label: object) -> str:
    return label if isinstance(label, str) else shown(label)


def _listed(label: object, listed: Any) -> Sequence[Any]:
    if hasattr(listed, "tolist"):
        listed = listed.tolist()
    if isinstance(listed, Sequence) and not isinstance(listed, (str, bytes)):
        return listed
    raise UsageError(f"labels: expected a list of items under `{label}`, got {shown(listed)}; write [0, 1, 2]")


def quantile_labels(key: str, scores: Sequence[float], parts: int) -> Labels:
    """Items in `parts` equal parts by their score, low to high, ties by number: `loss-low`, `loss-middle`, `loss-high`.

    UsageError for fewer than two parts, for more than items, or where all scores are alike.
    """
    if not 2 <= parts <= len(scores):
        raise UsageError(f"labels: expected 2 to {len(scores)} parts of {key}, got {parts}; write {key}:3")
    if len(set(scores)) < 2:
        raise UsageError(
            f"labels: expected items that differ in {key}, got {scores[0]:g} for all; divide by another key"
        )
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")
    names = WORDS.get(parts) or [f"{p + 1}of{parts}" for p in range(parts)]
    return {f"{key}-{n}": sorted(map(int, part)) for n, part in zip(names, np.array_split(order, parts), strict=True)}


def source_labels(data: Dataset) -> list[str]:
    """The file of every item, as it was found when the run was trained; the text need not be there any more.

    UsageError where the run's text is no directory of several files, where a tokenizer hides where a file ends, and where an item
    mixes files.
    """
    if not data.files:
        raise UsageError(
            f"labels: expected a directory of several files, read as bytes, for `source`, got {data.source}; {OTHERWISE}"
        )
    if "" in data.files:
        raise UsageError(
            f"labels: expected items of one file for `source`, got item {data.files.index('')}, of whose segments no file has "
            f"more than half; train with data.heterogeneous=true, or {OTHERWISE}"
        )
    return list(data.files)

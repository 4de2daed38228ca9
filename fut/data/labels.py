"""Labels of items: which domain every item belongs to, checked so that each item has exactly one.

They are given, or follow from scores, or from the file of a text directory that an item comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fut.config.training import TrainingConfig
from fut.data.text import TRAIN_SHARE, build_dataset, deal, read_texts
from fut.errors import UsageError

Labels = dict[str, list[int]]
"""Label -> its items, ascending; labels in the order in which they are given."""
OTHERWISE = "give labels in a JSON file"
WORDS = {2: ("low", "high"), 3: ("low", "middle", "high")}


def checked_labels(given: Any, items: int) -> Labels:
    """Labels from a mapping of label -> items, or from a list with one label per item.

    UsageError, naming labels and items, for an unknown item, one with two labels, or one without.
    """
    if isinstance(given, Mapping):
        pairs = [(str(label), item) for label, listed in given.items() for item in _listed(label, listed)]
    elif isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        if len(given) != items:
            raise UsageError(
                f"labels: expected one label for each of {items} items, got {len(given)}; give a list of {items}, or a mapping "
                "of label to items"
            )
        pairs = [(str(label), item) for item, label in enumerate(given)]
    else:
        raise UsageError(
            f'labels: expected {{"web": [0, 1], "books": [2, 3]}} or ["web", "web", "books", "books"], got '
            f"{type(given).__name__}; give one of both"
        )
    owner: dict[int, str] = {}
    for label, item in pairs:
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < items:
            raise UsageError(f"labels: expected items 0..{items - 1}, got {item!r} under `{label}`; correct that item")
        if item in owner:
            raise UsageError(
                f"labels: expected one label per item, got item {item} under `{owner[item]}` and `{label}`; keep one of both"
            )
        owner[item] = label
    missing = [i for i in range(items) if i not in owner]
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise UsageError(f"labels: expected a label for every item, got none for item {shown}; add them")
    labels: Labels = {label: [] for label in owner.values()}
    for item in sorted(owner):
        labels[owner[item]].append(item)
    if len(labels) < 2:
        raise UsageError(f"labels: expected at least two labels, got `{next(iter(labels))}` alone; divide the items")
    return labels


def _listed(label: object, listed: Any) -> Sequence[Any]:
    if isinstance(listed, Sequence) and not isinstance(listed, (str, bytes)):
        return listed
    raise UsageError(f"labels: expected a list of items under `{label}`, got {listed!r}; write [0, 1, 2]")


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


def source_labels(config: TrainingConfig, source: str, digest: Mapping[str, Any]) -> list[str]:
    """The file of every item: the one that holds more than half of its segments, each by its middle byte.

    UsageError where the run's text is no directory of several files or not the one it was trained on, where a tokenizer hides
    where a file ends, and where an item mixes files.

    source: what the run was trained on. digest: the identity of the data that it was trained on.
    """
    data = config.data
    if data.tokenizer or source != data.text:
        got = f"the tokenizer {data.tokenizer}" if data.tokenizer else source
        raise UsageError(f"labels: expected a run on text as bytes for `source`, got {got}; {OTHERWISE}")
    if build_dataset(config).identity() != digest:
        raise UsageError(
            f"labels: expected the text that the run was trained on in {data.text}, got another; {OTHERWISE}"
        )
    texts = read_texts(data.text)
    if len(texts) < 2:
        raise UsageError(f"labels: expected a directory of several files for `source`, got {data.text}; {OTHERWISE}")
    ends = np.cumsum([len(text.encode("utf-8")) + 1 for _, text in texts])  # each is followed by a line end
    length = data.context + 1
    segments = int(TRAIN_SHARE * (int(ends[-1]) - 1)) // length
    rows, _ = deal(segments, data, np.random.default_rng([data.seed, 0]))
    owners = np.searchsorted(ends, rows * length + length // 2, side="right")
    return [_majority(item, [texts[k][0] for k in files]) for item, files in enumerate(owners.tolist())]


def _majority(item: int, names: list[str]) -> str:
    name, count = Counter(names).most_common(1)[0]
    if 2 * count <= len(names):
        raise UsageError(
            f"labels: expected items of one file for `source`, got item {item}, of whose {len(names)} segments {count} come from "
            f"{name}; train with data.heterogeneous=true, or {OTHERWISE}"
        )
    return name

"""Which file of a text directory every item comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from fut.config.training import TrainingConfig
from fut.data.text import TRAIN_SHARE, build_dataset, deal, read_texts
from fut.errors import UsageError

OTHERWISE = "give labels in a JSON file"


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
    return [_majority(item, [texts[k][0] for k in own]) for item, own in enumerate(owners.tolist())]


def _majority(item: int, names: list[str]) -> str:
    name, count = Counter(names).most_common(1)[0]
    if 2 * count <= len(names):
        raise UsageError(
            f"labels: expected items of one file for `source`, got item {item}, of whose {len(names)} segments {count} come from "
            f"{name}; train with data.heterogeneous=true, or {OTHERWISE}"
        )
    return name

"""What the cards hold: the text of every item, where the run's data is text in bytes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fut.artifacts import dataset as dataset_file
from fut.config.schema import DataConfig
from fut.data.text import detokenize
from fut.models.objective import Item

if TYPE_CHECKING:
    from fut.methods.context import Context


EXCERPT, ROOM = 60, 400_000
"""Characters of an excerpt, and of all full texts together."""
READABLE = 0.95


@dataclass(frozen=True)
class ItemText:
    """An item's content hash, and its sequences as text; none where it is not text. cut: whether they are shortened."""

    hash: str
    sequences: list[str]
    cut: bool = False

    @property
    def excerpt(self) -> str:
        """The beginning, on one line."""
        return " ".join(" ".join(self.sequences[:1]).split())[:EXCERPT]


def item_texts(run: Context) -> list[ItemText]:
    """What every item holds."""
    hashes = run.manifest.identity["data"]["items"]
    data = dataset_file.read_dataset(run.path, run.owner)
    if not is_text(data.items, run.config.data):
        return [ItemText(h, []) for h in hashes]
    room = max(200, ROOM // len(hashes))
    return [_shortened(h, detokenize(i, run.config.data), room) for h, i in zip(hashes, data.items, strict=True)]


def is_text(items: Sequence[Item], config: DataConfig) -> bool:
    """Whether items are sequences of bytes that read as UTF-8 text: nearly all of it letters, signs and white space."""
    if config.tokenizer or config.vocabulary != 256:
        return False
    for item in items[:8]:
        if len(item) != 1 or item[0].ndim != 2 or item[0].dtype != torch.int64:
            return False
        ids = item[0]
        if not ids.numel() or not bool(((ids >= 0) & (ids < 256)).all()):
            return False
        if not _reads("".join(detokenize(item, config))):
            return False
    return True


def _reads(text: str) -> bool:
    odd = sum(c == "\ufffd" or (unicodedata.category(c) == "Cc" and c not in "\n\r\t\f") for c in text)
    return odd <= (1 - READABLE) * len(text)


def _shortened(digest: str, sequences: list[str], room: int) -> ItemText:
    kept, left = list[str](), room
    for sequence in sequences:
        if left <= 0:
            return ItemText(digest, kept, cut=True)
        kept.append(sequence[:left])
        left -= len(sequence)
    return ItemText(digest, kept, cut=left < 0)

"""From text to numbered items: tokens, segments, items with content hashes, a held-out probe set."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fut.config.schema import DataConfig, printable
from fut.config.training import TrainingConfig
from fut.data.dataset import Dataset
from fut.errors import DataError
from fut.models.factory import load_hook
from fut.models.objective import Item

ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")
"""A byte that is no UTF-8, as it is written down."""
REFERENCE = "language-reference"
"""The name of the text that is taken where none is named: CPython's language reference."""
TRAIN_SHARE = 0.9
"""The first nine tenths of the text are for training; probe sequences come from the rest."""


def read_text(source: str) -> str:
    """The text of a file, of every file in a directory (sorted by name), or of CPython's language reference."""
    return "\n".join(text for _, text in read_texts(source))


def read_texts(source: str) -> list[tuple[str, str]]:
    """The same in its parts, each with its name: files by their path within the directory, topics of the reference."""
    if not source or (source == REFERENCE and not Path(source).exists()):
        from pydoc_data.topics import topics

        return [(name, topics[name]) for name in sorted(topics)]
    path = text_path(source)
    files = (
        sorted(p for p in path.rglob("*") if p.is_file() and not hidden(p.relative_to(path)))
        if path.is_dir()
        else [path]
    )
    if not files:
        raise DataError(
            f"text: expected files in {path}, got a directory without any (hidden ones aside); give another --text"
        )
    names = [str(p.relative_to(path)) if path.is_dir() else p.name for p in files]
    return [(printable(name), _read_file(p)) for name, p in zip(names, files, strict=True)]


def text_path(source: str) -> Path:
    """The file or directory behind a name as a configuration writes it: bytes that are no UTF-8 may stand as `\\xNN`."""
    try:
        if ESCAPED.search(source) and not os.path.lexists(source):
            return Path(ESCAPED.sub(lambda found: os.fsdecode(bytes([int(found[1], 16)])), source))
        return Path(source)
    except ValueError as error:
        raise DataError(f"text: expected a path, got {source!r} ({error}); check --text") from error


def hidden(path: Path) -> bool:
    """Whether a path within a directory is hidden, or in a hidden directory, as what desktops and editors leave there is."""
    return any(part.startswith(".") for part in path.parts)


def _read_file(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # line ends as they are, those of Windows too
    except OSError as error:
        raise DataError(
            f"text: expected a readable file, got {error.filename} ({error.strerror}); check --text"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"text: expected UTF-8 in {path}, got undecodable bytes ({error.reason}); convert it"
        ) from error


def tokenize(text: str, config: DataConfig) -> np.ndarray:
    """Token ids [n] (int64): UTF-8 bytes, or what the tokenizer hook returns."""
    if config.tokenizer:
        hook: Callable[[str], Sequence[int]] = load_hook(config.tokenizer, "data.tokenizer")
        returned = np.asarray(hook(text))
        if returned.ndim != 1 or (len(returned) and returned.dtype.kind not in "iu"):
            raise DataError(
                f"data.tokenizer: expected a flat list of whole numbers from `{config.tokenizer}`, "
                f"got {returned.dtype} of shape {list(returned.shape)}; return a list of ids"
            )
        ids = returned.astype(np.int64)
    else:
        ids = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)
    if len(ids) and not 0 <= ids.min() <= ids.max() < config.vocabulary:
        raise DataError(
            f"text: expected token ids 0..{config.vocabulary - 1}, got {ids.min()}..{ids.max()}; set data.vocabulary"
        )
    return ids


def build_dataset(config: TrainingConfig) -> Dataset:
    """Cut the configured text into disjoint segments of context + 1 tokens and deal them into items.

    Mixed items take segments from anywhere in the training share; heterogeneous ones take theirs from consecutive
    zones. Warm-up batches, as large as what a step consumes, use segments that no item holds.
    """
    data = config.data
    texts = read_texts(data.text)
    tokens = tokenize("\n".join(text for _, text in texts), data)
    length = data.context + 1
    split = int(TRAIN_SHARE * len(tokens))
    train, held_out = (
        part[: len(part) // length * length].reshape(-1, length) for part in (tokens[:split], tokens[split:])
    )
    _require_enough(config, len(tokens), len(train), len(held_out))
    draw = np.random.default_rng([data.seed, 0])
    dealt, rest = deal(len(train), data, draw)
    items = [_item(train, rows) for rows in dealt]
    size = data.batch * data.per_step
    warmup = [_item(train, draw.choice(rest, size, replace=False)) for _ in range(config.warmup.steps)]
    probe = _probe(held_out, data, np.random.default_rng([data.seed, 1]))
    source = data.text or "CPython's language reference (pydoc_data.topics)"
    known = data.text and not data.tokenizer and len(texts) > 1
    files = _files_of(dealt, texts, length) if known else ()
    return Dataset(tuple(items), probe, tuple(warmup), source, files=files)


def _files_of(dealt: np.ndarray, texts: Sequence[tuple[str, str]], length: int) -> tuple[str, ...]:
    """The file that holds more than half of an item's segments, each by its middle byte, for every item; "" for none."""
    ends = np.cumsum([len(text.encode("utf-8")) + 1 for _, text in texts])  # each is followed by a line end
    files = []
    for owners in np.searchsorted(ends, dealt * length + length // 2, side="right").tolist():
        owner, count = Counter(owners).most_common(1)[0]
        files.append(texts[owner][0] if 2 * count > len(owners) else "")
    return tuple(files)


def deal(segments: int, data: DataConfig, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which segments of the training share every item takes [items, batch], and the rest."""
    dealt, rest = np.split(draw.permutation(segments), [data.items * data.batch])
    if data.heterogeneous:
        dealt = np.sort(dealt)
    return dealt.reshape(data.items, data.batch), rest


def _require_enough(config: TrainingConfig, tokens: int, train: int, held_out: int) -> None:
    data, length = config.data, config.data.context + 1
    segments = data.items * data.batch + (data.batch * data.per_step if config.warmup.steps else 0)
    if train >= segments and held_out >= data.probe:
        return
    needed = max(segments / TRAIN_SHARE, data.probe / (1 - TRAIN_SHARE)) * length
    raise DataError(
        f"text too short: expected at least {int(needed) + length} tokens for {data.items} items of {data.batch} × {length} "
        f"tokens and {data.probe} probe sequences, got {tokens}; "
        "give a longer --text, or lower data.items, data.batch, data.context or data.probe"
    )


def _item(segments: np.ndarray, rows: np.ndarray) -> Item:
    return (torch.from_numpy(segments[rows].copy()),)


def _probe(held_out: np.ndarray, data: DataConfig, draw: np.random.Generator) -> tuple[Item, ...]:
    """Probe sequences in equal chunks of about what a step consumes, so that evaluation needs no more memory than training."""
    rows = np.sort(draw.choice(len(held_out), data.probe, replace=False))
    chunk = max(c for c in range(1, min(data.probe, 4 * data.batch * data.per_step) + 1) if data.probe % c == 0)
    return tuple(_item(held_out, part) for part in rows.reshape(-1, chunk))


def detokenize(item: Item, config: DataConfig) -> list[str]:
    """The text of every sequence of an item; ids as numbers where the tokenizer cannot be inverted here."""
    rows = item[0].reshape(len(item[0]), -1).tolist()
    if config.tokenizer or not all(isinstance(i, int) and 0 <= i < 256 for row in rows for i in row):
        return [" ".join(map(str, row)) for row in rows]
    return [bytes(row).decode("utf-8", errors="replace") for row in rows]

"""Orders in files: JSON and JSON lines, and index files of training pipelines (numpy, or bare `uint32` as OLMo has it)."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from estimators.errors import OrderError
from estimators.numbers import shown
from estimators.orders.order import Order
from estimators.orders.samplers import indexed
from storage import DamagedError, parse_json, read_plain, write_bytes

LINES, NUMPY, BARE = ".jsonl", ".npy", (".uint32", ".u32", ".bin")
SUFFIXES = (".json", LINES, NUMPY, *BARE)
"""Kinds of order files, by their names' ends."""
MAGIC = b"\x93NUMPY"
"""What a file of numpy begins with; without it a `.npy` file holds bare `uint32` numbers, as OLMo's `global_indices.npy` does."""
SHOWN = 8
MOST = 1 << 30
"""Bytes of an order file beyond which it is not read."""


def is_order_file(path: Path) -> bool:
    """Whether a path is named as a file that holds an order."""
    return path.suffix in SUFFIXES


def read_order_file(path: Path, reference: Order) -> list[Any]:
    """Entries of an order, one per step, as `Order.of` takes them.

    A JSON list, JSON lines with a step each, or an index file, whose indices are cut into the reference order's steps.

    Args:
        path: of the file.
        reference: the reference order.

    Raises:
        OrderError: for what is none; for an index file that does not consume what the reference order does.
    """
    if path.suffix == LINES:
        return [_entry(path, step, value) for step, value in enumerate(read_lines(path))]
    if path.suffix == NUMPY or path.suffix in BARE:
        return index_steps(path, read_indices(path), reference)
    return _read_list(path)


def content_of(path: Path) -> bytes:
    """The bytes of an order file; OrderError where they cannot be read."""
    kind = "JSON file" if path.suffix == ".json" else "file"
    try:
        return read_plain(path.resolve(), MOST)  # the caller's own file, which may be a link
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise OrderError(f"order: expected a readable {kind}, got {path} ({said}); check the path") from error
    except DamagedError as error:
        raise OrderError(f"order: {error}") from error


def read_lines(path: Path) -> list[Any]:
    """The JSON values of a file's lines, empty ones left out; OrderError naming the line that is none."""
    values = []
    for number, line in enumerate(content_of(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            values.append(parse_json(line))
        except ValueError as error:
            raise OrderError(
                f"order: expected JSON in every line, got {path}, line {number}: {error}; mend it"
            ) from error
    return values


def read_indices(path: Path) -> np.ndarray:
    """The whole numbers of an index file, int64, as they are arranged there."""
    content = content_of(path)
    if not content.startswith(MAGIC):
        if len(content) % 4:
            raise OrderError(
                f"order: expected numbers of 4 bytes each (uint32, little endian), got {len(content)} bytes in {path}; mend it"
            )
        return np.frombuffer(content, "<u4").astype(np.int64)
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:  # a head may declare any size
        raise OrderError(f"order: expected an array of numpy, got {path}: {error}; mend the file") from error
    if found.dtype.kind not in "iu" or found.ndim not in (1, 2):
        raise OrderError(
            f"order: expected whole numbers [steps] or [steps, items], got {found.dtype} {list(found.shape)} in {path}; mend it"
        )
    return cast("np.ndarray", found.astype(np.int64))


def index_steps(path: Path, indices: np.ndarray, reference: Order) -> list[list[int]]:
    """Indices as the reference order's steps; OrderError unless they are as many, and each as often, as it consumes."""
    wanted = [item for step in reference.steps for item in step]
    flat = indices.reshape(-1).tolist()
    if len(flat) != len(wanted):
        raise OrderError(
            f"order: expected {len(wanted)} indices, what {len(reference)} steps consume, got {len(flat)} in {path}; is it of "
            "this window, and of items (not of their samples)?"
        )
    ours, theirs = Counter(wanted), Counter(flat)
    if ours != theirs:
        missing, more = sorted((ours - theirs).elements()), sorted((theirs - ours).elements())
        raise OrderError(
            f"order: expected the items of the reference order, each as often, got {path} without {some(missing)} and with "
            f"{some(more)} beside; write a JSON list for an order that trains on other items on purpose"
        )
    return cut(flat, [len(step) for step in reference.steps])


def cut(flat: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """A sequence as consecutive parts of these lengths; what is left over makes further parts of the last length."""
    lengths = list(lengths)
    while sum(lengths) < len(flat):
        lengths.append(max(1, lengths[-1] if lengths else 1))
    ends = accumulate(lengths, initial=0)
    return [list(part) for first, last in pairwise(ends) if (part := flat[first:last]) or last <= len(flat)]


def some(numbers: Sequence[int]) -> str:
    """The first few of several numbers, in words."""
    if not numbers:
        return "none"
    listed = ", ".join(map(str, numbers[:SHOWN]))
    return listed + (f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else "")


def _entry(path: Path, step: int, value: Any) -> Any:
    """What a line says that a step consumes."""
    if not isinstance(value, dict):
        return value
    if value.get("step", step) != step:
        raise OrderError(
            f"order: expected one line a step, in turn, got step {shown(value['step'])} in place of {step} in {path}; sort the "
            "lines, or `fut check-order` for the log of a training"
        )
    if "items" in value:
        return {key: value[key] for key in ("items", "weights") if key in value}
    if "indices" in value:
        return value["indices"]
    raise OrderError(
        f'order: expected lines like {{"step": 0, "indices": [3, 1]}}, got {sorted(value)} for step {step} in {path}; mend it'
    )


def _read_list(path: Path) -> list[Any]:
    """A JSON list of item numbers, or of lists of item numbers; `{"order": [...]}` as `order.json` has it too."""
    written = content_of(path)
    try:
        content = parse_json(written.decode("utf-8"))
    except ValueError as error:  # no JSON, no UTF-8, or no possible path
        raise OrderError(
            f"order: expected a JSON list like [3, 1, 2, 0], got {path}: {error}; mend the file"
        ) from error
    listed = content.get("order", content) if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise OrderError(
            f"order: expected a JSON list like [3, 1, 2, 0], got {type(listed).__name__} in {path}; mend the file"
        )
    return listed


def write_order_file(path: Path, order: Order, samples: int = 1) -> Path:
    """Write an order, in the form that the file's name ends in; what `read_order_file` reads where an item is one sample.

    Args:
        path: `.json`, `.jsonl`, `.npy` (int64 [steps, items], or flat where steps differ in length), or `.uint32`, `.u32` or
            `.bin` (bare little-endian numbers, as OLMo's `global_indices.npy` holds them).
        order: what is written.
        samples: rows of a data set that make an item, consecutive ones, whose indices are written; not for `.json`.

    Returns:
        The path.

    Raises:
        OrderError: for another ending, and for weights or empty steps where the form has none.
    """
    if not is_order_file(path) or (path.suffix == ".json" and samples != 1):
        raise OrderError(
            f"order: expected a file that ends in {', '.join(SUFFIXES)} (not .json for samples of items), got {path}; rename it"
        )
    write_bytes(path, _content(path, order, samples))
    return path


def _content(path: Path, order: Order, samples: int) -> bytes:
    if path.suffix == ".json":
        return json.dumps(order.tolist()).encode() + b"\n"
    if path.suffix == LINES and samples == 1:
        return b"".join(_line(step, items, order) for step, items in enumerate(order.steps))
    steps = indexed(order.entries, samples)
    if path.suffix == LINES:
        return b"".join(json.dumps({"step": t, "indices": rows}).encode() + b"\n" for t, rows in enumerate(steps))
    alike = len({len(step) for step in steps}) == 1
    if path.suffix == NUMPY:
        buffer = io.BytesIO()
        np.save(buffer, np.array(steps if alike else [i for step in steps for i in step], dtype=np.int64))
        return buffer.getvalue()
    flat = np.array([i for step in steps for i in step], dtype=np.int64)
    if len(flat) and flat.max() >= 1 << 32:
        raise OrderError(f"order: expected indices below {1 << 32} for {path.suffix}, got {flat.max()}; write .npy")
    return flat.astype("<u4").tobytes()


def _line(step: int, items: Sequence[int], order: Order) -> bytes:
    if order.weights is None or set(order.weights[step]) <= {1.0}:
        return json.dumps({"step": step, "indices": list(items)}).encode() + b"\n"
    return json.dumps({"step": step, "items": list(items), "weights": list(order.weights[step])}).encode() + b"\n"

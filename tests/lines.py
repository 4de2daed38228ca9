"""Lines of questions: good ones, and every kind of bad one."""

from __future__ import annotations

from typing import Any


def queries(*lines: Any) -> bytes:
    return b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines)


MIXED = queries(
    "reverse",
    "",
    "[4, 3, 2, 1, 0]",
    '{"id": "x", "edits": [["swap", 1, 3]]}',
    "[4, 3",
    '{"id": 5, "edits": [["swap", 1, 9]]}',
    b"\xff\xfe\n",
    "sort:loss",
    '{"id": 8, "readouts": ["item:3"]}',
    '{"id": 9, "readouts": ["os:getcwd"]}',
    "[4, 3, 2]",
    b"\0.json\n",
    "random:7",
)[:-1]

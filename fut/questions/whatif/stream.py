"""Queries as they stream in, answers as they stream out: in order, in batches, in memory that does not grow."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, cast

from estimators.errors import OrderError
from fut.display.numbers import jsonable
from fut.questions.context import QuestionContext
from fut.questions.question import Question
from fut.questions.whatif.ask import WhatIfOptions, WhatIfs
from fut.questions.whatif.query import Query, QueryError, as_query, read_query

BLOCK, LONGEST = 1 << 16, 1 << 24
"""Bytes read at once, and the most that one line may have."""
MOST, PATIENCE = 4096, 1.0
"""Queries answered together at most, and how long a batch may take, in seconds, before smaller ones are made."""


def blocks_of(queries: Any) -> Iterator[list[Any]]:
    """Lists of queries, from a stream of lines or from any iterable of lines, orders, dicts and `Query` values."""
    stream = getattr(queries, "buffer", queries)
    if isinstance(stream, (io.BufferedIOBase, io.RawIOBase)):
        yield from read_lines(cast("BinaryIO", stream))
        return
    waiting = iter(queries)
    while block := list(islice(waiting, MOST)):
        yield block


def read_lines(stream: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of a stream, as many at once as have arrived: a reader at the other end of a pipe is answered at once.

    A line longer than LONGEST bytes comes as its beginning, so that memory stays bounded; it reads as no query.
    """
    rest, skipping = b"", False
    read = stream.read1 if isinstance(stream, (io.BufferedReader, io.BytesIO)) else stream.read
    while block := read(BLOCK):
        if skipping:
            end = block.find(b"\n")
            if end < 0:
                continue
            block, skipping = block[end + 1 :], False
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > LONGEST:
            lines, rest, skipping = [*lines, rest], b"", True
        if lines:
            yield lines
    if rest:
        yield [rest]


def answer_queries(whatifs: WhatIfs, queries: Any) -> Iterator[dict[str, Any]]:
    """An object per query, in their order; blank lines are counted and not answered.

    {"line", "id" where the query has one, "digest" of the order, "readouts": {name: change}}, or for a line that cannot be
    answered {"line", "id", "error"}. Batches grow while they are quick and shrink where they are not.
    """
    size, number = 1, 0
    for block in blocks_of(queries):
        waiting: list[tuple[int, Query | Exception]] = []
        for line in block:
            number += 1
            if not isinstance(line, (str, bytes)) or line.strip():
                waiting.append((number, _read(line)))
            if len(waiting) >= size:
                began = time.perf_counter()
                answers = _answers(whatifs, waiting)
                waiting, size = [], _next_size(size, time.perf_counter() - began)
                yield from answers
        if waiting:
            yield from _answers(whatifs, waiting)


def _next_size(size: int, seconds: float) -> int:
    if seconds < PATIENCE / 4:
        return min(2 * size, MOST)
    return max(size // 2, 1) if seconds > PATIENCE else size


def _read(line: Any) -> Query | Exception:
    try:
        if not isinstance(line, (str, bytes)):
            return as_query(line)
        if len(line) > LONGEST:
            raise OrderError(f"query: expected a line of at most {LONGEST} bytes, got a longer one; split it")
        return read_query(line if isinstance(line, str) else line.decode("utf-8"))
    except OrderError as error:
        return error
    except UnicodeDecodeError as error:
        return OrderError(f"query: expected UTF-8, got undecodable bytes ({error.reason}); convert the file")


def _answers(whatifs: WhatIfs, waiting: list[tuple[int, Query | Exception]]) -> list[dict[str, Any]]:
    queries = [query for _, query in waiting if isinstance(query, Query)]
    answers = iter(whatifs.together(queries))
    return [
        _as_dict(number, query, query if isinstance(query, Exception) else next(answers)) for number, query in waiting
    ]


def _as_dict(number: int, query: Query | Exception, answer: Any) -> dict[str, Any]:
    name = query.id if isinstance(query, (Query, QueryError)) else None
    numbered: dict[str, Any] = {"line": number} if name is None else {"line": number, "id": jsonable(name)}
    if isinstance(answer, Exception):
        return numbered | {"error": str(answer)}
    order, changes = answer
    return numbered | {"digest": order.digest, "readouts": {change.readout: change.as_dict() for change in changes}}


@dataclass(frozen=True)
class Queries(WhatIfOptions[Iterator[dict[str, Any]]]):
    """Any number of what-if queries, answered one after the other in memory that does not grow with their number.

    Args:
        queries: a file of lines (a name, a JSON list, or a JSON object of `id`, `order`, `edits`, `readouts`), or an
            iterable of such lines, orders and dicts.
        order: what is edited where a query names no order; the other fields are those of `WhatIfOptions`.
    """

    queries: Any = ()


def ask(request: Queries, context: QuestionContext) -> Iterator[dict[str, Any]]:
    """An answer per query, in their order. NotCachedError before the first; a bad query has `error` in its answer, and the rest
    go on: see `answer_queries`."""
    whatifs = WhatIfs(context, request)
    whatifs.ready()
    return answer_queries(whatifs, request.queries)


WHATIFS = Question(
    "whatifs",
    Queries,
    ask,
    lambda answers: "\n".join(map(str, answers)),
    "Any number of what-if queries.",
    command=False,
)

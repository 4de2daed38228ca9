"""The frame of a benchmark that measures a row for every setting: resumed row by row, recorded, or shown as a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import began, resumed, write_record

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """What a benchmark measures.

    Args:
        kept: the keys of a row that say its setting.
        measure: (setting by key, arguments) -> a row, which holds the setting.
        table: of rows, as text.
        about: what the record's settings hold beside the arguments.
    """

    kept: Sequence[str]
    measure: Callable[[Row, argparse.Namespace], Row]
    table: Callable[[list[Row]], str]
    about: Mapping[str, Any]


def with_frame(cli: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """The parser with the flags that all of these benchmarks have. name: of the record."""
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path)
    cli.add_argument("--table", action="store_true", help="print the record's table, and measure nothing")
    cli.add_argument("--name", default=name)
    return cli


def run(
    cli: argparse.ArgumentParser, arguments: argparse.Namespace, rows: Rows, settings: Iterable[tuple[Any, ...]]
) -> int:
    """Measure what the record lacks, writing it after every row; or print what it holds.

    Args:
        cli: which refuses to measure without --work.
        arguments: as it parsed them.
        rows: what is measured.
        settings: of every row, values of `rows.kept` in turn.
    """
    if arguments.table:
        print(rows.table(resumed(arguments.name, rows.kept)[0]))
        return 0
    if arguments.work is None:
        cli.error("expected --work DIR, where the runs are")
    started, (found, done) = began(arguments.name), resumed(arguments.name, rows.kept)
    for setting in settings:
        if setting not in done:
            found.append(rows.measure(dict(zip(rows.kept, setting, strict=True)), arguments))
            print(rows.table(found[-1:]), file=sys.stderr, flush=True)
            shown = vars(arguments) | dict(rows.about) | {"threads": torch.get_num_threads()}
            write_record(arguments.name, shown, found, started)
    return 0

"""Answer many orders offline: one query per line in, one JSON answer per line out, in the same order.

python scripts/what_if_queries.py RUN < queries.jsonl > answers.jsonl

A line is a name (`random:7`), a list (`[3, 1, 2, 0]`), or an object: {"id": 1, "order": "reverse", "edits": [["swap", 3, 7]],
"readouts": ["probe"]}, each field optional.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import fut
from fut.questions.whatif.stream import Queries


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if any line was bad; a bad line gets an error object with its number, and the rest go on."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("run", help="directory of a reference run")
    cli.add_argument("--estimator", default=None, help="default: the run's own default")
    cli.add_argument("--readout", action="append", help="default: probe; again for more")
    cli.add_argument("--verify", action="store_true", help="retrain in every order as well")
    arguments = cli.parse_args(argv)
    run, bad = fut.open(arguments.run), 0
    readouts = arguments.readout or ["probe"]
    fields = {"readouts": readouts, "estimator": arguments.estimator, "verify": arguments.verify}
    for found in run.ask(Queries(queries=sys.stdin, **fields)):
        bad |= "error" in found
        print(json.dumps(found), flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())

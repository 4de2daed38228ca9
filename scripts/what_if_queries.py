"""Answer many orders offline: one specification per line in, one JSON estimate per line out.

python scripts/what_if_queries.py RUN < orders.txt > answers.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import fut


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if any line was bad; a bad line gets an error object with its number, and the rest go on."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("run", help="directory of a reference run")
    cli.add_argument("--estimator", default=None, help="default: the run's own default")
    arguments = cli.parse_args(argv)
    run, bad = fut.open(arguments.run), 0
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            spec = json.loads(line) if line.lstrip().startswith("[") else line.strip()
            found = run.estimate([spec], arguments.estimator or run.default_estimator)[0].as_dict()
        except ValueError as error:
            found, bad = {"error": str(error)}, 1
        print(json.dumps({"line": number, **found}), flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())

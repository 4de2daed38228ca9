"""Search the order of a run's items that would have trained best, and retrain in it.

python scripts/curriculum_search.py RUN --evaluations 600 --verify 16 > order.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import fut


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the order to standard output, as `fut estimate --order FILE` reads it; what it is worth to standard error.

    Exit status 1 if something was retrained and the found order did not beat every other order that was.
    """
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("run", help="directory of a reference run, with `fut cache RUN --terms adjoint` done")
    cli.add_argument("--evaluations", type=int, default=600, help="orders to estimate")
    cli.add_argument("--verify", type=int, default=16, help="random orders to retrain; 0 retrains nothing")
    cli.add_argument("--seed", type=int, default=0)
    arguments = cli.parse_args(argv)
    run = fut.open(arguments.run)
    found = run.search(evaluations=arguments.evaluations, verify=arguments.verify, seed=arguments.seed)
    print(json.dumps(found.order))
    print(f"estimated {found.estimate.estimated_loss:.5f} nats/token; {found.estimate.note}", file=sys.stderr)
    if found.truths.retrained_loss is None:
        return 0
    rivals = {f"random order {i}": loss for i, loss in enumerate(found.truths.random_losses)} | found.truths.heuristics
    best = min(rivals, key=lambda name: rivals[name])
    print(f"retrained {found.truths.retrained_loss:.5f} nats/token; {best}: {rivals[best]:.5f}", file=sys.stderr)
    return int(found.truths.retrained_loss > rivals[best])


if __name__ == "__main__":
    sys.exit(main())

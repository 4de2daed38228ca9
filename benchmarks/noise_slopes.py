"""How does the variance over orders grow with the learning rate? Exponents by rule, for windows of 6 to 48 steps.

python benchmarks/noise_slopes.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from record import RECORDS, began, write_record

from fut.studies.noise.slopes import SlopesRequest, draw, noise_slopes, text

NAME = "noise-slopes"
DRAWN = 12
"""The window of the picture."""


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[6, 12, 24, 48])
    cli.add_argument("--permutations", type=int, default=128)
    cli.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = cli.parse_args(argv)
    started, rows = began(), []
    for steps in arguments.steps:
        for seed in arguments.seeds:
            found = noise_slopes(SlopesRequest(steps, arguments.permutations, seed))
            print(f"seed {seed}\n{text(found)}", file=sys.stderr, flush=True)
            rows.append({"seed": seed} | found.as_dict())
            if steps == DRAWN and seed == arguments.seeds[0]:
                draw(found, RECORDS / f"{NAME}.png")
    single = noise_slopes(SlopesRequest(DRAWN, arguments.permutations, precision="float32"))
    rows.append({"seed": 0} | single.as_dict())
    write_record(NAME, vars(arguments), rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

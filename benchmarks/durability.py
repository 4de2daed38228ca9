"""Kill `fut train` and `fut cache` at random moments, resume, and compare; flip bytes, and see whether each is found.

python benchmarks/durability.py --kills 10 --flips 60

Kills: an uninterrupted run is timed after its imports; ten moments are drawn uniformly over that time. One and the same
run is started again and again, and killed (SIGKILL) when it has worked from one moment to the next, so that the kills are
spread over the whole work. Then it is finished and compared with the uninterrupted run, file by file and value by value.
Flips: on the killed and resumed run, one byte at a time, in every chunk and then anywhere in every kind of file.
Exit status 1 unless all is equal and every flip is found or harmless. Seconds here place the kills; they say nothing of speed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from durability_flip import flips
from durability_kill import CACHE, TRAIN, kills
from durability_progress import say
from record import began, write_record


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--kills", type=int, default=10, help="kills of each command")
    cli.add_argument("--flips", type=int, default=60, help="single-bit flips per kind of file, anywhere in it")
    cli.add_argument("--most", type=int, default=400, help="chunks of one kind to flip a byte in; a sample if more")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--name", default="durability", help="name of the record")
    arguments = cli.parse_args(argv)
    torch.set_num_threads(1)
    rng, started = random.Random(arguments.seed), began()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        killed_runs = kills(work, arguments.kills, rng)
        flipped_bytes = flips(work / "killed-cache", arguments.flips, arguments.most, rng)
    equal = all(s["compared"]["equal"] for stage in killed_runs.values() for s in stage["runs"])
    failures = flipped_bytes["chunks"]["failures"] + flipped_bytes["anywhere"]["failures"]
    passed = equal and not failures and flipped_bytes["as_before"]
    settings = vars(arguments) | {"train": TRAIN, "cache": ["train", *CACHE, "then cache"]}
    results = {"kills": killed_runs, "flips": flipped_bytes, "passed": passed}
    path = write_record(arguments.name, settings, results, started)
    say(f"{path}: runs {'equal' if equal else 'DIFFER'}, {len(failures)} flips neither found nor harmless")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Record what `make demo` found: its table, from the verification that the demo kept.

python benchmarks/demo.py demo
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from record import began, write_record


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("run", type=Path, help="directory of the demo's run")
    arguments = cli.parse_args(argv)
    kept = sorted((arguments.run / "verification").glob("orders-*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in kept]
    write_record("demo", {"configuration": (arguments.run / "config.toml").read_text(encoding="utf-8")}, found, began())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Many odd inputs, and many kills: does anything but an answer or a refusal come out, does anything change?

python benchmarks/faults.py --inputs 110000 --kills 1000

Inputs: texts, documents, settings and arguments of the tests' own kinds (`tests/fuzzing.py`), drawn from a seed. Each must give
an answer or an error that is raised on purpose. Kills: each command works on a small run in a forked process, which is killed
(SIGKILL) at a random moment of its work, and killed again, up to seven times, as it goes on; the same command is then run to its
end, and the run is compared with one that was not interrupted, file by file. Every command gets the same time, so short ones are
killed more often. A call goes on from the record of that name: kinds of inputs that it has are not drawn again, and its kills
count. Files that say how long something took, and pictures, are compared by their being there.
Exit status 1 unless all is answered, refused, or equal. Meant for the night: it runs as long as it is asked to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from durability_compare import file_content, files_of
from durability_progress import say
from hypothesis import HealthCheck, Phase, given, seed, settings
from record import RECORDS, began, write_record

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from fuzzing import PROPERTIES, Property
from small import small_config

import fut

Work = Callable[[Path], object]
Row = dict[str, Any]
UNCOMPARED = "seconds"
"""Fields that say how long something took have this word in their names, as `query_seconds` and `seconds_per_order`."""
LOADED = "loaded.json"
"""Beside the runs: the modules that a finished piece of work had loaded."""
CHAIN = 8
"""Kills in a row at most, before what is left is finished and compared."""


def fuzzed(rows: list[Row], inputs: int, first: int, done: Callable[[list[Row]], object]) -> None:
    """Draw that many inputs, evenly over all kinds; `done` hears after each kind what came out that must not."""
    each, known = -(-inputs // len(PROPERTIES)), {row["name"] for row in rows if row["kind"] == "inputs"}
    for number, (name, prop) in enumerate(PROPERTIES.items()):
        if name not in known:
            rows.append({"kind": "inputs", "name": name} | drawn(prop, each, first + number))
            done(rows)
            say(f"{name}: {rows[-1]['inputs']} inputs, {rows[-1]['failed']} failures")


def drawn(prop: Property, count: int, first: int) -> dict[str, Any]:
    """Draw so many inputs of one kind."""
    failures, done = list[str](), [0]

    @seed(first)
    @settings(
        max_examples=count,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(prop.inputs)
    def check(value: Any) -> None:
        done[0] += 1
        try:
            prop.check(value)
        except Exception:
            failures.append(traceback.format_exc(limit=-3)[-600:])

    check()
    return {"inputs": done[0], "failures": failures[:20], "failed": len(failures)}


def opened(path: Path) -> fut.Run:
    return fut.open(path, device="cpu")


def trained(path: Path) -> None:
    """Train, or finish, or find the run finished."""
    try:
        fut.train(path, small_config(), device="cpu")
    except fut.ExistsError:
        opened(path)


STAGES: dict[str, Work] = {
    "train": trained,
    "cache": lambda path: opened(path).cache(["adjoint"]),
    "cache pairs": lambda path: opened(path).cache(["gradient", "norm"]),
    "calibrate": lambda path: opened(path).calibrate(4),
    "verify": lambda path: opened(path).verify(3),
    "whatif": lambda path: opened(path).whatif("swap:0,1", verify=True),
    "search": lambda path: opened(path).search(evaluations=30, verify=1),
    "memorize": lambda path: opened(path).memorize(items=[0, 1], groups=2),
    "domains": lambda path: opened(path).domains(["a", "a", "b", "b", "b"]),
    "lds": lambda path: opened(path).lds(),
    "sort": lambda path: opened(path).estimate(["sort:loss"]),
    "report": lambda path: opened(path).report(samples=4),
}
"""What is killed, on a run that is trained and has the adjoint's terms; the first two begin with less."""


def forked(work: Work, path: Path, seconds: float | None) -> int:
    """Do the work in a process of its own, and kill it so long after its start; the status as `os.waitpid` has it."""
    child = os.fork()
    if not child:
        try:
            with open(os.devnull, "w") as quiet:
                os.dup2(quiet.fileno(), 1)
                os.dup2(quiet.fileno(), 2)
            warnings.simplefilter("ignore")
            work(path)
            (path.parent / LOADED).write_text(json.dumps(sorted(sys.modules)))
            os._exit(0)
        except BaseException:
            (path.parent / "error.txt").write_text(traceback.format_exc())
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def load_what_it_loads(folder: Path) -> None:
    """Import what the last finished work imported: the next is then killed at its work, and not at its imports."""
    for name in json.loads((folder / LOADED).read_text()):
        if name not in sys.modules:
            with suppress(ImportError):
                import_module(name)


def plain(content: Any) -> Any:
    """A file's content without what says how long something took."""
    if isinstance(content, dict):
        return {key: plain(part) for key, part in content.items() if UNCOMPARED not in key}
    if isinstance(content, list):
        return [plain(part) for part in content]
    return content


def h5_without_seconds(content: dict[str, Any]) -> dict[str, Any]:
    """The same of a checkpoint, whose header is JSON."""
    changed = dict(content)
    header = changed.pop("header")[""]
    return changed | {"header": plain(json.loads(header[-1]))}


def content_of(path: Path) -> Any:
    if path.suffix in (".png", ".html") or path.name == "lock":
        return None
    content = file_content(path)
    return h5_without_seconds(content) if path.suffix == ".h5" else plain(content)


def differences(whole: Path, other: Path) -> list[str]:
    """Files that only one of two runs has, or that say something else."""
    left, right = files_of(whole), files_of(other)
    found = sorted(left.keys() ^ right.keys())
    return found + [
        name for name in sorted(left.keys() & right.keys()) if content_of(left[name]) != content_of(right[name])
    ]


@dataclass
class Killed:
    """A stage that is killed and gone on with.

    Args:
        name: of the stage.
        before: what it begins from; None for nothing.
        folder: where the runs lie.
        kills: how often it was killed; comparisons: how often what was killed, once or more, was finished and compared.
        ended: how often it ended before it could be killed. spent: seconds on all that.
        failures: what differed afterwards, or could not go on.
        failed: how many of them.
    """

    name: str
    before: Path | None
    folder: Path
    seconds: float = 0.0
    kills: int = 0
    comparisons: int = 0
    ended: int = 0
    spent: float = 0.0
    failed: int = 0
    failures: list[Any] = field(default_factory=list)

    @property
    def whole(self) -> Path:
        """The run that is not interrupted."""
        return self.folder / f"whole-{self.name.replace(' ', '-')}"

    def uninterrupted(self) -> None:
        """Do the work in full: once to import what it imports, and once to see how long it takes."""
        for _ in range(2):
            start(self.before, self.whole)
            first = time.perf_counter()
            if forked(STAGES[self.name], self.whole, None):
                raise RuntimeError(f"{self.name}: expected it to end, got {(self.folder / 'error.txt').read_text()}")
            self.seconds = time.perf_counter() - first
            load_what_it_loads(self.folder)

    def kill(self, rng: random.Random) -> None:
        """Kill it at random moments, as often as it goes on, up to a few times; then finish it, and compare."""
        path, began, moments = self.folder / "killed", time.perf_counter(), list[float]()
        start(self.before, path)
        for left in range(rng.randint(1, CHAIN), 0, -1):
            moments.append(rng.uniform(0, self.seconds / left))
            landed = os.WIFSIGNALED(forked(STAGES[self.name], path, moments[-1]))
            self.kills, self.ended = self.kills + landed, self.ended + (not landed)
            if not landed:
                break
        again = forked(STAGES[self.name], path, None)
        wrong = (self.folder / "error.txt").read_text()[-800:] if again else differences(self.whole, path)
        self.comparisons += 1
        if wrong:
            self.failed += 1
            self.failures = [*self.failures, {"moments": moments, "wrong": wrong}][:20]
        self.spent += time.perf_counter() - began

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        names = ("seconds", "kills", "comparisons", "ended", "spent", "failed", "failures")
        return {name: getattr(self, name) for name in names}


def start(before: Path | None, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if before is not None:
        shutil.copytree(before, path)


def prepared(folder: Path, names: Sequence[str]) -> list[Killed]:
    """The stages, each done once in full."""
    bare, cached = folder / "trained", folder / "cached"
    for path, work in ((bare, STAGES["train"]), (cached, STAGES["cache"])):
        start(bare if path == cached else None, path)
        if forked(work, path, None):
            raise RuntimeError((folder / "error.txt").read_text())
    stages = [Killed(name, None if name == "train" else bare if name == "cache" else cached, folder) for name in names]
    for stage in stages:
        stage.uninterrupted()
        say(f"{stage.name}: {stage.seconds:.1f} s uninterrupted")
    return stages


def killed(
    rows: list[Row], stages: Sequence[Killed], count: int, until: float, done: Callable[[list[Row]], object]
) -> None:
    """Kill the stages, the one with the least time yet first, until there are so many kills or it is that late.

    Drawn from how many kills there were before, so that a call that goes on does not repeat them. `done` hears of every round.
    """
    before = sum(row.get("kills", 0) for row in rows)
    rng, earlier, landed = random.Random(before), list(rows), before
    while landed < count and time.time() < until:
        for _ in stages:
            min(stages, key=lambda stage: stage.spent).kill(rng)
        rows[:] = [*earlier, *({"kind": "kills", "name": stage.name} | stage.as_dict() for stage in stages)]
        done(rows)
        landed, failed = (sum(row.get(field, 0) for row in rows) for field in ("kills", "failed"))
        say(f"{landed} of {count} kills, {failed} failures")


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--inputs", type=int, default=110_000, help="odd inputs in all")
    cli.add_argument("--kills", type=int, default=1_000, help="kills in all")
    cli.add_argument("--stages", default=",".join(STAGES), help="comma-separated: what is killed")
    cli.add_argument("--hours", type=float, default=10.0, help="after which no further kills are begun")
    cli.add_argument("--seed", type=int, default=0, help="of the inputs")
    cli.add_argument("--name", default="faults", help="name of the record")
    arguments = cli.parse_args(argv)
    torch.set_num_threads(1)
    began_at, until = began(arguments.name), time.time() + 3600 * arguments.hours
    rows = earlier(arguments.name)

    def keep(rows: list[Row]) -> Path:
        return write_record(arguments.name, vars(arguments), {"rows": rows}, began_at)

    if arguments.inputs:
        fuzzed(rows, arguments.inputs, arguments.seed, keep)
    if arguments.kills:
        with tempfile.TemporaryDirectory() as folder:
            killed(rows, prepared(Path(folder), arguments.stages.split(",")), arguments.kills, until, keep)
    failed = sum(row["failed"] for row in rows)
    say(f"{keep(rows)}: {failed} failures")
    return 1 if failed else 0


def earlier(name: str) -> list[Row]:
    """The rows of the record of that name; none where there is none."""
    path = RECORDS / f"{name}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["results"]["rows"]) if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())

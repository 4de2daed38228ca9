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
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr
from record import write_record

import fut
from fut.errors import EXPECTED
from fut.inspection import check_path
from storage import CheckpointStore, Manifest, TermStore, read_json

TRAIN = [f"--set={s}" for s in ("data.items=64", "data.epochs=4", "data.batch=64", "warmup.steps=50")]
CACHE = ["--steps", "16"]
RETRAINED = "random:5"
ASKED = "random:3"
READ_BY = {
    "terms/gradient": "replay",
    "terms/norm": "replay",
    "terms/update": "fut",
    "terms/jvp": "fut",
    "terms/second": "fut++",
}
STARTED = "import sys, fut.cli; print('imported', file=sys.stderr, flush=True); fut.cli.main()"
ANSWER_SECONDS = 180
SAFE = ("found", "found elsewhere", "harmless")


# --- kills


@dataclass(frozen=True)
class Stage:
    """A command that fills a run directory. begin: makes what the command starts from; reached: how far it has got."""

    name: str
    command: Callable[[Path], list[str]]
    begin: Callable[[Path], None]
    reached: Callable[[Path], dict[str, int]]


def launch(arguments: list[str]) -> subprocess.Popen[str]:
    """The command line in a process of its own; returns when its imports are done."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(fut.__file__).parent.parent)}
    command = [sys.executable, "-c", STARTED, *arguments]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    if process.stderr.readline().strip() != "imported":
        raise RuntimeError(f"{arguments}: expected the command to start, got {process.communicate()[1]}")
    return process


def finish(arguments: list[str]) -> float:
    """Run the command to its end; seconds after its imports."""
    process, began = launch(arguments), time.perf_counter()
    said = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{arguments}: expected exit status 0, got {process.returncode}: {said}")
    return time.perf_counter() - began


def killed(arguments: list[str], seconds: float) -> bool:
    """Run the command and kill it so long after its imports; False if it ended before."""
    process = launch(arguments)
    try:
        said = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode == -signal.SIGKILL
    if process.returncode:
        raise RuntimeError(f"{arguments}: expected exit status 0, got {process.returncode}: {said}") from None
    return False


def kill_and_resume(stage: Stage, whole: Path, seconds: float, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill until `kills` have landed, on one run unless it ends sooner; the last run lies in `killed-<stage>`."""
    series: list[dict[str, Any]] = []
    path = whole.parent / f"killed-{stage.name}"
    left = kills
    while left:
        shutil.rmtree(path, ignore_errors=True)
        stage.begin(path)
        landed: list[dict[str, Any]] = []
        moments = sorted(rng.uniform(0, seconds) for _ in range(left))
        for before, moment in zip([0.0, *moments], moments, strict=False):
            if not killed(stage.command(path), moment - before):
                break
            landed.append({"moment": moment, "worked": moment - before, **stage.reached(path), **torn(path)})
            say(f"{stage.name}: kill {kills - left + len(landed)} {landed[-1]}")
        else:
            finish(stage.command(path))
        left -= len(landed)
        series.append({"kills": landed, "compared": compare(whole, path)})
    return {"uninterrupted_seconds": seconds, "kills": kills, "runs": series}


def torn(path: Path) -> dict[str, int]:
    """Files under temporary names: the kill fell into a write."""
    return {"unfinished_files": sum(".part" in f.suffix for f in path.rglob("*") if f.is_file())}


def trained(path: Path) -> dict[str, int]:
    return {
        "warmup_step": max(CheckpointStore(path / "warmup").steps(), default=0),
        "checkpoints": len(CheckpointStore(path / "checkpoints").steps()),
        "finished": int((path / "summary.json").exists()),
    }


def cached(path: Path) -> dict[str, int]:
    """Blocks that the ledgers count, and checkpoints of any other kind of term."""
    states = [p for p in path.rglob("step-*.h5") if p.parent.name not in ("checkpoints", "data")]
    return {"blocks": len(list(path.glob("**/ledger/*/*.json"))), "states": len(states)}


# --- comparison


def kind_of(name: str) -> str:
    """The kind of a run's file, from its path in the run."""
    folders = name.split("/")[:-1]
    if "arrays" in folders:
        return "term chunks" if "c" in folders else "term metadata"
    if "ledger" in folders:
        return "ledger"
    return ("retrained" if folders[0] == "retrained" else "/".join(folders)) if name.endswith(".h5") else name


def term_arrays(run: Path) -> list[Path]:
    """The directory of every term's Zarr array, in whichever store."""
    return sorted(p.parent for p in run.glob("**/arrays/*/zarr.json"))


def files_of(path: Path) -> dict[str, Path]:
    return {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}


def compare(whole: Path, other: Path) -> dict[str, Any]:
    """Every file of two runs: which are there, which have equal bytes, and whether their contents are the same."""
    left, right = files_of(whole), files_of(other)
    kinds: dict[str, Counter[str]] = {}
    differing = []
    for name in sorted(left.keys() & right.keys()):
        count = kinds.setdefault(kind_of(name), Counter())
        same = left[name].read_bytes() == right[name].read_bytes()
        equal = file_content(left[name]) == file_content(right[name])
        count.update(files=1, same_bytes=int(same), same_content=int(equal))
        differing += [] if equal else [name]
    values = kinds.setdefault("term arrays", Counter())
    for array in term_arrays(whole):
        equal = array_values(array) == array_values(other / array.relative_to(whole))
        values.update(files=1, same_content=int(equal))
        differing += [] if equal else [str(array.relative_to(whole))]
    missing, extra = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    return {
        "kinds": {k: dict(v) for k, v in kinds.items() if v},
        "differing": differing,
        "missing": missing,
        "extra": extra,
        "equal": not (differing or missing or extra),
    }


def file_content(path: Path) -> Any:
    if path.suffix == ".h5":
        return h5_content(path)
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.suffix == ".toml" else path.read_bytes()


def h5_content(path: Path) -> dict[str, Any]:
    """Every group, dataset and attribute, with its values and how it is stored."""
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {"/": attributes(file)}

        def visit(name: str, thing: Any) -> None:
            found[name] = attributes(thing)
            if isinstance(thing, h5py.Dataset):
                found[name] |= {
                    "": (str(thing.dtype), thing.shape, thing.chunks, thing.fletcher32, thing[()].tobytes())
                }

        file.visititems(visit)
    return found


def attributes(thing: Any) -> dict[str, Any]:
    return {k: (str(np.asarray(v).dtype), np.asarray(v).tobytes()) for k, v in thing.attrs.items()}


def array_values(path: Path) -> tuple[str, tuple[int, ...], str]:
    array: Any = zarr.open_array(path, mode="r")
    return str(array.dtype), array.shape, hashlib.sha256(np.ascontiguousarray(array[...]).tobytes()).hexdigest()


# --- flips


@dataclass(frozen=True)
class Flip:
    """One byte of one file changed. kind: what it is an example of."""

    kind: str
    file: str
    position: int
    mask: int


@contextmanager
def flipped(run: Path, flip: Flip) -> Iterator[None]:
    """The run with one byte changed, and as it was afterwards."""
    xor(run / flip.file, flip.position, flip.mask)
    try:
        yield
    finally:
        xor(run / flip.file, flip.position, flip.mask)


def xor(path: Path, position: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        old = file.read(1)[0]
        file.seek(position)
        file.write(bytes([old ^ mask]))


def chunks(path: Path) -> list[tuple[int, int]]:
    """(offset, length) of every chunk of raw data in an HDF5 file."""
    found: list[tuple[int, int]] = []
    with h5py.File(path, "r") as file:

        def visit(_: str, thing: Any) -> None:
            if isinstance(thing, h5py.Dataset) and thing.chunks:
                stored = [thing.id.get_chunk_info(i) for i in range(thing.id.get_num_chunks())]
                found.extend((c.byte_offset, c.size) for c in stored)

        file.visititems(visit)
    return sorted(found)


def chunk_flips(run: Path, most: int, rng: random.Random) -> list[Flip]:
    """A random byte of every chunk, any change of it; a sample where a kind has more than `most`."""
    kinds: dict[str, list[tuple[str, int, int]]] = {}
    for name, path in files_of(run).items():
        if path.suffix == ".h5":
            kinds.setdefault(kind_of(name), []).extend((name, *place) for place in chunks(path))
        elif kind_of(name) == "term chunks":
            kinds.setdefault("/".join(term_of(name)), []).append((name, 0, path.stat().st_size))
    found = []
    for kind, places in sorted(kinds.items()):
        chosen = places if len(places) <= most else sorted(rng.sample(places, most))
        found += [Flip(kind, name, rng.randrange(o, o + size), rng.randrange(1, 256)) for name, o, size in chosen]
    return found


def term_of(name: str) -> tuple[str, str]:
    """The term store and the term that a chunk file belongs to."""
    store, _, rest = name.partition("/arrays/")
    return store, rest.split("/")[0]


def other_flips(run: Path, each: int, rng: random.Random) -> list[Flip]:
    """Single bits anywhere: in the whole run, in each kind of file, and in HDF5 files outside their chunks."""
    kinds: dict[str, list[tuple[str, int, int]]] = {}
    for name, path in files_of(run).items():
        size = path.stat().st_size
        kinds.setdefault("any byte of the run", []).append((name, 0, size))
        if path.suffix == ".h5":
            kinds.setdefault(f"{kind_of(name)}, outside chunks", []).extend((name, *gap) for gap in gaps(path))
        elif kind_of(name) != "term chunks":
            kinds.setdefault(kind_of(name), []).append((name, 0, size))
    found = []
    for kind, places in sorted(kinds.items()):
        chosen = rng.choices(places, [stop - start for _, start, stop in places], k=each)
        found += [Flip(kind, name, rng.randrange(start, stop), 1 << rng.randrange(8)) for name, start, stop in chosen]
    return found


def gaps(path: Path) -> list[tuple[int, int]]:
    """(start, stop) of what lies between the chunks of an HDF5 file."""
    edges = [0, *(e for offset, length in chunks(path) for e in (offset, offset + length)), path.stat().st_size]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


class Witness:
    """Answers questions about a run in a process of its own, so that a crash or a hang there is an outcome here."""

    def __init__(self) -> None:
        self._process: Any = None

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer; None if the process died or did not answer in time."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=testify, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        self._pipe.send((question, arguments))
        try:
            if self._pipe.poll(ANSWER_SECONDS):
                return self._pipe.recv()
        except EOFError:
            pass
        self.dismiss()
        return None

    def dismiss(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def testify(pipe: Any) -> None:
    torch.set_num_threads(1)
    while True:
        question, arguments = pipe.recv()
        pipe.send(question(*arguments))


def checked(run: Path) -> dict[str, Any]:
    """What `fut check` names, as paths in the run; or what it raises."""
    try:
        found = check_path(run)
        return {"named": [os.path.relpath(d.path, run) for d in found], "reasons": [d.reason for d in found]}
    except Exception as error:
        return {"named": [], "raised": f"{type(error).__name__}: {error}"}


def estimated(run: Path, estimator: str, order: str, known: bool) -> float | str:
    """The loss, or the class of the error that is raised instead."""
    try:
        return fut.open(run, device="cpu").estimate([order], estimator, known=known)[0].loss
    except Exception as error:
        return f"{'refused' if isinstance(error, EXPECTED) else 'crashed'}: {type(error).__name__}"


def content(run: Path) -> dict[str, str]:
    """A digest of every part of a run as the package reads it, or the error that reading raises."""
    parts: dict[str, Callable[[], Any]] = {
        "config.toml": lambda: fut.open(run, device="cpu").config.model_dump(),
        "summary.json": lambda: fut.open(run, device="cpu").summary,
    }
    for name, path in files_of(run).items():
        if path.suffix == ".h5":
            parts[str(path.parent)] = partial(every_checkpoint, path.parent)
        elif path.name == "manifest.json":
            parts[name] = partial(Manifest.read, path)
        elif kind_of(name) == name:
            parts.setdefault(name, partial(read_json, path))
    for array in term_arrays(run):
        parts[str(array)] = partial(every_step, array.parent.parent, array.name)
    return {part: digest(read) for part, read in parts.items()}


def digest(read: Callable[[], Any]) -> str:
    try:
        return hashlib.sha256(repr(read()).encode()).hexdigest()
    except Exception as error:
        return f"{'refused' if isinstance(error, EXPECTED) else 'crashed'}: {type(error).__name__}: {error}"[:200]


def every_checkpoint(folder: Path) -> list[Any]:
    store = CheckpointStore(folder)
    read = [store.read(step) for step in store.steps()]
    return [
        (
            c.step,
            sorted(c.attributes.items()),
            [(n, str(a.dtype), a.shape, sha(a)) for n, a in sorted(c.arrays.items())],
        )
        for c in read
    ]


def every_step(terms: Path, name: str) -> list[str]:
    store = TermStore.open(terms)
    steps = next(s.shape[0] for s in store.specs if s.name == name)
    return [sha(store.read(name, step)) for step in range(steps)]


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def read_chunk(run: Path, file: str) -> str:
    """Read what holds the chunk, by the store: `answered`, or the error."""
    path = run / file
    try:
        if path.suffix == ".h5":
            CheckpointStore(path.parent).read(int(path.stem.removeprefix("step-")))
        else:
            store, term = term_of(file)
            TermStore.open(run / store).read(term, int(file.split("/c/")[1].split("/")[0]))
    except Exception as error:
        return f"{'refused' if isinstance(error, EXPECTED) else 'crashed'}: {type(error).__name__}"
    return "answered"


def question_for(kind: str) -> tuple[str, str, bool]:
    """The estimate that reads a chunk of this kind: estimator, order, whether retrained orders are looked up."""
    if kind == "retrained":
        return "fut", RETRAINED, True
    return READ_BY.get(kind, "adjoint" if kind.startswith("adjoint") else "replay-exact"), ASKED, False


def flip_chunks(run: Path, flips: list[Flip], witness: Witness) -> dict[str, Any]:
    """Per kind: found and named by check, reads that raise, estimates that raise or are unchanged to the bit."""
    sound = {kind: witness.ask(estimated, run, *question_for(kind)) for kind in {f.kind for f in flips}}
    tally: dict[str, Counter[str]] = {}
    failures = []
    for number, flip in enumerate(flips):
        with flipped(run, flip):
            found = witness.ask(checked, run)
            read = witness.ask(read_chunk, run, flip.file)
            answer = witness.ask(estimated, run, *question_for(flip.kind))
        named = bool(found) and found["named"] == [flip.file]
        raised = str(read).startswith("refused")
        refused = str(answer).startswith("refused")
        safe = refused or answer == sound[flip.kind]
        tally.setdefault(flip.kind, Counter()).update(
            flips=1,
            found_and_named=int(named),
            read_raised=int(raised),
            estimate_raised=int(refused),
            estimate_needs_it_not_and_is_unchanged=int(answer == sound[flip.kind]),
        )
        if not (named and raised and safe):
            failures.append({**vars(flip), "check": found, "read": read, "estimate": answer})
        progress("chunk flips", number, len(flips), failures)
    return {"kinds": {k: dict(v) for k, v in sorted(tally.items())}, "failures": failures}


def flip_anything(run: Path, flips: list[Flip], witness: Witness) -> dict[str, Any]:
    """Per kind of file: how many flips had which `outcome`."""
    sound = witness.ask(content, run)
    tally: dict[str, Counter[str]] = {}
    failures = []
    for number, flip in enumerate(flips):
        with flipped(run, flip):
            name, detail = outcome(run, flip, sound, witness)
        tally.setdefault(flip.kind, Counter()).update({"flips": 1, name: 1})
        if name not in SAFE:
            failures.append({**vars(flip), "outcome": name, "detail": detail})
        progress("other flips", number, len(flips), failures)
    return {"kinds": {k: dict(v) for k, v in sorted(tally.items())}, "failures": failures}


def outcome(run: Path, flip: Flip, sound: dict[str, str], witness: Witness) -> tuple[str, Any]:
    """One of `SAFE`, or a failure; with what tells of it.

    found: named as damaged, or in the reason given. found elsewhere: check names another file, as the chunk for a flip
    in its ledger entry. unchecked: check is silent, though reading refuses. missed: check is silent and the changed
    content is used. crashed: check, or reading, ends in an error that is not the package's own.
    """
    found = witness.ask(checked, run)
    if found is None or "raised" in found:
        return "crashed", found
    if found["named"]:
        told = flip.file in found["named"] or any(str(run / flip.file) in reason for reason in found["reasons"])
        return ("found", None) if told else ("found elsewhere", found)
    now = witness.ask(content, run)
    if now is None:
        return "crashed", "the process that read the run"
    changed = {part: value for part, value in now.items() if value != sound[part]}
    if not changed:
        return "harmless", None
    if any(v.startswith("crashed") for v in changed.values()):
        return "crashed", changed
    return ("unchecked" if all(v.startswith("refused") for v in changed.values()) else "missed"), changed


# --- the benchmark


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def progress(what: str, number: int, total: int, failures: list[Any]) -> None:
    if (number + 1) % 100 == 0 or number + 1 == total:
        say(f"{what}: {number + 1} of {total}, {len(failures)} failures")


def kills(work: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """Both stages, killed and compared; leaves `killed-cache`, a whole run with terms, in `work`."""
    before = work / "before-cache"
    finish(["train", "--out", str(before), *CACHE])
    stages = (
        Stage("train", lambda p: ["train", "--out", str(p), *TRAIN], lambda p: None, trained),
        Stage("cache", lambda p: ["cache", str(p)], lambda p: void(shutil.copytree(before, p)), cached),
    )
    results = {}
    for stage in stages:
        whole = work / f"whole-{stage.name}"
        stage.begin(whole)
        seconds = finish(stage.command(whole))
        say(f"{stage.name}: {seconds:.1f} s of work uninterrupted")
        results[stage.name] = kill_and_resume(stage, whole, seconds, count, rng)
    return results


def void(_: Any) -> None:
    """Take a value and return none."""


def flips(run: Path, each: int, most: int, rng: random.Random) -> dict[str, Any]:
    """Every flip on this run, which has terms; it is as it was afterwards."""
    fut.open(run, device="cpu").retrain(RETRAINED)
    witness = Witness()
    sound = witness.ask(content, run)
    result = {
        "chunks": flip_chunks(run, chunk_flips(run, most, rng), witness),
        "anywhere": flip_anything(run, other_flips(run, each, rng), witness),
        "bytes": {
            k: sum(p.stat().st_size for n, p in files_of(run).items() if kind_of(n) == k) for k in run_kinds(run)
        },
        "as_before": witness.ask(content, run) == sound and not witness.ask(checked, run)["named"],
    }
    witness.dismiss()
    return result


def run_kinds(run: Path) -> list[str]:
    return sorted({kind_of(name) for name in files_of(run)})


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--kills", type=int, default=10, help="kills of each command")
    cli.add_argument("--flips", type=int, default=60, help="single-bit flips per kind of file, anywhere in it")
    cli.add_argument("--most", type=int, default=400, help="chunks of one kind to flip a byte in; a sample if more")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--name", default="durability", help="name of the record")
    arguments = cli.parse_args(argv)
    torch.set_num_threads(1)
    rng, started = random.Random(arguments.seed), time.time()
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

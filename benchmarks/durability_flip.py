"""Flip bytes of a run, one at a time, and see whether each is found, named, refused or harmless."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from durability_compare import files_of, kind_of
from durability_progress import progress
from durability_witness import RETRAINED, Witness, checked, content, estimated, question_for, read_chunk, term_of

import fut

SAFE = ("found", "found elsewhere", "harmless")


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

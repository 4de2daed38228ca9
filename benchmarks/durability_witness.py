"""A process that answers questions about a damaged run, so that a crash or a hang there is an outcome here."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from durability_compare import files_of, kind_of, term_arrays

import fut
from fut.api.integrity import check_path
from fut.errors import EXPECTED
from storage import CheckpointStore, Manifest, TermStore, read_json

RETRAINED = "random:5"
ASKED = "random:3"
READ_BY = {
    "terms/gradient": "replay",
    "terms/norm": "replay",
    "terms/update": "taylor1",
    "terms/jvp": "taylor1",
    "terms/second": "taylor2",
}
ANSWER_SECONDS = 180


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
        return fut.open(run, device="cpu").estimate([order], estimator, known=known)[0].value
    except Exception as error:
        return f"{'refused' if isinstance(error, EXPECTED) else 'crashed'}: {type(error).__name__}"


def content(run: Path) -> dict[str, str]:
    """A digest of every part of a run as the package reads it, or the error that reading raises."""
    parts: dict[str, Callable[[], Any]] = {
        "config.toml": lambda: fut.open(run, device="cpu").context.config.model_dump(),
        "summary.json": lambda: fut.open(run, device="cpu").context.summary,
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
        return "taylor1", RETRAINED, True
    return READ_BY.get(kind, "adjoint" if kind.startswith("adjoint") else "replay-exact"), ASKED, False


def term_of(name: str) -> tuple[str, str]:
    """The term store and the term that a chunk file belongs to."""
    store, _, rest = name.partition("/arrays/")
    return store, rest.split("/")[0]

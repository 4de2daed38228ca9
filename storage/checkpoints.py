"""Checkpoints: one HDF5 file per step, checksummed throughout, whole or absent."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .atomic import make_directory, replacing, require_free, sync_directory
from .deferring import DeferringFile
from .errors import ContentError, Damage, DamagedError, ExistsError, IdentityError, MissingError, StorageError
from .hdf5 import datasets, member
from .manifest import FORMAT
from .plain import open_plain, parse_json
from .sources import listed, size_of, there

Attributes = dict[str, int | float | str]

_FILE_NAME = re.compile(r"step-(\d{6,})\.h5")
_CHUNK_BYTES = 1 << 20
_KINDS = "biufc"


@dataclass(frozen=True)
class Checkpoint:
    """What was written for one step: arrays by name, and a few numbers and strings."""

    step: int
    arrays: dict[str, np.ndarray]
    attributes: Attributes


class CheckpointStore:
    """The checkpoints in a directory. Any number of processes read, and write, each other steps or the same content.

    Args:
        directory: where they are.
        owner: what they belong to, as a digest. It is written into every file, and a file of another owner is refused.
        most: bytes that one file may have at most, as what it belongs to implies; None where nothing says.
    """

    def __init__(self, directory: Path | str, owner: str = "", most: int | None = None) -> None:
        self.directory, self.owner, self.most = Path(directory), owner, most

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` lies, or would lie."""
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
            raise ContentError(f"expected a step 0, 1, 2, ...; got {step!r}; count steps from the start of the run")
        return self.directory / f"step-{step:06d}.h5"

    def has(self, step: int) -> bool:
        """Whether a whole checkpoint of `step` exists; what is no file under its name is refused when it is read."""
        return there(self.path(step))

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, ascending."""
        matches = map(_FILE_NAME.fullmatch, listed(self.directory))
        return sorted(int(match[1]) for match in matches if match)

    def write(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        attributes: Mapping[str, int | float | str],
        replace: bool = False,
    ) -> None:
        """Writes the checkpoint of `step`, durably, whole or not at all. Equal content gives equal bytes.

        Arrays have at least one axis and a boolean, integer, float or complex dtype; `a/b` is array b in group a.
        Raises ExistsError if `step` is there already and `replace` is false, ContentError for what cannot be stored,
        DiskFullError if the disk has not the room.
        """
        path = self.path(step)
        if self.has(step) and not replace:
            raise ExistsError(
                f"expected no checkpoint of step {step} yet; {path} exists; "
                "resume after it, remove it, or write with replace=True"
            )
        _require_storable(arrays, attributes)
        make_directory(self.directory)
        require_free(self.directory, sum(array.nbytes for array in arrays.values()), f"the checkpoint of step {step}")
        with replacing(path) as part, DeferringFile(part) as target, h5py.File(target, "w", libver="latest") as file:
            content = {"step": int(step), "attributes": dict(attributes), "owner": self.owner, "format": FORMAT}
            header = json.dumps(content, sort_keys=True)
            _store(file, "header", np.frombuffer(header.encode(), np.uint8))
            for name in sorted(arrays):
                _store(file, f"arrays/{name}", arrays[name])

    def read(self, step: int) -> Checkpoint:
        """The checkpoint of `step`. Raises MissingError if absent, DamagedError if it is not what was written."""
        with self._opened(step) as (file, attributes):
            arrays = {name: dataset[()] for name, dataset in datasets(file)}
        return Checkpoint(int(step), arrays, attributes)

    def read_array(self, step: int, name: str) -> np.ndarray:
        """One array of `step`. Raises MissingError if there is no such step or array, DamagedError as `read`."""
        with self._opened(step) as (file, _):
            found = dict(datasets(file))
            if name not in found:
                raise MissingError(
                    f"expected an array {name!r} in {self.path(step)}; it has {sorted(found)}; ask for one of these"
                )
            array: np.ndarray = found[name][()]
            return array

    def read_attributes(self, step: int) -> Attributes:
        """The numbers and strings of `step`, without its arrays. Raises as `read`."""
        with self._opened(step) as (_, attributes):
            return attributes

    def check(self) -> list[Damage]:
        """Reads every byte of content of every checkpoint; returns the files that are damaged or of another owner."""
        damages = []
        for step in self.steps():
            try:
                with self._opened(step) as (file, _):
                    for _, dataset in datasets(file):
                        dataset[()]
            except (DamagedError, IdentityError) as error:
                damages.append(Damage(str(self.path(step)), str(error.__cause__ or error)))
        return damages

    def remove(self, step: int) -> None:
        """Removes the checkpoint of `step`, damaged or not. Raises MissingError if there is none."""
        try:
            self.path(step).unlink()
        except FileNotFoundError as error:
            raise self._missing(step) from error
        sync_directory(self.directory)

    def nbytes(self) -> int:
        """Bytes on disk of all checkpoints."""
        return sum(size_of(self.path(step)) for step in self.steps())

    def _missing(self, step: int) -> MissingError:
        return MissingError(
            f"expected a checkpoint of step {step} in {self.directory}; there are {len(self.steps())} others; "
            "ask for one of steps(), or run the training that writes it"
        )

    def _require_owned(self, header: dict[str, Any], path: Path) -> None:
        if (found := header.get("format")) != FORMAT:
            raise IdentityError(
                f"expected a checkpoint of format {FORMAT} in {path}; it has format {found!r}; use the version of fut that wrote "
                "it, or make it again"
            )
        if self.owner and header.get("owner") != self.owner:
            raise IdentityError(
                f"expected a file of this run in {path} (owner {self.owner[:12]}…); it belongs to another "
                f"(owner {str(header.get('owner'))[:12]}…); put the run's own file back, or remove it"
            )

    @contextmanager
    def _opened(self, step: int) -> Iterator[tuple[h5py.File, Attributes]]:
        path = self.path(step)
        try:
            # Opened here first, so that a file that is absent or not ours to read is not taken for a damaged one.
            with open_plain(path) as found:
                size = os.fstat(found.fileno()).st_size
        except FileNotFoundError as error:
            raise self._missing(step) from error
        try:
            if self.most is not None and size > self.most:
                raise ValueError(f"it has {size} bytes where what it belongs to implies at most {self.most}")
            # Files are never modified in place, so locks would only fail on network disks.
            with h5py.File(path, "r", locking=False) as file:
                header = parse_json(member(file, "header", size)[()].tobytes())
                self._require_owned(header, path)
                if header["step"] != step:
                    raise ValueError(f"the file says that it is step {header['step']}")
                yield file, header["attributes"]
        except (StorageError, MemoryError):
            raise
        except Exception as error:
            raise DamagedError(
                f"expected the whole checkpoint of step {step} in {path}; reading it failed with: {error}; "
                f"restore the file from a copy, or remove({step}) and run the training again from an earlier step"
            ) from error


def _store(file: h5py.File, name: str, array: np.ndarray) -> None:
    if array.size == 0:
        file.create_dataset(name, shape=array.shape, dtype=array.dtype, track_times=False)
        return
    chunks = _chunk_shape(array.shape, array.dtype.itemsize)
    file.create_dataset(name, data=array, chunks=chunks, fletcher32=True, track_times=False)


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """A chunk of at most 1 MiB that is contiguous in memory; the parts of an axis that is cut are alike, as the last is stored
    in full too."""
    room = max(1, _CHUNK_BYTES // itemsize)
    chunk = []
    for length in reversed(shape):
        parts = -(-length // room)
        chunk.append(max(1, -(-length // max(parts, 1))))
        room //= chunk[-1] if chunk[-1] == length else room
    return tuple(reversed(chunk))


def _require_storable(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, int | float | str]) -> None:
    for name, array in arrays.items():
        if not name or any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
            raise ContentError(f"expected an array name such as a or a/b; got {name!r}; rename the array")
        inner = [other for other in arrays if other.startswith(f"{name}/")]
        if inner:
            raise ContentError(
                f"expected {name!r} to be an array or a group; got also {inner[0]!r}; rename one of them"
            )
        if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in _KINDS:
            raise ContentError(
                f"expected {name!r} as a numpy array of numbers with at least one axis; got "
                f"{type(array).__name__} with dtype {getattr(array, 'dtype', None)} and shape "
                f"{getattr(array, 'shape', None)}; convert it first"
            )
    for name, value in attributes.items():
        if not isinstance(name, str) or type(value) not in (int, float, str):
            raise ContentError(
                f"expected attribute {name!r} as int, float or str; got {type(value).__name__}; convert it first"
            )

"""One term on disk: a Zarr v3 array whose blocks are written durably, deleted, and compared with the ledger."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from .atomic import make_directory, naming_full_disk, sync_directory, sync_file, write_bytes
from .bfloat16 import NAN_BITS
from .errors import Damage, DamagedError
from .layout import Block, Layout, TermSpec
from .ledger import ChunkRecord
from .plain import MOST_BYTES, memory_bytes, open_plain, read_plain
from .sources import fetch

METADATA = "zarr.json"
_TRAILER_BYTES = 4
_MOST_CHUNK_BYTES = 1 << 40
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DAMAGE = {None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO}
_COMPARED = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "storage_transformers")


def create_metadata(directory: Path, layout: Layout) -> None:
    """Writes those files `zarr.json` of the group in `directory` and of its arrays that are absent."""
    buffers: dict[str, Any] = {}
    zarr.create_group(MemoryStore(store_dict=buffers))
    documents = {directory / "zarr.json": buffers["zarr.json"].to_bytes()}
    for spec in layout.specs:
        documents[directory / spec.name / "zarr.json"] = _array_metadata(layout, spec)[0]
    for path, document in documents.items():
        if not path.exists():
            make_directory(path.parent)
            write_bytes(path, document)


def inspect_group(directory: Path) -> Damage | None:
    """The damage to the group's `zarr.json`, if any. Nothing here reads it, but other tools open the store by it."""
    try:
        zarr.open_group(LocalStore(directory, read_only=True), mode="r", zarr_format=3)
    except Exception as error:
        return Damage(str(directory / "zarr.json"), _reason(error))
    return None


class TermArray:
    """The array of one term. Raises DamagedError unless its metadata is what `layout` asks for."""

    def __init__(self, directory: Path, layout: Layout, name: str) -> None:
        self.directory = directory / name
        self._layout = layout
        self._spec = layout.spec(name)
        damage = self.inspect_metadata()
        if damage is not None:
            raise DamagedError(
                f"expected the metadata of term {name} in {damage.path}; got {damage.reason}; delete that file and "
                "call create_or_open, which writes it anew and keeps the chunks"
            )
        self._array = _open(self.directory)

    def inspect_metadata(self) -> Damage | None:
        """The damage to `zarr.json`, if any: it does not open, or is not what the layout asks for."""
        path = str(self.directory / "zarr.json")
        try:
            found = _open(self.directory).metadata.to_dict()
        except Exception as error:
            return Damage(path, _reason(error))
        expected = _array_metadata(self._layout, self._spec)[1]
        for field in _COMPARED:
            # As text, because NaN differs from itself.
            if repr(found.get(field)) != repr(expected.get(field)):
                return Damage(path, f"{field} {found.get(field)} where the manifest asks for {expected.get(field)}")
        return None

    def keys(self, block: Block) -> list[str]:
        """The chunk files of `block`, relative to the array's directory."""
        width = self._layout.chunk_shape(self._spec.name)[2]
        count = -(-self._spec.shape[2] // width)
        return [f"c/{block.step}/{block.first // self._layout.item_block}/{index}" for index in range(count)]

    def write(self, block: Block, stored: np.ndarray) -> dict[str, ChunkRecord]:
        """Writes `stored` [last - first, k] as `block`, durably; returns what its chunk files hold.

        Whatever the block held is deleted first; on failure nothing of it is left. Raises DiskFullError.
        """
        self.delete(block)
        directory = self._block_directory(block)
        try:
            with naming_full_disk(directory):
                self._array[block.step, block.first : block.last] = stored
                for key in self.keys(block):
                    sync_file(self.directory / key)
                for parent in (directory, directory.parent, directory.parent.parent, self.directory):
                    sync_directory(parent)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return {key: _record(self.directory / key) for key in self.keys(block)}

    def read(self, block: Block, records: Mapping[str, ChunkRecord]) -> np.ndarray:
        """The stored values [last - first, k] of `block`. Raises DamagedError naming the term and the chunk file.

        The ledger's lengths and checksums are compared with those at the end of the files; whether the content has that
        checksum is left to Zarr, which computes it while decoding.
        """
        fetch([self.directory / key for key in records])
        for damage in self._quick_damages(records):
            raise self._damaged(damage)
        try:
            return np.asarray(self._array[block.step, block.first : block.last])
        except Exception as error:
            whole = Damage(str(self._block_directory(block)), _reason(error))
            raise self._damaged(next(self.damages(records), whole)) from error

    def damages(self, records: Mapping[str, ChunkRecord]) -> Iterator[Damage]:
        """Reads the chunk files in full; yields those that are not what the ledger says."""
        for key, expected in records.items():
            path = self.directory / key
            try:
                data = read_plain(path, self._most_bytes)
            except OSError as error:
                yield Damage(str(path), _reason(error))
                continue
            computed = google_crc32c.value(data[:-_TRAILER_BYTES])
            trailer = int.from_bytes(data[-_TRAILER_BYTES:], "little")
            if (len(data), trailer, computed) != (expected.length, expected.crc32c, expected.crc32c):
                yield Damage(
                    str(path),
                    f"{len(data)} bytes with crc32c {computed:08x}, recorded at its end as {trailer:08x}, where the "
                    f"ledger has {expected.length} bytes with crc32c {expected.crc32c:08x}",
                )

    def delete(self, block: Block) -> None:
        """Deletes the chunk files of `block`, and what killed writers left beside them."""
        directory = self._block_directory(block)
        if directory.exists():
            shutil.rmtree(directory)
            sync_directory(directory.parent)

    def _block_directory(self, block: Block) -> Path:
        return self.directory / f"c/{block.step}/{block.first // self._layout.item_block}"

    def _quick_damages(self, records: Mapping[str, ChunkRecord]) -> Iterator[Damage]:
        for key, expected in records.items():
            path = self.directory / key
            try:
                found = _quick_record(path)
            except OSError as error:
                yield Damage(str(path), _reason(error))
                continue
            if found != expected:
                yield Damage(str(path), f"{found} where the ledger has {expected}")
            elif (declared := _declared_bytes(path)) != self._chunk_bytes:
                yield Damage(str(path), f"a chunk of {declared} bytes where the layout asks for {self._chunk_bytes}")

    @property
    def _chunk_bytes(self) -> int:
        """Bytes of every chunk once it is decompressed."""
        return math.prod(self._layout.chunk_shape(self._spec.name)) * self._spec.stored_dtype.itemsize

    @property
    def _most_bytes(self) -> int:
        """Bytes that a chunk file may have: what is compressed is hardly larger than it was."""
        return min(self._chunk_bytes + self._chunk_bytes // 64 + MOST_BYTES, memory_bytes())

    def _damaged(self, damage: Damage) -> DamagedError:
        return DamagedError(
            f"expected a chunk of term {self._spec.name} as it was written in {damage.path}; got {damage.reason}; "
            "run repair() and then `fut cache RUN`"
        )


def _array_metadata(layout: Layout, spec: TermSpec) -> tuple[bytes, dict[str, Any]]:
    """The `zarr.json` of a term, and its metadata as this version of zarr holds it."""
    buffers: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(store_dict=buffers),
        shape=spec.shape,
        chunks=layout.chunk_shape(spec.name),
        dtype=spec.stored_dtype,
        filters=None,
        serializer=BytesCodec(endian="little"),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=NAN_BITS if spec.dtype == "bfloat16" else float("nan"),
    )
    return buffers["zarr.json"].to_bytes(), array.metadata.to_dict()


def _reason(error: Exception) -> str:
    """`error` as the reason of a damage. Raises it if it says nothing about the file: repair() would delete good blocks."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in _DAMAGE):
        raise error
    return f"{type(error).__name__}: {error}"


def _open(directory: Path) -> zarr.Array[Any]:
    # A chunk of nothing but the fill value would otherwise not be written, and then look lost.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(LocalStore(directory), mode="r+", zarr_format=3)


def _record(path: Path) -> ChunkRecord:
    data = read_plain(path, _MOST_CHUNK_BYTES)
    return ChunkRecord(len(data), google_crc32c.value(data[:-_TRAILER_BYTES]))


def _quick_record(path: Path) -> ChunkRecord:
    with open_plain(path) as file:
        length = os.fstat(file.fileno()).st_size
        file.seek(max(0, length - _TRAILER_BYTES))
        return ChunkRecord(length, int.from_bytes(file.read(), "little"))


def _declared_bytes(path: Path) -> int | None:
    """How many bytes a chunk says that it has once it is decompressed, which the decoder would allocate; None where it does not
    say (RFC 8878, 3.1.1)."""
    with open_plain(path) as file:
        head = file.read(18)
    if len(head) < 6 or head[:4] != _ZSTD_MAGIC:
        return None
    descriptor = head[4]
    size_flag, single = descriptor >> 6, bool(descriptor & 0x20)
    width = (1 if single else 0, 2, 4, 8)[size_flag]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    if not width or len(head) < start + width:
        return None
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)

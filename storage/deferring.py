"""A file for HDF5 to write into that never fails under it.

HDF5 crashes the process (a segmentation fault at exit) when a write fails on a full disk. Here the first failure is
kept and later writes are dropped, so that HDF5 closes in peace, and `close` then raises what was kept.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any


class DeferringFile(io.RawIOBase):
    """A new file at `path`, for h5py's file-object driver. `close` raises the OSError of the first failed write."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._position = 0
        self._failure: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (os.fstat(self._descriptor).st_size if base is None else base)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        total = len(rest)
        try:
            while len(rest) and self._failure is None:
                written = os.pwrite(self._descriptor, rest, self._position + total - len(rest))
                rest = rest[written:]
        except OSError as error:
            self._failure = error
        self._position += total
        return total

    def truncate(self, size: int | None = None) -> int:
        size = self._position if size is None else size
        try:
            if self._failure is None:
                os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._failure = error
        return size

    def close(self) -> None:
        """Closes the file. Raises the OSError of the first write that failed."""
        if not self.closed:
            os.close(self._descriptor)
            super().close()
            if self._failure is not None:
                raise self._failure

"""Objects below a URL: get, put, list. The one place that knows which library speaks to the network."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MissingError, RemoteError

SCHEMES = ("s3", "gs", "az", "abfss", "file")
"""Of URLs that name a directory."""
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
"""Variables of the environment that name a server."""
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,3}}(.*)", re.DOTALL | re.IGNORECASE)
_ANY_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/.*", re.DOTALL)
_HOST = re.compile(r"file://[^/]", re.IGNORECASE)
_PIECE = 8 << 20
_NO_BUCKET = ("NoSuchBucket", "The specified bucket does not exist", "ContainerNotFound")
"""What servers of S3, of Google and of Azure say where there is no bucket."""
_DENIED = ("PermissionDeniedError", "UnauthenticatedError")


def is_url(text: str | Path) -> bool:
    """Whether a text names a directory at a URL, also where a `Path` has made one slash of two."""
    return _URL.fullmatch(str(text)) is not None


def like_url(text: str | Path) -> bool:
    """Whether a text is written as a URL, of these schemes or of others; a drive of one letter is none."""
    return _ANY_URL.fullmatch(str(text)) is not None


def normal_url(text: str | Path) -> str:
    """The URL as it is written in full: `s3://bucket/folder`, without a slash at its end.

    Raises:
        RemoteError: for another scheme, or a URL that a store would take for one of another place.
    """
    match = _URL.fullmatch(str(text))
    if match is None or not match[2].strip("/"):
        raise RemoteError(f"expected a URL such as s3://bucket/folder, got {text}; schemes: {', '.join(SCHEMES)}")
    scheme, path = match[1].lower(), match[2].strip("/")
    if _HOST.match(str(text)):
        raise RemoteError(
            f"expected an absolute path after file://, got {text}; write three slashes, as file:///tmp/run"
        )
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise RemoteError(f"expected a URL without empty parts and without . and .., got {text}; write it in full")
    if found := [mark for mark in "?#" if mark in path]:  # what follows would be cut off, and another place meant
        raise RemoteError(f"expected a URL without ? and #, got {found[0]} in {text}; choose another name")
    return f"{scheme}{':///' if scheme == 'file' else '://'}{path}"


class Objects:
    """The objects below a URL, by their names relative to it.

    Credentials, region and endpoint come from where the provider's own tools take them, as `AWS_ACCESS_KEY_ID`, `AWS_REGION`
    and `AWS_ENDPOINT_URL`.

    Args:
        url: as `s3://bucket/folder`.

    Raises:
        RemoteError: where the package obstore is not installed, or the URL cannot be meant.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = normal_url(url)
        if importlib.util.find_spec("obstore") is None:
            raise RemoteError(
                f"{self.url}: expected the package obstore, which reads it, got none installed; "
                "run `pip install obstore`"
            )
        import obstore
        from obstore.store import from_url

        self._library = obstore
        options: Any = {"mkdir": True} if self.url.startswith("file:") else {}
        if self.url.startswith("s3:") and any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS):
            options["client_options"] = {
                "allow_http": True
            }  # as the provider's own tools do, where the endpoint says so
        try:
            self._store = from_url(self.url, **options)
        except Exception as error:
            raise self._failed("opening it", error) from error

    def __repr__(self) -> str:
        return f"<Objects {self.url}>"

    def _failed(self, doing: str, error: Exception) -> RemoteError:
        if any(mark in str(error) for mark in _NO_BUCKET):
            bucket = "/".join(self.url.split("/")[:3])
            return RemoteError(f"{self.url}: expected a bucket at {bucket}, got none; make it, or check the URL")
        said = str(error).split("\n\nDebug source")[0].splitlines()[0][:300]
        failed = RemoteError(
            f"{self.url}: {doing} failed with: {said}; check the network, the credentials and the endpoint in the "
            "environment, and repeat: nothing that was computed is lost"
        )
        if type(error).__name__ in _DENIED:
            failed.errno = errno.EACCES
        return failed

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every object below a prefix, by name."""
        try:
            pages = self._library.list(self._store, prefix or None)
            return {str(found["path"]): int(found["size"]) for page in pages for found in page}
        except Exception as error:
            raise self._failed("listing", error) from error

    def read(self, name: str) -> bytes:
        """An object's content. MissingError where there is none."""
        return b"".join(self._pieces(name))

    def _pieces(self, name: str) -> Iterator[bytes]:
        try:
            for piece in self._library.get(self._store, name).stream(min_chunk_size=_PIECE):
                yield bytes(piece)
        except FileNotFoundError as error:
            if any(mark in str(error) for mark in _NO_BUCKET):
                raise self._failed(f"reading {name}", error) from error
            raise MissingError(f"expected an object {name} in {self.url}; there is none; check the URL") from error
        except Exception as error:
            raise self._failed(f"reading {name}", error) from error

    def download(self, name: str, path: Path, most: int) -> tuple[int, str]:
        """Write an object's content to a file; soon after it has more than `most` bytes nothing more is read.

        Returns:
            Its bytes that were read, and their SHA-256.
        """
        digest, size = hashlib.sha256(), 0
        with open(path, "xb") as file:
            for piece in self._pieces(name):
                digest.update(piece)
                size += file.write(piece)
                if size > most:
                    break
        return size, digest.hexdigest()

    def upload(self, name: str, path: Path) -> None:
        """Make a file's content the content of an object, whole or not at all."""
        try:
            self._library.put(self._store, name, path)
        except Exception as error:
            raise self._failed(f"writing {name}", error) from error

    def create(self, name: str, content: bytes) -> bool:
        """Write a new object; False, and nothing is written, where there is one of that name already."""
        try:
            self._library.put(self._store, name, content, mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            if type(error).__name__ == "AlreadyExistsError":
                return False
            raise self._failed(f"writing {name}", error) from error
        return True

    def remove(self, names: list[str]) -> None:
        """Remove objects; those that are not there are no error."""
        for name in names:
            try:
                self._library.delete(self._store, name)
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._failed(f"removing {name}", error) from error

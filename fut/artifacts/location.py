"""Where a run is: a directory of this machine, or a URL, of which a local copy is kept that is as much there as was needed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fut.artifacts.directory import (
    ANSWERS,
    CALIBRATION,
    DIFFICULTY,
    ENDPOINTS,
    MEMORIZATION,
    RETRAINED,
    VERIFICATION,
)
from storage import MissingError, RemoteError
from storage.remote import Mirror, Policy, is_url, like_url, normal_url
from storage.sources import address, register

HOME = "FUT_CACHE_HOME"
"""Variable of the environment that says where local copies lie; by default `fut` in the user's cache directory."""
POLICY = Policy(
    private=frozenset({"lock", "info.json", "scratch", "discarded"}),
    first=frozenset({RETRAINED}),
    last=frozenset({ANSWERS, CALIBRATION, DIFFICULTY, ENDPOINTS, MEMORIZATION, VERIFICATION, "report.html"}),
    lazy=(".h5", ".safetensors"),
)
"""What of a run is uploaded. Two trainings of one order are one truth, the first; two answers to one question are one, the last;
what a run is made of, and its terms, have one writer."""
_MIRRORS: dict[str, Mirror] = {}


def cache_home() -> Path:
    """Where local copies lie."""
    if chosen := os.environ.get(HOME):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fut"


def located(path: Path | str, new: bool = False) -> Path:
    """The local directory of a run, for a path or a URL as `s3://bucket/run`.

    Args:
        path: where the run is.
        new: whether it may not be there yet.

    Returns:
        The path itself, or the local copy, brought up to date: small files at once, others when they are read.

    Raises:
        MissingError: where nothing is at a URL.
        RemoteError: where it cannot be reached.
    """
    if not is_url(path):
        return directory_of(path)
    mirror = mirror_of(path)
    if not new and not mirror.index.files:
        raise MissingError(
            f"run: expected a run at {mirror.objects.url}, got nothing; check the URL, or `fut push` one there"
        )
    return mirror.directory


def directory_of(path: Path | str) -> Path:
    """A path of this machine; RemoteError for what is written as a URL: a directory of that name is meant by nobody."""
    if like_url(path) and not Path(path).exists():
        normal_url(path)
        raise RemoteError(f"expected a directory of this machine, got {path}; `fut pull` brings a run here")
    return Path(path)


def spoken(path: Path | str) -> str:
    """A path or a URL as it is said: of a URL the second slash, which a `Path` has lost."""
    return normal_url(path) if is_url(path) else str(path)


def also_at(file: Path) -> list[str]:
    """A line that says where a file is besides, which was written into the local copy of a run at a URL."""
    return [] if (url := address(file)) == str(file) else [f"and, for all who open the run, {url}"]


def mirror_of(url: Path | str) -> Mirror:
    """The local copy of what is at a URL, brought up to date."""
    url = normal_url(url)
    if url in _MIRRORS:
        _MIRRORS[url].refresh()
    else:
        home = cache_home() / hashlib.sha256(url.encode()).hexdigest()[:16]
        _MIRRORS[url] = Mirror(url, home, POLICY)
        register(_MIRRORS[url].directory, _MIRRORS[url])
    return _MIRRORS[url]

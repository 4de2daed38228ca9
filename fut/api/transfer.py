"""A run to a URL, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fut.artifacts.directory import read_manifest
from fut.artifacts.location import POLICY, directory_of
from fut.progress import Progress, terminal
from storage.remote import Download, Transfer, Upload


def push(
    path: Path | str,
    url: str,
    *,
    prune: bool = False,
    progress: Progress = terminal,
    say: Callable[[str, Transfer], object] = lambda doing, transfer: None,
) -> Transfer:
    """Upload a run directory: what differs from what is there already, whole or not at all.

    Args:
        path: the run directory.
        url: where to, as `s3://bucket/run`; the same run, or nothing, may lie there.
        prune: replace at the URL what differs, and take away what the directory lacks, as an expansion that was made otherwise.
            Retrained orders and answers stay.
        progress: hears of every file.
        say: hears, before anything is uploaded, what will be.

    Returns:
        What was uploaded.

    Raises:
        IdentityError: where another run lies at the URL, or without `prune` other terms of this one.
        RemoteError: where it cannot be reached or written to.
    """
    path = directory_of(path)
    read_manifest(path)
    upload = Upload(path, url, POLICY, prune)
    say("uploading", upload.transfer)
    with progress(f"uploading to {upload.transfer.url}", len(upload.transfer.files)) as tick:
        upload.run(tick)
    return upload.transfer


def pull(
    url: str,
    path: Path | str,
    *,
    progress: Progress = terminal,
    say: Callable[[str, Transfer], object] = lambda doing, transfer: None,
) -> Transfer:
    """Download a whole run directory, to open it without a network.

    Args:
        url: where from, as `s3://bucket/run`.
        path: a new or empty directory, or one of the same run, to which what it lacks is added.
        progress: hears of every file.
        say: hears, before anything is downloaded, what will be.

    Returns:
        What was downloaded.

    Raises:
        IdentityError: where another run lies in the directory.
        MissingError: where no run is at the URL.
        RemoteError: where it cannot be reached.
    """
    download = Download(url, directory_of(path), POLICY)
    say("downloading", download.transfer)
    with progress(f"downloading from {download.transfer.url}", len(download.transfer.files)) as tick:
        download.run(tick)
    return download.transfer

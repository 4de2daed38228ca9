"""`fut push` and `fut pull`: a run to a URL, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fut.cli.options import Json, answer, progress, say
from fut.display.format import nbytes

if TYPE_CHECKING:
    from storage.remote import Transfer

Url = Annotated[str, typer.Argument(metavar="URL", help="of the run, as s3://bucket/run")]


def push(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="directory of a run on this machine")],
    url: Url,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="replace there what differs, take away what the directory lacks; retrained orders and answers stay",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload a run to a URL, where other machines open it; again, and only what is new is uploaded."""
    from fut.api.transfer import push as upload

    told: Any = {"progress": progress(as_json), "say": lambda doing, what: say(_line(doing, what), as_json)}
    found = upload(path, url, prune=prune, **told)
    _answer("uploaded", found, as_json)


def pull(
    url: Url,
    path: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="new, or of the same run: what it lacks is added")],
    as_json: Json = False,
) -> None:
    """Download a whole run from a URL, to ask it without a network."""
    from fut.api.transfer import pull as download

    found = download(url, path, progress=progress(as_json), say=lambda doing, what: say(_line(doing, what), as_json))
    _answer("downloaded", found, as_json)


def _line(doing: str, what: Transfer) -> str:
    away = f"; {len(what.removed)} are taken away" if what.removed else ""
    return f"{doing} {len(what.files)} files, {nbytes(what.nbytes)}; {what.kept} are there already{away}"


def _answer(done: str, what: Transfer, as_json: bool) -> None:
    figures = {
        "url": what.url,
        done: len(what.files),
        "bytes": what.nbytes,
        "kept": what.kept,
        "removed": len(what.removed),
    }
    answer(figures, f"{done} {len(what.files)} files ({nbytes(what.nbytes)}): {what.url}", as_json)

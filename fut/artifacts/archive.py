"""Answers of questions, kept and read in one place: `answers/` and `verification/` of a run directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fut.artifacts.directory import ANSWERS, OWNER, VERIFICATION, require_owned
from fut.artifacts.kept import keeping
from fut.protocols import Answer
from storage import fingerprint, read_json, write_json

SCHEMA = 2
"""Of a kept answer's JSON. A change of its keys raises it; answers of another schema are not read: ask again."""
FOLDERS = {"orders": VERIFICATION, "lds": VERIFICATION}
"""Kinds that do not lie in `answers/`."""


class RunArchive:
    """The answers kept in a run directory: one JSON file each, `KIND-KEY.json`, written whole or not at all.

    Args:
        path: the run directory.
        owner: the run's digest, which every answer holds.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self._path, self._owner = path, owner

    def keep(self, kind: str, key: Any, answer: Answer, **beside: Any) -> None:
        """Keep an answer, in place of an earlier one of the same kind and key.

        Args:
            kind: of the question, as `whatif`; the file says it under `question`, by which the report finds the answer.
            key: a text that names the file, or what was asked, whose digest does.
            answer: what is kept, by its `as_dict`.
            beside: more that is to stand in the file.
        """
        path = self.file(kind, key)
        with keeping("the answer", path):
            path.parent.mkdir(exist_ok=True)
            content = {"question": kind} | answer.as_dict() | beside
            write_json(path, content | {"schema": SCHEMA, OWNER: self._owner})

    def find(self, kind: str, key: Any) -> dict[str, Any] | None:
        """The kept answer; None where there is none, or one of another schema. IdentityError for one of another run."""
        path = self.file(kind, key)
        return read_answer(path, self._owner) if path.exists() else None

    def read(self, kind: str) -> Iterator[dict[str, Any]]:
        """All kept answers of a kind, by file name; those of another schema are left out."""
        for path in sorted(self.file(kind, "*").parent.glob(f"{kind}-*.json")):
            content = read_answer(path, self._owner)
            if content is not None:
                yield content

    def file(self, kind: str, key: Any) -> Path:
        """Where an answer lies."""
        name = key if isinstance(key, str) else fingerprint(key)[:12]
        return self._path / FOLDERS.get(kind, ANSWERS) / f"{kind}-{name}.json"


def read_answer(path: Path, owner: str) -> dict[str, Any] | None:
    """The answer in a file; None for one of another schema, IdentityError for one of another run than the owner."""
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        return None
    require_owned(content.pop(OWNER, ""), owner, path)
    return content

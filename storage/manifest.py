"""What an artefact is, in full: written beside it, read back strictly, compared field by field."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .atomic import read_json, write_json
from .errors import DamagedError, IdentityError

FORMAT = 4
_SHOWN_FIELDS = 5
_SHOWN_CHARACTERS = 160
_DIGEST = re.compile(r'"([0-9a-f]{12})[0-9a-f]{20,}"')
_FEW = 3


def canonical(obj: Any) -> str:
    """The one JSON text of `obj`: sorted keys, no spaces. Raises IdentityError for what JSON cannot hold, as NaN."""
    try:
        return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise IdentityError(
            f"expected numbers, strings, lists and dicts, without NaN or infinity; got one that fails with: {error}; "
            "describe it by values that JSON holds"
        ) from error


def fingerprint(obj: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of `obj`."""
    return hashlib.sha256(canonical(obj).encode()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The full identity of an artefact, and the environment that made it (recorded, not compared).

    `identity` and `environment` are nested JSON values; they are copied, and tuples in them become lists.
    """

    kind: str
    format: int
    identity: dict[str, Any]
    environment: dict[str, Any]

    def __post_init__(self) -> None:
        for field in ("identity", "environment"):
            object.__setattr__(self, field, json.loads(canonical(getattr(self, field))))

    def write(self, path: Path | str) -> None:
        """Writes the manifest with a digest over its content, whole or not at all."""
        content = asdict(self)
        write_json(path, content | {"digest": fingerprint(content)})

    @classmethod
    def read(cls, path: Path | str) -> Manifest:
        """The manifest in `path`.

        Raises MissingError if absent, DamagedError if the content and its digest disagree, IdentityError if its format
        is not the one that this version reads.
        """
        document = read_json(path)
        if not isinstance(document, dict):
            raise _damaged(path, f"a JSON {type(document).__name__}")
        digest = document.pop("digest", None)
        try:
            actual = fingerprint(document)
        except IdentityError as error:
            raise _damaged(path, "NaN or infinity in it") from error
        if digest != actual:
            raise _damaged(path, f"digest {digest!r} over content with digest {actual!r}")
        if document.get("format") != FORMAT:
            raise IdentityError(
                f"expected manifest format {FORMAT} in {path}; it has format {document.get('format')!r}; "
                "use the version of fut that wrote it, or make the artefact again"
            )
        objects = all(isinstance(document.get(field), dict) for field in ("identity", "environment"))
        try:
            if objects:
                return cls(**document)
        except TypeError:
            pass
        raise _damaged(path, f"the fields {sorted(document)}, of which identity and environment have to be objects")


def _damaged(path: Path | str, found: str) -> DamagedError:
    return DamagedError(
        f"expected a manifest with a matching digest in {path}; got {found}; "
        "restore the file from a copy, or make the artefact again in an empty directory"
    )


def require_same(
    found: dict[str, Any], expected: dict[str, Any], what: str, words: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Raises IdentityError, naming the differing fields of `what` with both values, unless both are the same JSON.

    Strict: 1, 1.0 and true differ, and a field that only one side has is a difference. Digests are shown by their first
    digits, and of a list in which many entries differ the first alone.

    Args:
        found: what there is.
        expected: what there is to be.
        what: both are of, for the message.
        words: by the beginning of a field's name, what it is, to people.
    """
    differences = list(_differences(json.loads(canonical(found)), json.loads(canonical(expected)), ""))
    differences = [_explained(difference, words) for difference in differences]
    if not differences:
        return
    shown = "; ".join(differences[:_SHOWN_FIELDS])
    more = f"; and {len(differences) - _SHOWN_FIELDS} more" if len(differences) > _SHOWN_FIELDS else ""
    raise IdentityError(
        f"expected {what} with the same identity; {len(differences)} field(s) differ: {shown}{more}; "
        "ask with the identity that it was made with, or choose a new directory"
    )


def _differences(found: Any, expected: Any, field: str) -> Iterator[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            inner = f"{field}.{key}" if field else key
            if key not in found:
                yield f"{inner}: expected {_shown(expected[key])}, found no such field"
            elif key not in expected:
                yield f"{inner}: expected no such field, found {_shown(found[key])}"
            else:
                yield from _differences(found[key], expected[key], inner)
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        inside = [
            list(_differences(left, right, f"{field}[{index}]"))
            for index, (left, right) in enumerate(zip(found, expected, strict=True))
        ]
        if (count := sum(map(bool, inside))) > _FEW:
            first = next(filter(None, inside))[0]
            yield f"{field}: {count} of {len(found)} differ, the first {first}"
        else:
            yield from (difference for differences in inside for difference in differences)
    elif isinstance(found, list) and isinstance(expected, list) and len(expected) > _FEW:
        yield f"{field}: expected {len(expected)} entries, found {len(found)}"
    elif canonical(found) != canonical(expected):
        yield f"{field}: expected {_shown(expected)}, found {_shown(found)}"


def _explained(difference: str, words: Mapping[str, str]) -> str:
    """A difference with what its field is, in words."""
    known = [beginning for beginning in words if difference.startswith(beginning)]
    if not known:
        return difference
    field, _, rest = difference.partition(": ")
    return f"{words[max(known, key=len)]} (`{field}`): {rest}"


def _shown(value: Any) -> str:
    text = _DIGEST.sub(r'"\1…"', canonical(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"

"""Arrays on disk that are whole or absent, say what they are, and notice when a byte has changed."""

from .atomic import read_json, remove_abandoned, remove_parts, replacing, require_free, write_bytes, write_json
from .backends import BACKENDS, Backend
from .bfloat16 import from_bfloat16, to_bfloat16
from .checkpoints import Attributes, Checkpoint, CheckpointStore
from .errors import (
    ContentError,
    Damage,
    DamagedError,
    DiskFullError,
    ExistsError,
    IdentityError,
    MissingError,
    RemoteError,
    StorageError,
)
from .layout import Block, TermSpec
from .manifest import FORMAT, Manifest, fingerprint, require_same
from .plain import irregular, open_plain, parse_json, read_plain, require_plain
from .sources import absent_bytes, address, fetch, fetch_all, listed, size_of, tell, there, writing
from .terms import TermStore

__all__ = [
    "BACKENDS",
    "FORMAT",
    "Attributes",
    "Backend",
    "Block",
    "Checkpoint",
    "CheckpointStore",
    "ContentError",
    "Damage",
    "DamagedError",
    "DiskFullError",
    "ExistsError",
    "IdentityError",
    "Manifest",
    "MissingError",
    "RemoteError",
    "StorageError",
    "TermSpec",
    "TermStore",
    "absent_bytes",
    "address",
    "fetch",
    "fetch_all",
    "fingerprint",
    "from_bfloat16",
    "irregular",
    "listed",
    "open_plain",
    "parse_json",
    "read_json",
    "read_plain",
    "remove_abandoned",
    "remove_parts",
    "replacing",
    "require_free",
    "require_plain",
    "require_same",
    "size_of",
    "tell",
    "there",
    "to_bfloat16",
    "write_bytes",
    "write_json",
    "writing",
]

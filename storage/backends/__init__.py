"""Where blocks of term stores may lie, by name. To add a backend: a file beside this one, and a line here."""

from __future__ import annotations

from ..errors import IdentityError
from .base import Backend
from .zarr_files import ZarrFiles

__all__ = ["BACKENDS", "DEFAULT", "Backend", "backend_named"]

REGISTERED: tuple[type[Backend], ...] = (
    ZarrFiles,
)  # fmt: skip
"""All backends, one line each; each passes `storage/contract.py`."""

BACKENDS: dict[str, type[Backend]] = {backend.name: backend for backend in REGISTERED}
"""The backends by name."""
DEFAULT = ZarrFiles.name


def backend_named(name: str) -> type[Backend]:
    """The backend of that name; IdentityError, listing the names, for none."""
    if name not in BACKENDS:
        raise IdentityError(
            f"expected one of the backends {', '.join(BACKENDS)}; got {name!r}; choose one, or use the version of fut that "
            "wrote the store"
        )
    return BACKENDS[name]

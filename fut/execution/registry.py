"""The engines by name. To add one: a file beside this one, and one line here."""

from __future__ import annotations

from collections.abc import Callable

from fut.errors import UsageError
from fut.execution.engine import Engine
from fut.execution.inline import INLINE
from fut.execution.ray_cluster import RayCluster

ENGINES: dict[str, Callable[[int | None, str | None], Engine]] = {
    "inline": lambda workers, address: INLINE,
    "ray": RayCluster,
}
"""(workers, address) -> engine, by name."""


def engine(name: str = "inline", workers: int | None = None, address: str | None = None) -> Engine:
    """Where independent units of work are done: `fut.open(path, engine=fut.engine("ray", workers=4))`.

    Nothing is started before there is work. `with fut.engine(…) as engine:` ends what was started at the end of the block.

    Args:
        name: `inline` for this process, `ray` for processes that Ray starts here or on other machines.
        workers: how many processes; None for as many as there are GPUs, or on CPUs as there are for the run's threads.
        address: of a Ray cluster that runs already; None to start one on this machine.

    Returns:
        The engine.

    Raises:
        UsageError: for another name, for less than one worker, and for workers or an address with `inline`.
    """
    if name not in ENGINES:
        raise UsageError(f"engine: expected one of {', '.join(ENGINES)}, got `{name}`; correct --engine")
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected at least 1, got {workers}; correct --workers")
    if name == "inline" and (workers is not None or address is not None):
        given = "--workers" if workers is not None else "--address"
        raise UsageError(f"engine: expected --engine ray beside {given}, got `inline`, which is this process; name it")
    return ENGINES[name](workers, address)


def engine_of(given: Engine | str) -> Engine:
    """An engine, or the one of a name; UsageError for what is neither."""
    if isinstance(given, Engine):
        return given
    if not isinstance(given, str):
        raise UsageError(f"engine: expected a name or fut.engine(…), got {type(given).__name__}; give one of them")
    return engine(given)

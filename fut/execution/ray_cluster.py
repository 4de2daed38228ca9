"""Units of work in processes that Ray starts, on this machine or on several that share the run's file system.

A worker is an actor: one per GPU, or on CPUs one per so many threads as the run computes with. Each has one unit at a time. A
worker that ends, by a kill or a lack of memory, is replaced, and its unit is done again.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from fut.errors import EngineError, ExtraError, UsageError
from fut.execution.engine import Engine, R, Site, U
from fut.execution.worker import Failed, Worker

TRIES = 3
"""Times that a unit may end its worker."""
PATIENCE = 10.0
"""Seconds in which a cluster's address has to answer."""
STATISTICS = "RAY_USAGE_STATS_ENABLED"


def _ray() -> Any:
    """The package; ExtraError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ExtraError(
            "engine: expected the package `ray` for --engine ray, got none; run `pip install ray`, or leave --engine out"
        ) from error


class RayCluster(Engine):
    """Actors of a Ray cluster.

    Args:
        workers: how many; None for as many as the cluster has room for.
        address: of a cluster that runs; None for the one that this process is connected to already, or else one that is
            started here and ends with the engine.
    """

    name: ClassVar[str] = "ray"
    elsewhere: ClassVar[bool] = True

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._ray, self._wanted, self._address = _ray(), workers, address
        self._own = False
        self._idle: dict[str, list[Any]] = {}

    def workers(self, site: Site) -> int:
        self._connect(site)
        if self._wanted is not None:
            return self._wanted
        return max(1, self._room(site))

    def sharing(self, site: Site) -> int:
        found = self.workers(site)
        return found if self._own and self._address is None else 0

    def _room(self, site: Site) -> int:
        """Workers that the cluster has room for."""
        has = self._ray.cluster_resources()
        return int(has.get("GPU", 0)) if site.device == "cuda" else int(has.get("CPU", 0)) // site.threads

    def _connect(self, site: Site) -> None:
        """Connect to a cluster, or start one, where this process is not connected yet."""
        ray = self._ray
        if ray.is_initialized():
            if not self._own and self._address is not None:
                self._require_address(ray.get_runtime_context().gcs_address)
            return
        self._idle.clear()
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        with _without_statistics():
            if self._address is not None:
                _require_answer(self._address)
                try:
                    ray.init(address=self._address, **quiet)
                except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                    raise _nobody(self._address, error) from error
            else:
                count = self._wanted or _here(site)
                own: dict[str, Any] = {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}
                ray.init(address="local", num_cpus=count * site.threads, **own, **quiet)
        self._own = True

    def _require_address(self, connected: str) -> None:
        """UsageError where this process is connected to another cluster than the one that was asked for."""
        if self._address not in ("auto", connected):
            raise UsageError(
                f"engine: expected a connection to {self._address}, got one of this program's own to {connected}, which is left "
                "alone; leave --address out to use it, or disconnect first"
            )

    def _require_room(self, site: Site) -> None:
        """EngineError where no worker would ever start."""
        count = self.workers(site)
        if (room := self._room(site)) < count:
            what = (
                "GPUs"
                if site.device == "cuda"
                else f"times {site.threads} CPUs, the threads that the run computes with,"
            )
            raise EngineError(
                f"engine: expected room for {count} workers, got {room} {what} in the Ray cluster; lower --workers"
            )

    def _worker(self, site: Site) -> Any:
        """A worker that has nothing to do, or a new one."""
        if idle := self._idle.get(site.device):
            return idle.pop()
        on = {"num_gpus": 1} if site.device == "cuda" else {"num_cpus": site.threads}
        made = self._ray.remote(**on, max_restarts=0, max_task_retries=0)(Worker)
        return made.remote(_fetched, [os.path.abspath(path) for path in sys.path])

    def each(self, site: Site, work: Callable[[Any, U], R], units: Sequence[U]) -> Iterator[tuple[int, R]]:
        if not units:
            return
        self._require_room(site)
        ray, reference = self._ray, self._put(site)
        waiting, most = deque((place, 1) for place in range(len(units))), self.workers(site)
        busy: dict[Any, tuple[Any, int, int]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < most:
                    (place, tried), worker = waiting.popleft(), self._worker(site)
                    future = worker.do.remote(site.key, [reference], work, units[place])
                    busy[future] = worker, place, tried
                [future], _ = ray.wait(list(busy), num_returns=1)
                worker, place, tried = busy.pop(future)
                try:
                    found = ray.get(future)
                except _ends(ray) as error:
                    waiting.appendleft((place, _again(tried, error)))
                    continue
                except ray.exceptions.RayError as error:
                    raise EngineError(f"engine: a worker could not take its work: {error}") from error
                self._idle.setdefault(site.device, []).append(worker)
                if isinstance(found, Failed):
                    raise found.error
                for warning in found.said:
                    warnings.warn(warning, stacklevel=2)
                yield place, found.value
        finally:
            for worker, _, _ in busy.values():
                ray.kill(worker)

    def _put(self, site: Site) -> Any:
        """The site where workers fetch it from; UsageError where it cannot travel."""
        try:
            return self._ray.put(site)
        except (TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                f"engine: expected a module, a loss and read-outs that can be sent to other processes, got some that cannot "
                f"({str(error).splitlines()[0]}); make them of functions and classes of a module, or use engine inline"
            ) from error

    def close(self) -> None:
        if not self._ray.is_initialized():
            self._idle.clear()
            return
        for worker in [worker for idle in self._idle.values() for worker in idle]:
            self._ray.kill(worker)
        self._idle.clear()
        if self._own:
            self._ray.shutdown()
            self._own = False


def _fetched(reference: list[Any]) -> Site:
    """A site, in a worker: within a list it travels as a reference, and is fetched by those alone that have it not open."""
    site: Site = _ray().get(reference)[0]
    return site


def _require_answer(address: str) -> None:
    """EngineError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _nobody(address, error) from error


def _nobody(address: str, error: Exception) -> EngineError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return EngineError(
        f"engine: expected a Ray cluster at {address}, got none that answers ({said}); correct --address, or leave it out to "
        "start one here"
    )


def _here(site: Site) -> int:
    """Workers for this machine."""
    if site.device == "cuda":
        return max(1, torch.cuda.device_count())
    return max(1, len(os.sched_getaffinity(0)) // site.threads)


def _ends(ray: Any) -> tuple[type[Exception], ...]:
    """What is raised where a worker is gone."""
    of = ray.exceptions
    return of.RayActorError, of.WorkerCrashedError, of.NodeDiedError, of.OutOfMemoryError


def _again(tried: int, error: Exception) -> int:
    """The number of the next try; EngineError after the last."""
    if tried < TRIES:
        return tried + 1
    raise EngineError(
        f"engine: expected a unit of work to be done, got {tried} workers that ended while they did it; is the machine out of "
        f"memory? lower --workers, or leave --engine out to see why: {error}"
    ) from error


@contextmanager
def _without_statistics() -> Iterator[None]:
    """Nothing is reported to Ray's makers, unless the host program says that it is to be."""
    given = os.environ.get(STATISTICS)
    os.environ.setdefault(STATISTICS, "0")
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(STATISTICS, None)

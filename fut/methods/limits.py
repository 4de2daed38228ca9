"""Whether a stage fits the memory and the disk that are there: refused with both numbers before anything of it is computed."""

from __future__ import annotations

from typing import Any

from fut.methods.base import Estimator, Method
from fut.methods.footprint import Footprint
from fut.methods.stages import LESS, Preparation, Prepared, counted
from fut.resources.memory import require_memory
from fut.training.problem import Problem
from storage import require_free


def require_training(problem: Problem) -> None:
    """ResourceError unless training fits the memory that is there."""
    found = Footprint(problem)
    require_memory("reference run", found.least(), problem.device, LESS)  # before a gradient is measured
    _require(found, "reference run", found.training(), LESS)


def require_stages(preparation: Preparation[Any], spec: Any, footprint: Footprint) -> None:
    """ResourceError unless every stage of a preparation fits the memory that is there."""
    for stage in counted(preparation.stages, spec):
        _require(footprint, stage.name, stage.memory(spec, footprint), stage.advice)


def require_space(preparation: Preparation[Any], files: Prepared) -> None:
    """DiskFullError unless what is still to be written fits: not what an interrupted call left there."""
    require_free(files.directory.parent, preparation.rest(files), preparation.what)


def _require(footprint: Footprint, stage: str, planned: int, advice: str) -> None:
    require_memory(stage, planned - footprint.resident, footprint.problem.device, advice)


def require_tables(footprint: Footprint, method: Method, estimator: Estimator) -> None:
    """ResourceError unless the tables that an estimator loads fit the memory that is there; none where they are not cached."""
    if nbytes := method.table_bytes(estimator, footprint):
        advice = f"{method.advice} and cache again"
        require_memory(f"tables of {method.name}", nbytes, footprint.problem.device, advice)

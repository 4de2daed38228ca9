"""Small runs that tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import MakeRun, small_config

import fut


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Train (and cache) a small run; the same sections give the same, shared run, so tests must not damage it."""
    made: dict[str, fut.Run] = {}

    def make(cached: bool = True, **sections: dict[str, Any]) -> fut.Run:
        key = repr((cached, sorted(sections.items())))
        if key not in made:
            made[key] = fut.train(tmp_path_factory.mktemp("run") / "run", small_config(**sections), device="cpu")
            if cached:
                made[key].cache()
        return made[key]

    return make


@pytest.fixture(scope="session")
def small_run(make_run: MakeRun) -> fut.Run:
    """A cached small run. Shared: read only."""
    return make_run()

"""A cluster of Ray on this machine: two workers, of which some end in the middle of their work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from deadly import DeadlyLoss, OddError, Room, always_deadly, deadly, failing, small_data, small_net, squared
from patience import PATIENCE
from plain_torch import config
from same_files import digests, endpoints
from small import ASKED, Cli, MakeRun

import fut
from estimators.errors import DivergenceError
from fut.errors import EngineError, FutWarning, UsageError
from fut.execution.engine import Engine, Site
from fut.execution.inline import INLINE

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
SITE = Site("room", partial(Room, 3), "cpu", 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Engine]:
    with fut.engine("ray", workers=2) as engine:
        yield engine
    assert not ray.is_initialized(), "what was started here is ended"


def released(cluster: Engine) -> None:
    """Give the CPUs back that workers without work hold."""
    for worker in cluster._idle.pop("cpu", []):  # type: ignore[attr-defined]
        ray.kill(worker)


def test_units_are_done_by_two_processes_with_the_threads_of_this_one(cluster: Engine) -> None:
    found = dict(cluster.each(SITE, squared, range(12)))
    assert [found[i][0] for i in range(12)] == [3 * i * i for i in range(12)]
    processes = {process for _, process, _ in found.values()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {threads for _, _, threads in found.values()} == {1}
    again = dict(cluster.each(SITE, squared, range(4)))
    assert {process for _, process, _ in again.values()} <= processes, "workers are kept"
    assert dict(cluster.each(SITE, squared, [])) == {}


def test_a_unit_whose_worker_ends_is_done_again(cluster: Engine, tmp_path: Path) -> None:
    markers = [tmp_path / str(i) for i in range(6)]
    for marker in markers[:2]:
        marker.touch()
    assert dict(cluster.each(SITE, deadly, list(enumerate(markers)))) == {i: i for i in range(6)}
    assert not any(marker.exists() for marker in markers)


def test_a_unit_that_ends_every_worker_is_given_up(cluster: Engine) -> None:
    with pytest.raises(EngineError, match="got 3 workers that ended while they did it; is the machine out of memory"):
        dict(cluster.each(SITE, always_deadly, [1]))
    assert dict(cluster.each(SITE, squared, [2]))[0][0] == 12


def test_errors_and_warnings_come_home_as_they_are(cluster: Engine) -> None:
    with pytest.raises(DivergenceError, match=r"^order 3: expected a finite loss, got nan$"):
        dict(cluster.each(SITE, failing, ["diverges"]))
    with pytest.raises(UsageError, match=r"^expected more, got less; correct --orders$"):
        dict(cluster.each(SITE, failing, ["unmeant"]))
    with pytest.raises(EngineError, match=f"a worker failed: (.|\n)*{OddError.__name__}: a and b"):
        dict(cluster.each(SITE, failing, ["odd"]))
    with pytest.warns(FutWarning, match="something is as it should not be"):
        assert dict(cluster.each(SITE, failing, ["well"])) == {0: "well"}


def test_what_cannot_be_sent_is_refused(cluster: Engine) -> None:
    site = Site("a lock", Lock().acquire, "cpu", 1)
    with pytest.raises(UsageError, match="expected a module, a loss and read-outs that can be sent to other processes"):
        dict(cluster.each(site, squared, [1]))


def test_a_cluster_without_room_is_refused(cluster: Engine) -> None:
    for engine, site in ((fut.engine("ray", 64), SITE), (fut.engine("ray"), Site("gpu", lambda: 0, "cuda", 0))):
        with pytest.raises(EngineError, match=r"expected room for \d+ workers, got \d+"):
            dict(engine.each(site, squared, [1]))


def test_a_connection_of_the_host_program_is_left_alone(cluster: Engine) -> None:
    assert dict(cluster.each(SITE, squared, [1]))  # connected
    with fut.engine("ray", workers=1) as other:
        released(cluster)
        assert dict(other.each(SITE, squared, [2]))[0][0] == 12
    assert ray.is_initialized()
    with pytest.raises(UsageError, match=r"one of this program's own to .* which is left alone"):
        dict(fut.engine("ray", 1, "10.0.0.1:1234").each(SITE, squared, [1]))


# --- runs


@pytest.fixture
def deadly_run(tmp_path: Path) -> Path:
    """A run of a module and a loss that are objects, on which a marker waits for a worker."""
    loss, chosen = DeadlyLoss(tmp_path / "marker", os.getpid(), 0), config(5, adjoint={"num_runs": 2, "num_anchors": 2})
    return fut.train(tmp_path / "run", chosen, module=small_net(), loss=loss, data=small_data(), device="cpu").path


def opened(path: Path, source: Path, engine: Engine, after: int) -> fut.Run:
    """A copy of the run, on which a worker ends in its `after`-th gradient of a unit."""
    counting = DeadlyLoss(path / "none", 0, sys.maxsize)
    _ = fut.open(source, device="cpu", module=small_net(), loss=counting).context.problem
    loss = DeadlyLoss(source.parent / "marker", os.getpid(), counting.calls + after)
    shutil.copytree(source, path)
    return fut.open(path, device="cpu", module=small_net(), loss=loss, engine=engine)


def test_a_worker_killed_in_a_stage_changes_no_byte(cluster: Engine, deadly_run: Path, tmp_path: Path) -> None:
    runs: list[fut.Run] = []
    for name, engine in (("inline", INLINE), ("ray", cluster)):
        run = opened(tmp_path / name, deadly_run, engine, 2)
        (tmp_path / "marker").touch()
        run.cache(["adjoint", "gradient", "lowrank"])
        runs.append(run)
    assert not (tmp_path / "marker").exists(), "no worker was killed"
    assert digests(runs[0].path) == digests(runs[1].path)
    assert not list(runs[1].path.rglob("*.part"))


def test_a_worker_killed_in_a_retraining_changes_no_bit(cluster: Engine, deadly_run: Path, tmp_path: Path) -> None:
    runs = [opened(tmp_path / name, deadly_run, engine, 7) for name, engine in (("inline", INLINE), ("ray", cluster))]
    (tmp_path / "marker").touch()
    for run in runs:
        run.cache("adjoint")
        run.calibrate(4)
    found = [run.verify(6, estimators=["adjoint"]) for run in runs]
    assert not (tmp_path / "marker").exists(), "no worker was killed"
    assert endpoints(runs[0]) == endpoints(runs[1])
    assert len(endpoints(runs[1])) == 10
    assert found[0].true_losses == found[1].true_losses
    assert found[0].estimated_losses == found[1].estimated_losses
    assert not list(runs[1].path.rglob("*.part"))


def test_the_command_line_has_orders_retrained_by_workers_here_or_joins_a_cluster(
    cluster: Engine, cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    path = shutil.copytree(make_run(cached=False).path, tmp_path / "run", ignore=ASKED)
    released(cluster)
    said = cli("bank", path, "--orders", 4, "--engine", "ray", "--workers", 2, "--device", "cpu", "--json")
    assert said.status == 0, said.err
    assert said.json["trained"] == 4
    address = ray.get_runtime_context().gcs_address
    words = ["bank", str(path), "--orders", "6", "--engine", "ray", "--workers", "1", "--address", address, "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(fut.__file__).parents[1])}
    done: Any = subprocess.run(
        [sys.executable, "-m", "fut", *words], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trained"] == 2
    assert ray.is_initialized(), "this process is still connected"
    assert fut.open(path, device="cpu").orders.bank(6).trained == 0


def test_an_address_at_which_nobody_answers_is_refused(start_python: Any) -> None:
    script = (
        "import fut\nfrom fut.execution.engine import Site\n"
        "dict(fut.engine('ray', 1, '127.0.0.1:1').each(Site('a', list, 'cpu', 1), len, [1]))"
    )
    _, err = start_python(script).communicate(timeout=PATIENCE)
    assert "EngineError: engine: expected a Ray cluster at 127.0.0.1:1, got none that answers" in err

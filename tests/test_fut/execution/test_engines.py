"""What other processes do for a run leaves the very files that this one would, whichever of them does what, and however often."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deadly import Beside, Room, small_data, small_net, squared, squared_error
from plain_torch import config
from same_files import digests, endpoints, timeless

import fut
from estimators.errors import DivergenceError
from estimators.orders.order import Order, random_orders
from fut.errors import EngineError, ExtraError
from fut.execution.engine import Engine, Site
from fut.execution.inline import INLINE
from fut.methods import elsewhere
from fut.methods.elsewhere import site_of, train_ahead
from fut.methods.footprint import Footprint
from fut.methods.stages import Request
from fut.resources import memory
from fut.studies.noise.study import NoiseRequest
from fut.training.trainer import train_order_at


def trained(path: Path, adjoint: dict[str, Any]) -> Path:
    """A run of a network of 93 parameters."""
    chosen = config(5, adjoint={"functionals": 1, "num_runs": 2, "num_anchors": 2} | adjoint)
    return fut.train(path, chosen, module=small_net(), loss=squared_error, data=small_data(), device="cpu").path


class Sharing(Beside):
    """Workers that share this machine's memory."""

    def sharing(self, site: Site) -> int:
        return self.workers(site)


def test_workers_of_this_machine_share_its_memory(
    answering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits once and not twice is refused, before anything is computed."""
    run = opened(answering, tmp_path / "run", Sharing())
    footprint = Footprint(run.context.problem)
    room = round(1.5 * footprint.training())
    monkeypatch.setattr(memory, "available_bytes", lambda device: room)
    with pytest.raises(fut.ResourceError, match=r"retraining in 2 processes: expected at least .* lower `workers`"):
        run.orders.bank(2, seed=5)
    assert not run.context.engine.done  # type: ignore[attr-defined]
    run.retrain("random:77")
    shutil.rmtree(run.path / "adjoint")
    with pytest.raises(fut.ResourceError, match=r"in 2 processes: expected at least .* lower `workers`"):
        run.cache(["adjoint"])
    alone = opened(answering, tmp_path / "alone", Beside())
    assert len(alone.orders.bank(2, seed=5).orders) == 2, "of other machines nothing is known"


def opened(source: Path, path: Path, engine: Engine = INLINE) -> fut.Run:
    """A copy of the run, opened."""
    shutil.copytree(source, path)
    return fut.open(path, device="cpu", module=small_net(), loss=squared_error, engine=engine)


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that answers."""
    path = trained(tmp_path_factory.mktemp("answering") / "run", adjoint={"readouts": ["probe", "item:1"]})
    fut.open(path, device="cpu", module=small_net(), loss=squared_error).cache(["adjoint", "gradient", "norm"])
    return path


@pytest.mark.parametrize("drawn", ["all coordinates", "a sample", "a sample, drawn before"])
def test_every_stage_leaves_the_same_bytes(tmp_path: Path, drawn: str) -> None:
    """Whatever the order of the units, and where each is done again once it is done."""
    sample: dict[str, Any] = {"coordinates": 40, "control": "never"}
    adjoint = {
        "all coordinates": {"rank": 2},
        "a sample": sample,
        "a sample, drawn before": sample | {"drawn": "before"},
    }
    source, engine = trained(tmp_path / "source", adjoint=adjoint[drawn]), Beside(twice=True)
    names = ["adjoint", "gradient", "jvp"] if drawn == "all coordinates" else ["adjoint"]
    names += ["lowrank", "reweighting"] if drawn == "a sample" else []
    runs = [opened(source, tmp_path / "inline"), opened(source, tmp_path / "beside", engine)]
    for run in runs:
        run.cache(names)
    assert digests(runs[0].path) == digests(runs[1].path)
    here = {"gradient", "jvp"}
    assert {piece.preparation for piece in engine.done} == {"terms" if name in here else name for name in names}


@pytest.mark.parametrize(
    "adjoint", [{"scratch": "memory"}, {"storage": "retrain", "rank": 2}], ids=["memory", "segments"]
)
def test_what_others_could_not_read_stays_with_this_process(tmp_path: Path, adjoint: dict[str, Any]) -> None:
    source, engine = trained(tmp_path / "source", adjoint=adjoint), Beside()
    runs = [opened(source, tmp_path / "inline"), opened(source, tmp_path / "beside", engine)]
    for run in runs:
        run.cache("adjoint")
    assert engine.done == []
    assert digests(runs[0].path) == digests(runs[1].path)


QUESTIONS: dict[str, Callable[[fut.Run], Any]] = {
    "calibrate": lambda run: run.calibrate(4).as_dict(),
    "verify": lambda run: run.verify(4, estimators=["adjoint"]).as_dict(),
    "lds": lambda run: run.lds(3, 0.4, estimators=["adjoint"]).as_dict(),
    "trust": lambda run: run.trust().as_dict(),
    "search": lambda run: run.search(evaluations=20, verify=2, seed=1, also=["item:1"], heuristics=[]).as_dict(),
    "memorize": lambda run: run.memorize(items=[0, 3], groups=2, verify=4).as_dict(),
    "domains": lambda run: run.domains([0, 0, 1, 1, 1], verify=3).as_dict(),
    "estimate": lambda run: [one.as_dict() for one in run.estimate(["reverse", "random:3"], "retrain")],
    "noise": lambda run: run.ask(NoiseRequest(3)).as_dict(),
    "bank": lambda run: run.orders.bank(3, seed=5).as_dict(),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_that_retrains_has_it_done_and_answers_the_same(
    answering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    engine, trainings = Beside(), list[Any]()

    def noted(*arguments: Any, **options: Any) -> Any:
        trainings.append(arguments)
        return train_order_at(*arguments, **options)

    inline, beside = opened(answering, tmp_path / "inline"), opened(answering, tmp_path / "beside", engine)
    expected = QUESTIONS[name](inline)
    monkeypatch.setattr("fut.methods.context.train_order_at", noted)
    assert repr(timeless(QUESTIONS[name](beside))) == repr(timeless(expected))
    assert endpoints(beside) == endpoints(inline) != {}
    assert sum(isinstance(unit, Order) for unit in engine.done) == len(trainings), (
        "an order was trained by this process"
    )


def test_after_a_step_is_kept_too(answering: Path, tmp_path: Path) -> None:
    run = opened(answering, tmp_path / "run", Beside())
    orders = random_orders(run.reference, 2, 3)
    ticks: list[int] = []
    train_ahead(run.context, orders, (2, 4), lambda: ticks.append(1))
    plain = opened(answering, tmp_path / "plain").context
    for order in orders:
        plain.retrain(order, at=(2, 4))
    assert len(ticks) == 2 * run.steps
    assert {len(order) for order, _ in run.context.retrained.losses()} == {2, 4, run.steps}
    assert sorted(loss for _, loss in run.context.retrained.losses()) == sorted(
        loss for _, loss in plain.retrained.losses()
    )
    train_ahead(run.context, orders, (2, 4), lambda: ticks.append(1))
    assert len(ticks) == 2 * run.steps, "what is kept is not trained again"


def test_an_order_that_diverges_elsewhere_is_not_trained_again(
    answering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(answering, tmp_path / "run", Beside())
    bad, good = random_orders(run.reference, 2, 3)
    tried: list[Any] = []

    def diverging(problem: Any, state: Any, order: Any, *rest: Any) -> Any:
        tried.append(order)
        if order == bad:
            raise DivergenceError("it diverges: expected a finite loss, got nan")
        return train_order_at(problem, state, order, *rest)

    monkeypatch.setattr("fut.methods.context.train_order_at", diverging)
    train_ahead(run.context, [bad, good])
    assert tried == [good, bad]
    for _ in range(2):
        with pytest.raises(DivergenceError, match="it diverges: expected a finite loss"):
            run.context.retrain(bad)
    train_ahead(run.context, [bad])
    run.context.retrain(good)
    assert tried == [good, bad]


def test_a_worker_that_would_compute_other_bits_is_refused(answering: Path, tmp_path: Path) -> None:
    site = site_of(opened(answering, tmp_path / "run").context)
    arguments = list(site.open.args)  # type: ignore[attr-defined]
    arguments[-1] = arguments[-1] | {"threads": 7, "torch": "1.0"}
    expected = rf"torch: expected 1.0, got {torch.__version__.split('+')[0]}.*; threads: expected 7, got 1"
    with pytest.raises(EngineError, match=expected):
        elsewhere.open_again(*arguments)


def test_a_piece_of_files_that_a_worker_does_not_see_is_refused(answering: Path, tmp_path: Path) -> None:
    run = opened(answering, tmp_path / "run")
    piece = elsewhere.Piece("adjoint", run.path / "adjoint", "another", Request(), 0, [1])
    with pytest.raises(EngineError, match="do all workers see the same file system"):
        elsewhere.do_piece(run.context, piece)


def test_inline_does_units_in_this_process() -> None:
    with fut.engine() as engine:
        found = dict(engine.each(Site("a", lambda: Room(2), "cpu", 1), squared, [1, 2]))
    assert [value for value, _, _ in found.values()] == [2, 8]
    assert engine.workers(Site("a", lambda: Room(2), "cpu", 1)) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("slurm",), "expected one of inline, ray, got `slurm`"),
        (("ray", 0), "workers: expected at least 1, got 0"),
        (("inline", 2), "expected `engine` ray beside `workers`|expected --engine ray beside --workers"),
        (("inline", None, "auto"), "beside --address"),
    ],
)
def test_engines_that_are_none_are_refused(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(fut.UsageError, match=said):
        fut.engine(*given)


def test_a_run_is_opened_with_an_engine_or_its_name(answering: Path) -> None:
    given: dict[str, Any] = {"module": small_net(), "loss": squared_error, "device": "cpu"}
    assert fut.open(answering, engine="inline", **given).context.engine is INLINE
    with pytest.raises(fut.UsageError, match=r"expected a name or fut\.engine"):
        fut.open(answering, engine=3, **given)  # type: ignore[arg-type]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraError, match=r"pip install ray"):
        fut.engine("ray")

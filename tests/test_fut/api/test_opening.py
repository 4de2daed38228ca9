"""A run is opened and continued with what it was trained with, by one command at a time, and says what is not as it should be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Cli, MakeRun, small_config
from torch import Tensor, nn

import fut
from fut.artifacts.lock import run_lock
from fut.errors import BusyError
from fut.progress import silent


class Small(nn.Module):
    """Two classes from four numbers, with what can differ behind an evaluation's back."""

    def __init__(self, drop: float = 0.2, frozen: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last, self.drop = nn.Linear(4, 8), nn.Linear(8, 2), nn.Dropout(drop)
        self.scale = nn.Parameter(torch.tensor(frozen), requires_grad=False)

    def __len__(self) -> int:
        return 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(torch.tanh(self.first(x)))
        return self.last(h) * (self.scale if self.training else 1.0)


def loss_of(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y)


def smoothed(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y, label_smoothing=0.1 * module.training)


def dataset(dtype: torch.dtype = torch.float32) -> fut.Dataset:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(8, 6, 4, generator=draw)
    items = tuple((part.to(dtype), (part.sum(-1) > 0).long()) for part in x)
    return fut.Dataset(items[:6], items[6:])


CONFIG: dict[str, Any] = {"data": {"items": 6}, "warmup": {"steps": 0}}


def trained(path: Path, module: nn.Module | None = None, loss: Any = loss_of, **more: Any) -> fut.Run:
    config = fut.load_config(**CONFIG)
    return fut.train(
        path, config, module=Small() if module is None else module, loss=loss, data=dataset(), device="cpu", **more
    )


@pytest.mark.parametrize(
    ("module", "loss"),
    [(Small(drop=0.5), loss_of), (Small().eval(), loss_of), (Small(), smoothed)],
    ids=["dropout", "eval", "smoothing"],
)
def test_what_only_training_shows_is_compared_too(tmp_path: Path, module: nn.Module, loss: Any) -> None:
    run = trained(tmp_path / "run", Small())
    assert run.context.parameters == 4 * 8 + 8 + 8 * 2 + 2, "a module whose length is 0 is trained all the same"
    assert fut.open(tmp_path / "run", module=Small(), loss=loss_of).retrain("identity").loss == run.reference_loss
    with pytest.raises(fut.ModelError, match=r"expected the training loss .* in step 5"):
        fut.open(tmp_path / "run", module=module, loss=loss)
    assert len(list((tmp_path / "run" / "retrained").glob("*/*.h5"))) == 1, "no wrong truth is kept"


class Lookup(nn.Module):
    """A frozen table and a buffer beneath a trained head: rows that no probe holds can differ without a word."""

    def __init__(self, seed: int = 0, rows: int = 12, width: int = 6, classes: int = 12) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.base, self.head = nn.Embedding(rows, width).requires_grad_(False), nn.Linear(width, classes)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(width), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.base(ids) * self.scale)


def next_word(module: nn.Module, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def looked_up(path: Path, **warmup: Any) -> fut.Run:
    """A run of `Lookup` whose first items alone hold the last rows of the table."""
    ids = torch.randint(0, 5, (10, 4, 7), generator=torch.Generator().manual_seed(3))
    ids[:2] += 5
    items = tuple((part,) for part in ids)
    data = fut.Dataset(items[:6], items[6:8], items[8:] if warmup else ())
    config = fut.load_config(data={"items": 6}, warmup={"steps": 2 if warmup else 0}, schedule={"rate": 1e-2})
    return fut.train(path, config, module=Lookup(), loss=next_word, data=data, device="cpu")


def changed(what: str) -> nn.Module:
    """A module that differs from the one of `looked_up` in one thing."""
    module = Lookup(rows=13 if what == "rows" else 12, classes=13 if what == "classes" else 12)
    with torch.no_grad():
        if what == "base.weight":
            module.base.weight[7] += 1
        elif what == "scale":
            module.scale[0] = 2.0
        elif what == "trained":
            module.base.requires_grad_(True)
        elif what == "name":
            module.tail = module.head
            del module.head
    return module


@pytest.mark.parametrize(
    ("what", "says"),
    {
        "base.weight": r"`base.weight` \(frozen or a buffer\): expected the numbers that the run was trained with",
        "scale": r"`scale` \(frozen or a buffer\): expected the numbers",
        "rows": r"`base.weight` \(frozen or a buffer\): expected float32 \[12, 6\], got float32 \[13, 6\]",
        "classes": r"`head.weight`: expected float32 \[12, 6\], got float32 \[13, 6\]",
        "trained": r"`base.weight`: expected no trained parameter, got float32 \[12, 6\]",
        "name": r"`head.weight`: expected a trained parameter, float32 \[12, 6\], got none",
    }.items(),
)
def test_what_does_not_fit_is_named_when_it_is_opened(tmp_path: Path, what: str, says: str) -> None:
    run = looked_up(tmp_path / "run")
    with pytest.raises(fut.IdentityError, match=says):
        fut.open(run.path, module=changed(what), loss=next_word, device="cpu")
    assert list((run.path / "retrained").glob("*/*.h5")) == [], "no truth of another model joins the run"


@pytest.mark.parametrize("warmup", [{}, {"steps": 2}])
def test_a_fresh_module_gets_the_runs_starting_values(tmp_path: Path, warmup: dict[str, int]) -> None:
    """Other starting values, the same structure and the same frozen table: the numbers are those of the run."""
    run = looked_up(tmp_path / "run", **warmup)
    truth = run.retrain("reverse").loss
    fresh = Lookup(seed=1)
    fresh.base = Lookup().base
    shutil.rmtree(run.path / "retrained")
    again = fut.open(run.path, module=fresh, loss=next_word, device="cpu")
    assert again.retrain("reverse").loss == truth
    assert again.retrain("identity").loss == run.reference_loss
    assert torch.equal(again.context.problem.objective.start(), run.context.problem.objective.start())


def test_where_a_class_is_imported_from_is_not_compared(tmp_path: Path) -> None:
    """Trained in a script, where the class is `__main__.Lookup`, opened from a module of that name."""
    run = looked_up(tmp_path / "run")
    other = type("Net", (Lookup,), {"__module__": "somewhere.else"})
    assert (
        fut.open(run.path, module=other(), loss=next_word, device="cpu").retrain("identity").loss == run.reference_loss
    )


def test_a_run_moves_and_has_any_bytes_in_its_path(tmp_path: Path, cli: Cli, small_run: fut.Run) -> None:
    place = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \n ru\xff")
    shutil.copytree(small_run.path, place)
    assert fut.open(place, device="cpu").estimate(["reverse"])[0].value == small_run.estimate(["reverse"])[0].value
    for words in (["info"], ["check"], ["whatif", "--swap", "0,1"], ["report", "--samples", "0"]):
        said = cli(words[0], place, *words[1:])
        assert said.status == 0, said.err
        assert cli(words[0], place, *words[1:], "--json").json


def test_an_interrupted_run_goes_on_with_the_same_loss_alone(tmp_path: Path) -> None:
    def stopping(label: str, total: int) -> Any:
        made = silent(label, total)
        return made if label != "reference run" else _stopped(3)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", progress=stopping)
    with pytest.raises(fut.ModelError, match="training loss"):
        trained(tmp_path / "run", loss=lambda m, x, y: loss_of(m, x, y) * 1.01)
    run = trained(tmp_path / "run")
    assert run.retrain("identity").loss == run.reference_loss


class _stopped:  # noqa: N801
    def __init__(self, left: int) -> None:
        self.left = left

    def __enter__(self) -> Any:
        def tick() -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

        return tick

    def __exit__(self, *_: object) -> None:
        return None


def test_a_loss_without_a_gradient_is_refused(tmp_path: Path) -> None:
    with pytest.raises(fut.ModelError, match="got one that is detached"):
        trained(tmp_path / "run", loss=lambda m, x, y: loss_of(m, x, y).detach())
    run = trained(tmp_path / "flat", loss=lambda m, x, y: 0.0 * loss_of(m, x, y))
    assert run.reference_loss == 0.0, "a loss that is flat where it stands may be meant"


def test_a_run_of_an_object_asks_for_it(tmp_path: Path, cli: Cli) -> None:
    trained(tmp_path / "run")
    with pytest.raises(fut.IdentityError, match="expected the module that it was trained with"):
        fut.open(tmp_path / "run").retrain("reverse")
    with pytest.raises(fut.ModelError, match="pass the loss= that it is trained with"):
        fut.open(tmp_path / "run", module=Small()).estimate(["reverse"])
    said = cli("estimate", tmp_path / "run", "--order", "reverse", "--estimator", "retrain")
    assert said.status == 1
    assert "--model package.module:factory" in said.err


def test_items_that_do_not_fit_the_model_say_why(tmp_path: Path) -> None:
    config = fut.load_config(**CONFIG)
    for dtype, error, why in (
        (torch.bfloat16, fut.DataError, "of a type that numpy has, got torch.bfloat16"),
        (torch.float64, fut.ModelError, "parameters are torch.float32 here, as model.dtype says"),
    ):
        with pytest.raises(error, match=why):
            fut.train(tmp_path / "run", config, module=Small(), loss=loss_of, data=dataset(dtype), device="cpu")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_an_unfinished_expansion_says_so(tmp_path: Path, cli: Cli) -> None:
    run = fut.train(tmp_path / "run", small_config(), device="cpu")

    def stopping(label: str, total: int) -> Any:
        return _stopped(2) if label == "backward pass" else silent(label, total)

    run.context.progress = stopping
    with pytest.raises(KeyboardInterrupt):
        run.cache(["adjoint"])
    run = fut.open(tmp_path / "run", device="cpu")
    with pytest.raises(fut.NotCachedError, match="which is not finished; repeat `fut cache RUN --terms adjoint`"):
        run.estimate(["reverse"])
    assert (run.info()["adjoint_begun"], run.info()["adjoint_cached"]) == (True, False)
    assert "adjoint: not finished, repeat `fut cache RUN --terms adjoint`" in cli("info", tmp_path / "run").out
    run.cache(["adjoint"])
    assert "adjoint: cached for probe" in cli("info", tmp_path / "run").out


def test_two_commands_do_not_work_on_one_run_at_once(tmp_path: Path, cli: Cli) -> None:
    run = fut.train(tmp_path / "run", small_config(), device="cpu")
    with run_lock(tmp_path / "run"):
        with pytest.raises(BusyError, match=r"another command at work on it \(process \d+\)"):
            run.cache(["adjoint"])
        assert cli("cache", tmp_path / "run").status == 1
        left = tmp_path / "run" / "terms" / ".whole.123.part"
        left.parent.mkdir(exist_ok=True)
        left.write_text("")
        with pytest.raises(BusyError):
            run.methods.repair()
        assert left.exists(), "what the other one is writing"
        left.unlink()
        left.parent.rmdir()
    run.cache(["adjoint"])
    assert run.estimate(["reverse"])[0].value > 0


def test_constants_of_adamw_are_not_taken_for_another_rules() -> None:
    assert fut.load_config(rule={"name": "sgd"}).rule.options == {}
    assert fut.load_config().rule.options == fut.load_config(rule={"name": "adam"}).rule.options
    assert fut.load_config().rule.options["betas"] == [0.9, 0.95]


def test_an_order_may_be_a_tensor(make_run: MakeRun) -> None:
    run = make_run()
    asked = torch.tensor([3, 1, 0, 2, 4])
    assert run.order(asked) == run.order([3, 1, 0, 2, 4]) == run.order(asked.numpy())
    one, two, three = run.estimate([asked, asked.numpy(), [3, 1, 0, 2, 4]], known=False)
    assert one.value == two.value == three.value
    with pytest.raises(fut.UsageError):
        run.estimate([], "nonsense")


def test_every_error_is_caught_by_what_is_exported(make_run: MakeRun) -> None:
    run = make_run()
    for asked in ([0, 0], "no such order", [9, 1, 2, 3, 4]):
        with pytest.raises(fut.EXPECTED):
            run.estimate([asked])
    with pytest.raises(fut.OrderError):
        run.order([0])


@pytest.mark.parametrize("given", [[(torch.ones(1),)], ([], []), {"x": torch.ones(1)}], ids=["list", "pair", "mapping"])
def test_data_that_is_no_data_set_is_refused(tmp_path: Path, given: Any) -> None:
    with pytest.raises(fut.UsageError, match=r"expected data as fut.Dataset\(items, probe\), got"):
        fut.train(tmp_path / "run", small_config(), data=given)


@pytest.mark.parametrize("readout", [["probe"], 5, None])
def test_a_read_out_that_is_no_name_is_refused(small_run: fut.Run, readout: Any) -> None:
    with pytest.raises(fut.UsageError, match="expected the name of one read-out"):
        small_run.estimate(["reverse"], readout=readout)

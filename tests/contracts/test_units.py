"""The unit of a loss: nats/token, with a perplexity, of the built-in loss alone; of one's own what its user says, or none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from plain_torch import config
from small import Cli
from torch import Tensor, nn

import fut
from fut.api import render
from fut.estimation.render import estimate as estimate_text
from fut.report.sections.about import describe_run


def squared(module: nn.Module, x: Tensor) -> Tensor:
    return (module(x) - x).square().mean()


def norm(module: nn.Module) -> Tensor:
    return next(module.parameters()).square().sum()


def points(module: nn.Module) -> Tensor:
    return norm(module)


points.unit = "points"  # type: ignore[attr-defined]


def trained(path: Path, unit: str = "") -> fut.Run:
    torch.manual_seed(0)
    x = torch.randn(12, 4, 6)
    return fut.train(
        path / "run",
        config(8, "sgd", schedule={"kind": "constant", "rate": 0.05}, model={"unit": unit}),
        module=nn.Linear(6, 6),
        loss=squared,
        data=fut.Dataset(tuple((x[i],) for i in range(8)), tuple((x[i],) for i in range(8, 12))),
        device="cpu",
        readouts={"norm": norm, "points": points},
    )


@pytest.fixture(scope="module", params=["", "bits/byte", "nats/token"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    run = trained(tmp_path_factory.mktemp("unit"), request.param)
    run.cache()
    return run


def said(run: fut.Run) -> Iterator[str]:
    """Everything that is said to people and to programs about losses of the run."""
    found = run.estimate(["reverse"])
    yield estimate_text(found[0])
    yield json.dumps([e.as_dict() for e in found])
    yield render.info(run.info())
    yield json.dumps(run.info(), default=str)
    yield repr(run.whatif("reverse").as_dict())
    yield json.dumps(run.verify(3, estimators=["adjoint"]).as_dict())
    yield json.dumps(run.endpoint("reverse").as_dict(), default=str)
    yield json.dumps(run.search(evaluations=10, verify=2).as_dict(), default=str)
    yield describe_run(run.context).words[2]
    run.calibrate(4)
    yield estimate_text(run.estimate(["random:3"])[0])
    run.report(run.path / "report.html", samples=4)
    yield (run.path / "report.html").read_text().split("<script")[0]


def test_a_loss_has_the_unit_that_its_user_says_everywhere(run: fut.Run) -> None:
    unit = run.context.config.model.unit
    everything = list(said(run))
    if unit != "nats/token":
        assert [text for text in everything if "nats" in text] == []
        assert [text for text in everything if re.search(r"perplexity[^a-z,\n]{0,12}[0-9]", text)] == []
    else:
        assert "nats/token (perplexity" in everything[0]
        assert "perplexity is exp(loss)" in everything[8]
    assert run.info()["unit"] == (unit or "loss")
    assert run.estimate(["reverse"])[0].unit == (unit or "loss")
    assert unit in everything[0]
    assert not re.search(r"[0-9] loss", everything[0])


def test_a_plain_loss_is_shown_without_a_unit_and_lower_is_better(tmp_path: Path) -> None:
    run = trained(tmp_path)
    run.cache(["adjoint"])
    first, second, _ = estimate_text(run.estimate(["reverse"])[0]).splitlines()
    assert first.split(",")[0] == f"{run.estimate(['reverse'])[0].value:.5f}"
    assert second.endswith("against the reference order (negative is better)")
    assert "of 4 items; lower is better" in describe_run(run.context).words[2]


def test_the_unit_changes_no_number_and_no_identity(run: fut.Run, tmp_path: Path) -> None:
    other = trained(tmp_path)
    assert other.context.manifest.identity == run.context.manifest.identity
    assert other.reference_loss == run.reference_loss


def test_a_read_out_may_say_its_unit(run: fut.Run) -> None:
    units = {c.readout: c.unit for c in run.whatif("reverse", readouts=["norm", "points"], estimator="retrain").changes}
    assert units == {"norm": "", "points": "points"}


def test_a_unit_of_odd_characters_is_refused() -> None:
    with pytest.raises(fut.UsageError, match=r"model\.unit"):
        fut.load_config(model={"unit": "a\x1b[31m"})


def test_the_built_in_loss_keeps_its_unit(small_run: fut.Run, cli: Cli) -> None:
    assert small_run.info()["unit"] == "nats/token"
    assert "nats/token (perplexity" in cli("info", small_run.path).out
    assert "of 4 sequences: in nats/token" in describe_run(small_run.context).words[2]

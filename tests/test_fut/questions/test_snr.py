"""Signal and noise of a run's gradients: modules of known ratio, a recorded training, and what the command draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import shared
from small import Cli, small_config
from torch import Tensor, nn
from user_loops import recorded

import fut
from fut.errors import UsageError
from fut.questions.snr.ask import SnrRequest
from fut.questions.snr.render import text

WIDE, STEPS = 3000, 60
RATIOS = {"head": 0.02, "up": 0.1, "q_proj": 1.0}
NAMES = {"head": "head", "up": "mlp", "q_proj": "qk"}


class Linear(nn.Module):
    """A loss that is linear in the parameters: its gradient is the item itself, wherever they are."""

    def __init__(self) -> None:
        super().__init__()
        for name in RATIOS:
            setattr(self, name, nn.Linear(WIDE, 1, bias=False))

    def forward(self, item: Tensor) -> Tensor:
        return torch.cat([getattr(self, name).weight for name in RATIOS], dim=1) @ item[0]


def linear(module: nn.Module, item: Tensor) -> Tensor:
    return module(item).sum()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """A run whose modules have the ratios above."""
    draw = torch.Generator().manual_seed(0)
    means = [torch.randn(WIDE, generator=draw) for _ in RATIOS]
    mean = torch.cat([m / m.norm() * (ratio * WIDE) ** 0.5 for m, ratio in zip(means, RATIOS.values(), strict=True)])
    items = [(mean[None] + torch.randn(1, 3 * WIDE, generator=draw),) for _ in range(STEPS)]
    config = small_config(
        data={"items": STEPS}, warmup={"steps": 0}, schedule={"rate": 1e-6}, rule={"options": {"betas": [0.9, 0.99]}}
    )
    return fut.train(
        tmp_path_factory.mktemp("known") / "run",
        config,
        module=Linear(),
        loss=linear,
        data=fut.Dataset(items, items[:2], []),
        device="cpu",
    )


def test_known_ratios_are_recovered_within_a_fifth(known: fut.Run) -> None:
    found = known.ask(SnrRequest(points=4, gradients=30))
    assert [point.step for point in found.points] == [15, 30, 45, 60]
    for name, ratio in RATIOS.items():
        own = [point.gradients[NAMES[name]] for point in found.points]
        assert sum(one.ratio for one in own) / len(own) == pytest.approx(ratio, rel=0.2), name
        assert all(one.interval is not None and one.interval[0] < one.ratio < one.interval[1] for one in own)
        moments = found.points[-1].moments[NAMES[name]]
        assert moments.ratio == pytest.approx(ratio, rel=0.2, abs=0.01), name
        assert moments.interval is not None
        assert moments.interval[0] < ratio < moments.interval[1], name
        assert moments.interval[1] - moments.interval[0] < ratio + 0.05, name
    scales = found.scales(found.points[-1])
    assert scales["qk"] == 1.0
    assert scales["head"] > scales["mlp"] > 1.0
    shares = found.points[-1].floor_shares
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares.values()) < 0.5, "noise and preconditioner are alike"
    printed = text(found)
    assert printed.index("qk") < printed.index("mlp") < printed.index("head")


def test_a_step_of_several_items_has_a_share_of_their_noise(tmp_path: Path) -> None:
    data = {"items": 8, "per_step": 2, "batch": 1, "context": 12, "probe": 4}
    run = shared(tmp_path / "run", small_config(data=data), cached=False)
    found = run.ask(SnrRequest(points=1, gradients=8))
    theta = run.context.state(run.steps).theta
    rows = torch.stack([run.context.problem.gradient(theta, item) for item in range(8)]).double()
    noise = sum(one.noise for one in found.points[0].gradients.values())
    assert noise == pytest.approx(float(rows.var(0).sum()) / 2, rel=1e-6)


def test_a_recorded_training_is_asked_like_one_of_its_own(tmp_path: Path) -> None:
    found = recorded(tmp_path / "run").ask(SnrRequest(points=2, gradients=4))
    assert set(found.sizes) == {"other", "norms", "head"}
    assert sum(found.sizes.values()) == 83
    assert set(found.points[-1].moments) == set(found.sizes), "two groups of AdamW"
    assert found.points[-1].floor_shares is not None


def test_a_rule_without_adams_moments_has_none(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(rule={"name": "lion"}), cached=False)
    found = run.ask(SnrRequest(points=1, gradients=4))
    assert found.points[0].moments == {}
    assert found.points[0].floor_shares is None
    assert "–" in text(found)


def test_the_command_draws_and_gives_json(known: fut.Run, own_run: Path, cli: Cli) -> None:
    said = cli("snr", own_run, "--points", 2, "--gradients", 4, "--device", "cpu", "--json")
    assert said.status == 0, said.err
    assert Path(said.json["plot"]).stat().st_size > 10_000
    assert {module for point in said.json["points"] for module in point["modules"]} == set(said.json["sizes"])
    (kept,) = own_run.glob("answers/snr-*.json")
    assert json.loads(kept.read_text())["points"] == said.json["points"]


def test_too_few_gradients_are_refused() -> None:
    for wrong in ({"points": 0}, {"gradients": 2}):
        with pytest.raises(UsageError, match="snr: expected at least 1 point and 3 gradients"):
            SnrRequest(**wrong)

"""Lightning's trainer, recorded by a callback: batches of every kind, accumulation, clipping, a schedule, dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from user_loops import PROBE, batches, replay_error

import fut
from fut.errors import ExtraError, ModelError

lightning = pytest.importorskip("lightning.pytorch", reason="the package lightning is an extra of developers")

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
    automatic_optimization = True

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class ByName(Dataset[dict[str, Tensor]]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"x": self.x[row], "y": self.y[row]}


def data(named: bool) -> Any:
    given = list(batches(24))
    x, y = torch.cat([x for x, _ in given]), torch.cat([y for _, y in given])
    return DataLoader(ByName(x, y) if named else TensorDataset(x, y), batch_size=5, shuffle=True)


def trainer(recorder: fut.Recorder, **settings: Any) -> Any:
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return lightning.Trainer(accelerator="cpu", callbacks=[recorder.callback("lightning")], **quiet, **settings)


@pytest.mark.parametrize("named", [False, True], ids=["tuples", "mappings"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_window_is_replayed_as_it_was(tmp_path: Path, named: bool, dropout: float) -> None:
    torch.manual_seed(0)
    recorder = fut.Recorder(tmp_path / "run", start=2, steps=6)
    trained = trainer(recorder, max_steps=10, accumulate_grad_batches=2, gradient_clip_val=0.4)
    trained.fit(Module(dropout), data(named))
    run = recorder.finish(PROBE if named else [(b["x"], b["y"]) for b in PROBE], device="cpu")
    assert replay_error(run) <= 1e-5
    assert (run.steps, run.items, run.context.problem.rule.clip) == (6, 12, 0.4)
    assert run.context.config.model.noise == ("recorded" if dropout else "content")
    assert run.estimate(["reverse"], "retrain")[0].value != run.reference_loss


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}, "got clipping by value"),
        ({"precision": "bf16-true"}, "got bf16-true"),
    ],
)
def test_trainers_that_are_not_repeated(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    recorder = fut.Recorder(tmp_path / "run", steps=2)
    with pytest.raises(ModelError, match=message):
        trainer(recorder, max_steps=2, **settings).fit(Module(), data(False))


def test_manual_optimization_is_refused(tmp_path: Path) -> None:
    module = Module()
    module.automatic_optimization = False
    with pytest.raises(ModelError, match="got a module that steps its optimizers itself"):
        trainer(fut.Recorder(tmp_path / "run", steps=2), max_steps=2).fit(module, data(False))


def test_a_package_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_lightning", None)
    with pytest.raises(ExtraError, match="pip install pytorch_lightning"):
        fut.Recorder(tmp_path / "run").callback("pytorch_lightning")

"""A `LightningModule`, recorded by a callback: an item is a batch, and its loss what `training_step` returns."""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fut


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))

    def training_step(self, batch):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40), "interval": "step"}
        ]


torch.manual_seed(0)
x = torch.randn(176, 4)
y = x.sum(-1).sign().clamp(min=0).long()
loader = DataLoader(TensorDataset(x[:160], y[:160]), batch_size=8, shuffle=True)

recorder = fut.Recorder("runs/lightning", start=4, steps=16)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
lightning.Trainer(
    accelerator="cpu", max_steps=20, gradient_clip_val=1.0, callbacks=recorder.callback("lightning"), **quiet
).fit(Classifier(), loader)

run = recorder.finish(probe=[(x[i : i + 8], y[i : i + 8]) for i in (160, 168)])
run.cache(["adjoint"])
accuracy = run.verify(orders=12, estimators=["adjoint"]).estimators["adjoint"]
print("Spearman with 12 orders retrained:", accuracy["spearman"])

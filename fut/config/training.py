"""What decides a reference run: data, model, rule, schedule and warm-up, without what is cached about it."""

from __future__ import annotations

from typing import Any

import tomli_w

from fut.config.schema import (
    CheckpointsConfig,
    DataConfig,
    ModelConfig,
    RuleConfig,
    ScheduleConfig,
    Section,
    WarmupConfig,
)


class TrainingConfig(Section):
    """Everything that decides the numbers of a reference run, except the machine."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    rule: RuleConfig = RuleConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    warmup: WarmupConfig = WarmupConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()

    @property
    def steps(self) -> int:
        """T, the number of steps of the window."""
        return self.data.items // self.data.per_step * self.data.epochs

    @property
    def consumed(self) -> int:
        """Items that a training run consumes, each a gradient: T times the items per step."""
        return self.steps * self.data.per_step

    def training(self) -> dict[str, Any]:
        """The part that decides the reference run, ready for JSON; sections that a subclass adds are left out."""
        return self.model_dump(mode="json", include=set(TrainingConfig.model_fields))

    def toml(self) -> str:
        """All sections as TOML, those of a subclass included."""
        return tomli_w.dumps(self.model_dump(mode="json"))

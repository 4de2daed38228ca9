"""How many items and warm-up steps a run has: counted from its data set where the configuration leaves them open."""

from __future__ import annotations

from typing import TypeVar

from fut.config.training import TrainingConfig
from fut.data.dataset import Dataset
from fut.errors import UsageError

C = TypeVar("C", bound=TrainingConfig)


def counted(config: C, data: Dataset | None) -> C:
    """The configuration with the data set's own numbers.

    Args:
        config: `data.items` and `warmup.steps` may be given or left open.
        data: None for a text, which is cut as configured.

    Raises:
        UsageError: where a number is given and is another one, and where items do not divide into steps.
    """
    if data is not None:
        found = {"data": ("items", len(data.items)), "warmup": ("steps", len(data.warmup))}
        for section, (key, count) in found.items():
            part = getattr(config, section)
            if key in part.model_fields_set and getattr(part, key) != count:
                raise UsageError(
                    f"train: expected {section}.{key}={getattr(part, key)}, as configured, got {count} of them in the data set; "
                    f"leave {section}.{key} out, or give the Dataset as many"
                )
            config = config.model_copy(update={section: part.model_copy(update={key: count})})
    if config.data.items % config.data.per_step:
        raise UsageError(
            f"configuration: `data.per_step`: expected a divisor of data.items={config.data.items}, got {config.data.per_step}; "
            "change one of the two"
        )
    return config

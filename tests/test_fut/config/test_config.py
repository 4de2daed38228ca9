"""One configuration: TOML in, flags override, TOML out, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from small import small_config

from fut.errors import UsageError
from fut.methods.settings import Config, load_config, parse_config


def test_a_configuration_survives_toml(tmp_path: Path) -> None:
    config = small_config(rule={"name": "adamw", "options": {"betas": [0.8, 0.9], "clip": 0.5}}, schedule={"rate": 0.1})
    (tmp_path / "c.toml").write_text(config.toml())
    assert load_config(tmp_path / "c.toml") == config
    assert config != Config()


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("data.items=7", "data", "items", 7),
        ("schedule.rate=1", "schedule", "rate", 1.0),
        ("schedule.rate = 1e-4", "schedule", "rate", 1e-4),
        ("data.heterogeneous=true", "data", "heterogeneous", True),
        ("schedule.kind=linear", "schedule", "kind", "linear"),
        ('data.text="a=b.txt"', "data", "text", "a=b.txt"),
        ("rule.options.clip=0.5", "rule", "options", {"clip": 0.5}),
    ],
)
def test_overrides_are_typed_as_in_toml(text: str, section: str, key: str, value: Any) -> None:
    found = getattr(getattr(load_config(None, [text]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_a_file_is_overridden_by_flags_and_flags_by_keywords(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[data]\nitems = 3\nbatch = 3\ncontext = 3\n")
    config = load_config(tmp_path / "c.toml", ["data.batch=4", "data.context=4"], data={"context": 5})
    assert (config.data.items, config.data.batch, config.data.context) == (3, 4, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"itmes": 3}}, r"`data\.itmes`: unknown key; expected one of text, tokenizer, .*items"),
        ({"dat": {}}, "`dat`: unknown key; expected one of data, model, rule, schedule, warmup, checkpoints, cache"),
        ({"data": {"items": "3"}}, r"`data\.items`: .*integer, got '3'"),
        ({"data": {"items": 0}}, r"`data\.items`: .*greater than or equal to 1, got 0"),
        ({"model": {"heads": True}}, r"`model\.heads`"),
        ({"schedule": {"rate": -1.0, "kind": "step"}}, r"`schedule\.kind`.*`schedule\.rate`"),
        ({"schedule": {"rate": float("nan")}}, r"`schedule\.rate`"),
        ({"cache": {"seed": 1 << 70}}, r"`cache\.seed`"),
        ({"data": 3}, "`data`"),
    ],
)
def test_unknown_keys_and_wrong_values_are_all_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_config(values)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().data.items = 3  # type: ignore[misc]


def test_what_is_cached_does_not_decide_the_training() -> None:
    assert small_config(cache={"size": 3}).training() == small_config(cache={"size": 4}).training()
    assert small_config(data={"seed": 3}).training() != small_config(data={"seed": 4}).training()


def test_numbers_of_numpy_are_numbers() -> None:
    config = load_config(
        data={"items": np.int64(12)},
        schedule={"rate": np.float64(0.5)},
        rule={"options": {"betas": np.array([0.5, 0.25])}},
    )
    assert (config.data.items, config.schedule.rate, config.rule.options["betas"]) == (12, 0.5, [0.5, 0.25])
    assert type(config.data.items) is int
    with pytest.raises(UsageError, match=r"`data\.items`: .*integer"):
        load_config(data={"items": np.float64(12.0)})

"""The settings of a configuration: every one described, in the program and on its page."""

from __future__ import annotations

import pytest
from small import Cli

import fut
from fut.methods.described import described, sections
from fut.methods.settings import Config, parse_config


def test_every_setting_says_what_it_means() -> None:
    listed = described()
    assert [s.key for s in listed if len(s.meaning.split()) < 2] == []
    expected = {f"{name}.{key}" for name, part in Config().model_dump().items() for key in part}
    assert {s.key for s in listed} == expected, "every key of a configuration is a setting, and nothing else is"
    assert len(listed) == len(expected)


def test_every_section_says_what_it_is_for() -> None:
    assert set(sections()) == set(Config.model_fields)
    assert [name for name, model in sections().items() if not (model.__doc__ or "").strip()] == []


def test_defaults_and_values_are_those_of_the_fields() -> None:
    found = {s.key: s for s in described()}
    assert (found["data.items"].default, found["data.items"].values) == (32, "whole number, ≥ 1, ≤ 1e+08")
    assert found["schedule.final"].values == "number, ≥ 0, ≤ 1"
    assert found["model.dtype"].values == "float32, float64"
    assert found["data.seed"].values == "whole number, ≥ 0, < 2^63"
    assert found["adjoint.readouts"].default == ["probe"]


def test_the_command_lists_them(cli: Cli) -> None:
    said = cli("settings", "--json").json
    assert said.keys() == {s.key for s in described()}
    assert said["schedule.rate"]["default"] == 1e-3
    text = cli("settings", "schedule").out
    assert "[schedule]" in text
    assert "schedule.rate" in text
    assert "adjoint" not in text
    assert all(len(line) <= 130 for line in cli("settings").out.splitlines())
    refused = cli("settings", "beauty")
    assert (refused.status, "expected one of data, model" in refused.err) == (2, True)


def test_the_command_says_its_version(cli: Cli) -> None:
    assert cli("--version").out == f"fut {fut.__version__}\n"


@pytest.mark.parametrize("key", [s.key for s in described()])
def test_every_default_is_accepted_as_it_is_shown(key: str) -> None:
    section, _, name = key.partition(".")
    value = next(s.default for s in described() if s.key == key)
    config = parse_config({section: {name: value}})
    assert getattr(config, section).model_dump(mode="json")[name] == value

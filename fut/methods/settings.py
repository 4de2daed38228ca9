"""One frozen configuration: TOML in, flags override, canonical fingerprint out, saved beside every run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from estimators.numbers import shown
from fut.artifacts.directory import CONFIG, _sha256, read_manifest
from fut.config.training import TrainingConfig
from fut.errors import UsageError
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.lowrank.config import LowRankConfig
from fut.methods.pairwise.config import CacheConfig
from fut.methods.reweighting.config import ReweightingConfig
from fut.readouts.readout import readout_names, shortened
from fut.spoken import speaks_python
from storage import DamagedError, IdentityError

SHOWN = 8
"""Wrong settings that a message names."""


class Config(TrainingConfig):
    """Everything that decides a run's numbers, except the machine: its training, and a section per method."""

    cache: CacheConfig = CacheConfig()
    adjoint: AdjointConfig = AdjointConfig()
    lowrank: LowRankConfig = LowRankConfig()
    reweighting: ReweightingConfig = ReweightingConfig()


@speaks_python
def load_config(
    path: Path | None = None, overrides: Iterable[str] = (), steps: int | None = None, **sections: dict[str, Any]
) -> Config:
    """Read a TOML file, then apply `section.key=value` overrides (values as in TOML), then keyword sections.

    steps: T, the length of the window: as many items as that takes, and one epoch.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = _toml(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"configuration: expected a readable TOML file, got {path} ({error.strerror})") from error
        except ValueError as error:
            raise UsageError(f"configuration: expected TOML, got {path}: {error}; mend the file") from error
    overrides = list(overrides)
    for text in overrides:
        _override(values, text)
    for section, content in sections.items():
        found = values.setdefault(section, {})
        if isinstance(found, dict):  # else it is named as wrong below
            found.update(content)
    if steps is not None and isinstance(data := values.setdefault("data", {}), dict):
        per_step = data.get("per_step", 1)
        meant = {"items": steps * per_step if isinstance(per_step, int) else steps, "epochs": 1}
        _require_agreement(steps, data, meant, {text.partition("=")[0].strip() for text in overrides})
        data |= meant
    return parse_config(values)


def _toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. ValueError for none: also for numbers of thousands of digits, and lists in lists in lists."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("too many levels of lists and tables") from error


def _require_agreement(steps: int, data: dict[str, Any], meant: dict[str, int], given: set[str]) -> None:
    """UsageError where an override says otherwise than `steps`."""
    for key, value in meant.items():
        if f"data.{key}" in given and data[key] != value:
            raise UsageError(
                f"train: expected data.{key}={value}, as --steps {steps} means, got --set data.{key}={data[key]}; "
                "give one of both"
            )


def read_config(path: Path) -> Config:
    """The configuration of a run directory, byte for byte as the manifest pins it."""
    file = path / CONFIG
    found = _sha256(file.read_bytes()) if file.exists() else "no file"
    expected = read_manifest(path).environment[CONFIG]
    if found != expected:
        raise DamagedError(
            f"{file}: expected the bytes that the manifest pins (sha256 {expected[:12]}…), got {found[:12]}; undo the edit: a "
            "run's configuration is fixed, train another run for another one"
        )
    return load_config(file)


def parse_config(values: dict[str, Any]) -> Config:
    """A validated configuration; every unknown key and wrong value is named."""
    try:
        return Config.model_validate(_plain(values), strict=None)
    except ValidationError as error:
        errors = error.errors()
        more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise UsageError("configuration: " + "; ".join(map(_explain, errors[:SHOWN])) + more) from error


def for_readouts(config: Config, section: str, stored: Any, readouts: Sequence[str] | None, directory: Path) -> Any:
    """A section with what an expansion is made of, for these read-outs if any are named.

    Args:
        config: what holds where nothing is stored.
        section: its name.
        stored: the section as the expansion in `directory` has it; None where there is none.
        readouts: as they are asked for.

    Raises:
        IdentityError: where an expansion is stored without them: it is not thrown away unasked.
    """
    if readouts is None:
        return stored or getattr(config, section)
    if stored is None:
        chosen = getattr(config, section).model_dump(mode="json") | {"readouts": list(readouts)}
        return getattr(parse_config({section: chosen}), section)
    swept, wanted = (readout_names(specs, config.data.items) for specs in (stored.readouts, readouts))
    if set(wanted) <= set(swept):
        return stored
    raise IdentityError(
        f"expansion {directory}: expected an adjoint pass for {shortened(wanted)}, got one for {shortened(swept)}; all read-outs "
        "share one sample of coordinates and one adjoint pass: remove the directory to compute it anew, for all of them"
    )


def adjoint_settings(current: AdjointConfig, settings: Sequence[str]) -> AdjointConfig | None:
    """The expansion's configuration with `adjoint.key=value` settings, None without any; UsageError for other sections."""
    if not settings:
        return None
    if any(not s.strip().startswith("adjoint.") for s in settings):
        raise UsageError(
            f"--set: expected keys of the section `adjoint`, got {', '.join(settings)}; the rest is fixed by the run"
        )
    changed = load_config(None, settings).adjoint.model_dump(mode="json", exclude_unset=True)
    return parse_config({"adjoint": current.model_dump(mode="json") | changed}).adjoint


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy and torch as Python's own, at any depth."""
    if isinstance(value, (np.generic, np.ndarray)) or hasattr(value, "detach"):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "key":
        return f"`{where}.{error['ctx']['key']}`: {error['msg']}, got {error['ctx']['got']}"
    if error["type"] == "weights":
        return f"`{where}`: {error['msg']}"
    if error["type"] != "extra_forbidden":
        return f"`{where}`: {error['msg'].lower()}, got {shown(error['input'])}"
    section = error["loc"][0] if len(error["loc"]) > 1 else None
    model = Config.model_fields[section].annotation if section in Config.model_fields else Config
    known = ", ".join(getattr(model, "model_fields", {}))
    return f"`{where}`: unknown key; expected one of {known}"


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, raw = text.partition("=")
    parts = [p.strip() for p in key.split(".")]
    if not equals or not all(parts) or len(parts) < 2:
        raise UsageError(f"--set: expected section.key=value, got `{text}`; for example schedule.rate=1e-3")
    try:
        value = _toml(f"v = {raw}")["v"]
    except ValueError:
        value = raw.strip()
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UsageError(f"--set: expected `{part}` to be a section, got a value in `{text}`")
    values[parts[-1]] = value

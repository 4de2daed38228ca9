"""Files of another run of the same shape: each is whole, and none is taken for the run's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import replaced
from small import Cli, MakeRun, Said

import fut

PARTS = (
    "checkpoints/step-000000.h5",
    "checkpoints",
    "data",
    "summary.json",
    "config.toml",
    "order.json",
    "adjoint",
    "adjoint/manifest.json",
    "adjoint/sample",
    "adjoint/terms",
    "terms",
    "a chunk of terms",
    "a chunk of adjoint/terms",
    "adjoint-added-001",
    "adjoint-added-001/manifest.json",
    "adjoint-added-001/sample",
    "adjoint-added-001/terms",
    "a chunk of adjoint-added-001/terms",
    "difficulty",
    "calibration",
    "retrained",
    "answers",
    "verification",
)
COMMANDS: dict[str, list[str]] = {
    "check": ["check"],
    "show-batch": ["show-batch", "RUN", "0"],
    "estimate": ["estimate", "RUN", "--order", "3,1,2,0,4"],
    "estimate by terms": ["estimate", "RUN", "--order", "3,1,2,0,4", "--estimator", "replay"],
    "estimate of an added read-out": ["estimate", "RUN", "--order", "3,1,2,0,4", "--readout", "item:3"],
    "sorted": ["estimate", "RUN", "--order", "sort:loss"],
    "known": ["estimate", "RUN", "--order", "reverse"],
    "report": ["report", "RUN", "--samples", "4"],
}
READ = {
    "checkpoints/step-000000.h5": {"check", "estimate", "estimate by terms", "sorted"},
    "checkpoints": {"check", "estimate", "estimate by terms", "sorted"},
    "data": set(COMMANDS),
    "summary.json": set(COMMANDS),
    "config.toml": set(COMMANDS),
    "order.json": set(),  # both runs train in one order, so the files are alike
    "adjoint": {"check", "estimate", "report"},
    "adjoint/manifest.json": {"check", "estimate", "report"},
    "adjoint/sample": {"check", "estimate", "report"},
    "adjoint/terms": {"check", "estimate", "report"},
    "terms": {"check", "estimate by terms"},
    "a chunk of terms": {"check", "estimate by terms"},
    "a chunk of adjoint/terms": {"check", "estimate"},
    "adjoint-added-001": {"check", "estimate of an added read-out"},
    "adjoint-added-001/manifest.json": {"check", "estimate of an added read-out"},
    "adjoint-added-001/sample": {"check", "estimate of an added read-out"},
    "adjoint-added-001/terms": {"check", "estimate of an added read-out"},
    "a chunk of adjoint-added-001/terms": {"check", "estimate of an added read-out"},
    "difficulty": {"check", "sorted"},
    "calibration": {"check", "estimate"},
    "retrained": {"check", "known"},
    "answers": set(),
    "verification": set(),
}
"""What must refuse each part; what else is asked may answer, with the very answer of the sound run."""


@pytest.fixture(scope="module")
def pair(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one shape, on other items, of which the same has been asked."""
    found = []
    for seed in (0, 1):
        made = make_run(data={"seed": seed})
        path = tmp_path_factory.mktemp("pair") / "run"
        shutil.copytree(made.path, path)
        run = fut.open(path, device="cpu")
        run.estimate(["sort:loss"])
        run.calibrate(3)
        run.retrain("reverse")
        run.whatif("swap:0,1")
        run.verify(3)
        run.cache(["adjoint"], readouts=["item:3"])
        found.append(path)
    return found[0], found[1]


@pytest.fixture(scope="module")
def sound(pair: tuple[Path, Path]) -> dict[str, Any]:
    """What the sound run answers."""
    return {}


def asked(cli: Cli, run: Path, name: str) -> Said:
    words = [str(run) if word == "RUN" else word for word in COMMANDS[name]]
    return cli(*(words if len(words) > 1 else [*words, run]), "--json")


def answer(said: Said, name: str) -> Any:
    """What does not depend on where a run lies."""
    content = said.json
    if name == "report":
        return sorted(content["missing"])
    content.pop("seconds", None)
    return {key: value for key, value in content.items() if key not in ("path", "seconds")}


def chunks(store: Path) -> Iterator[Path]:
    """The files of the store's first block, and the entry of its ledger."""
    name = "gradient" if (store / "ledger" / "gradient").exists() else sorted(store.glob("ledger/*"))[0].name
    entry = sorted((store / "ledger" / name).glob("*.json"))[0]
    yield entry.relative_to(store)
    for key in json.loads(entry.read_text())["chunks"]:
        yield (store / "arrays" / name / key).relative_to(store)


@pytest.mark.parametrize("part", PARTS)
def test_a_file_of_another_run_is_refused_by_all_that_read_it(
    pair: tuple[Path, Path], sound: dict[str, Any], tmp_path: Path, cli: Cli, part: str
) -> None:
    mine, other = pair
    run = tmp_path / "run"
    shutil.copytree(mine, run)
    if part.startswith("a chunk of "):
        store = part.removeprefix("a chunk of ")
        for file in chunks(other / store):
            replaced(run / store / file, other / store / file)
    else:
        replaced(run / part, other / part)
    for name in COMMANDS:
        said = asked(cli, run, name)
        assert "unexpected" not in said.err, (name, said.err)
        if name in READ[part]:
            assert said.status == 1, (part, name, said.out)
            continue
        if name not in sound:
            sound[name] = answer(asked(cli, mine, name), name)
        if said.status == 0 and name != "report":
            assert answer(said, name) == sound[name], (part, name)


def test_a_copy_of_a_run_stays_sound(pair: tuple[Path, Path], tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "elsewhere" / "run"
    shutil.copytree(pair[0], run)
    for name in COMMANDS:
        assert asked(cli, run, name).status == 0, name


def test_a_report_names_answers_of_another_run(pair: tuple[Path, Path], tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run"
    shutil.copytree(pair[0], run)
    for part in ("answers", "verification"):
        replaced(run / part, pair[1] / part)
    assert asked(cli, run, "report").status == 0
    assert (run / "report.html").read_text().count("expected a file of this run") >= 2

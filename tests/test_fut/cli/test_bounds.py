"""Numbers without a bound, and names that are no functions of a module: refused with a message before anything is computed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from small import Cli

import fut

TRAIN = ["train", "--out", "NEW", "--device", "cpu"]
REFUSED: dict[str, tuple[list[str], str]] = {
    "warm-up": (
        [*TRAIN, "--set", f"warmup.steps={10**20}"],
        "`warmup.steps`: input should be less than or equal to 1000000",
    ),
    "layers": (
        [*TRAIN, "--set", f"model.layers={2**63}"],
        "`model.layers`: input should be less than or equal to 10000",
    ),
    "both": ([*TRAIN, "--set", "model.layers=9000", "--set", "model.width=960000"], "GiB of memory"),
    "runs": (
        [*TRAIN, "--set", f"adjoint.num_runs={10**8}"],
        "`adjoint.num_runs`: input should be less than or equal to",
    ),
    "blocks": (
        [*TRAIN, "--set", f"cache.item_block={10**9}"],
        "`cache.item_block`: input should be less than or equal to",
    ),
    "epochs": ([*TRAIN, "--set", "data.items=1000000", "--set", "data.epochs=1000"], "of at most 100000000"),
    "eps": ([*TRAIN, "--set", "rule.options.eps=nan"], "expected finite numbers"),
    "clip": ([*TRAIN, "--set", "rule.options.clip=1e400"], "expected finite numbers"),
    "digits": ([*TRAIN, "--set", "data.items=" + "9" * 5000], "`data.items`: input should be a valid integer"),
    "orders": (["calibrate", "RUN", "--orders", "99999"], "expected at most 119 random orders"),
    "more orders": (["verify", "RUN", "--orders", str(10**12)], "expected a whole number of at most 1000000"),
    "edits": (["calibrate", "RUN", "--orders", "99", "--edit", "swap"], "expected at most 25 different edits `swap`"),
    "groups": (["memorize", "RUN", "--groups", str(10**15)], "expected a whole number of at most 1000000"),
    "a step": (["estimate", "RUN", "--order", "swap:0," + "9" * 100_000], "expected `swap:N,N`"),
    "an item": (["memorize", "RUN", "--items", "9" * 100_000], "expected whole numbers from 0"),
    "exit": (["whatif", "RUN", "--swap", "0,1", "--readout", "sys:exit"], "read-out `sys:exit`"),
    "no function of a module": (["whatif", "RUN", "--swap", "0,1", "--readout", "os:getcwd"], "read-out `os:getcwd`"),
    "no function": (
        ["whatif", "RUN", "--swap", "0,1", "--readout", "os:sep"],
        "expected a function or a class, got str",
    ),
    "no module": (["whatif", "RUN", "--swap", "0,1", "--readout", "no.such:thing"], "is it on PYTHONPATH?"),
    "large labels": (["domains", "RUN", "--labels", "DIGITS"], "labels: expected"),
    "deep labels": (["domains", "RUN", "--labels", "BRACKETS"], "levels of lists and objects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_a_message(small_run: fut.Run, tmp_path: Path, cli: Cli, name: str) -> None:
    words, says = REFUSED[name]
    (tmp_path / "digits.json").write_text('{"a": [0, 1, 2], "b": [3, ' + "4" * 100_000 + "]}")
    (tmp_path / "brackets.json").write_text("[" * 100_000)
    places = {"RUN": small_run.path, "NEW": tmp_path / "new", "DIGITS": tmp_path / "digits.json"}
    places["BRACKETS"] = tmp_path / "brackets.json"
    said = cli(*(places.get(word, word) for word in words))
    assert said.status in (1, 2), said.err
    assert says in said.err, said.err[:2000]
    assert len(said.err) < 3000, "a message, not what came"
    assert "unexpected" not in said.err
    assert not (tmp_path / "new" / "data").exists()


def test_a_full_device_behind_standard_output_is_an_error(small_run: fut.Run) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(fut.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    script = "from fut.cli.app import main; main()"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", script, "check", str(small_run.path)]
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


NUMPY: dict[str, tuple[Any, Any]] = {
    "order": (lambda run: run.order(np.arange(5)[::-1]).tolist(), lambda run: run.order([4, 3, 2, 1, 0]).tolist()),
    "tensor": (lambda run: run.order(torch.arange(5)).tolist(), lambda run: run.order([0, 1, 2, 3, 4]).tolist()),
    "repeat": (
        lambda run: run.whatif(run.reference.repeat(np.int64(1), np.int64(3))).as_dict(),
        lambda run: run.whatif(run.reference.repeat(1, 3)).as_dict(),
    ),
    "edits": (
        lambda run: run.whatif(edits=[("swap", np.int64(1), np.uint8(3))]).as_dict(),
        lambda run: run.whatif(edits=[("swap", 1, 3)]).as_dict(),
    ),
    "items": (
        lambda run: run.memorize(items=np.array([1, 2]), groups=np.int64(2)).as_dict(),
        lambda run: run.memorize(items=[1, 2], groups=2).as_dict(),
    ),
    "search": (
        lambda run: run.search(evaluations=np.int64(20), verify=np.int32(0)).order,
        lambda run: run.search(evaluations=20, verify=0).order,
    ),
    "labels": (
        lambda run: run.domains(np.array(["a", "a", "b", "b", "b"])).as_dict()["labels"],
        lambda run: run.domains(["a", "a", "b", "b", "b"]).as_dict()["labels"],
    ),
    "a series": (
        lambda run: run.domains(pandas.Series(["a", "a", "b", "b", "b"])).as_dict()["labels"],
        lambda run: run.domains(["a", "a", "b", "b", "b"]).as_dict()["labels"],
    ),
    "a mapping": (
        lambda run: run.domains({"a": np.arange(2), "b": np.arange(2, 5)}).as_dict()["labels"],
        lambda run: run.domains({"a": [0, 1], "b": [2, 3, 4]}).as_dict()["labels"],
    ),
    "settings": (
        lambda run: fut.load_config(data={"items": np.int64(12)}, schedule={"rate": np.float32(0.5)}).toml(),
        lambda run: fut.load_config(data={"items": 12}, schedule={"rate": 0.5}).toml(),
    ),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numbers_of_numpy_are_numbers(small_run: fut.Run, name: str) -> None:
    """The same answers as for plain ones, which are written to JSON too."""
    numpy, plain = NUMPY[name]
    assert numpy(small_run) == plain(small_run)

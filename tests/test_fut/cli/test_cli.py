"""The command line: one JSON object with --json, units without, and a clear message with the right status on bad input."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from small import Cli, arguments

import fut
from estimators.errors import OrderError
from fut.errors import exit_status

ESTIMATOR_KEYS = {
    "spearman",
    "spearman_interval",
    "pearson",
    "mae",
    "mae_reference",
    "skill",
    "coverage",
    "endpoint_error",
    "seconds_per_order",
    "precompute_gradients",
    "store_bytes",
}
INFO_KEYS = {"steps", "items", "parameters", "reference_loss", "precompute_gradients", "store_bytes"}
CPU = ("--device", "cpu")

COMMANDS: dict[str, tuple[list[str], set[str], list[str]]] = {
    "info": (["info", "RUN"], INFO_KEYS, ["nats/token", "KiB", "parameters"]),
    "cache": (["cache", "RUN", *CPU], INFO_KEYS | {"plan", "repaired"}, ["nats/token"]),
    "check": (["check", "RUN"], {"sound", "damaged"}, ["every checksum is right"]),
    "show-batch": (["show-batch", "RUN", "1"], {"step", "items"}, ["content hash"]),
    "estimate": (
        ["estimate", "RUN", "--order", "swap:1,3", *CPU],
        {"value", "perplexity", "interval", "estimator", "delta"},
        ["nats/token", "perplexity", "no interval"],
    ),
    "endpoint": (
        ["endpoint", "RUN", "--order", "reverse", "--out", "OUT", "--estimator", "taylor1", *CPU],
        {"estimated_loss", "evaluated_loss", "sketch_error", "path", "interval"},
        ["nats/token", "wrote"],
    ),
    "verify": (
        ["verify", "RUN", "--orders", "3", "--seed", "1", *CPU],
        {"estimators", "orders", "retrain_seconds", "true_losses", "estimated_losses"},
        ["nats/token", "s/order", "Spearman"],
    ),
}


def filled(words: list[str], run: Path, out: Path) -> list[str]:
    return [{"RUN": str(run), "OUT": str(out / "m.safetensors"), "NEW": str(out / "new")}.get(w, w) for w in words]


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_object_and_nothing_else(own_run: Path, tmp_path: Path, cli: Cli, name: str) -> None:
    words, keys, _ = COMMANDS[name]
    said = cli(*filled(words, own_run, tmp_path), "--json")
    assert said.status == 0, said.err
    assert keys <= said.json.keys(), f"missing {keys - said.json.keys()}"
    assert said.err == "", "quiet under --json"


@pytest.mark.parametrize("name", COMMANDS)
def test_text_has_units_and_no_bars_off_a_terminal(own_run: Path, tmp_path: Path, cli: Cli, name: str) -> None:
    words, _, units = COMMANDS[name]
    said = cli(*filled(words, own_run, tmp_path))
    assert said.status == 0, said.err
    for unit in units:
        assert unit in said.out, unit
    assert "\r" not in said.err
    with pytest.raises(ValueError, match=r"Expecting value|Extra data"):
        json.loads(said.out)


def test_train_answers_what_it_trained(tmp_path: Path, cli: Cli) -> None:
    said = cli(
        "train",
        "--out",
        tmp_path / "run",
        "--steps",
        "3",
        *CPU,
        "--json",
        *arguments(data={"items": 3}, cache={"size": 10}),
    )
    assert (said.status, said.err) == (0, "")
    assert said.json.keys() >= INFO_KEYS
    assert (said.json["steps"], said.json["items"]) == (3, 3), "--steps wins over --set"
    assert fut.open(tmp_path / "run").context.config.model.width == 8


def test_verify_gives_every_estimator_its_row(own_run: Path, tmp_path: Path, cli: Cli) -> None:
    found = cli("verify", own_run, "--orders", "3", "--plot", tmp_path / "p.png", *CPU, "--json").json
    assert set(found["estimators"]) >= {"reference", "taylor1", "taylor2", "replay", "replay-exact"}
    for name, row in found["estimators"].items():
        assert row.keys() >= ESTIMATOR_KEYS, name
        assert len(found["estimated_losses"][name]) == 3
    assert len(found["orders"]) == len(found["true_losses"]) == 3
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_retrained_order_is_answered_by_its_truth(own_run: Path, cli: Cli) -> None:
    truth = fut.open(own_run, device="cpu").retrain("reverse").loss
    said = cli("estimate", own_run, "--order", "4,3,2,1,0", *CPU, "--json").json
    assert (said["value"], said["source"], said["interval"]) == (truth, "retrained", [truth, truth])
    assert cli("estimate", own_run, "--order", "reverse", "--no-known", *CPU, "--json").json["source"] == "estimate"


@pytest.mark.parametrize("form", ["file", "object", "inline", "spaced"])
def test_an_order_is_a_file_a_list_or_a_name(own_run: Path, tmp_path: Path, cli: Cli, form: str) -> None:
    file = tmp_path / "order.json"
    file.write_text("[4, 3, 2, 1, 0]" if form == "file" else '{"order": [4, 3, 2, 1, 0]}')
    spec = {"inline": "4,3,2,1,0", "spaced": "4, 3, 2, 1, 0"}.get(form, str(file))
    said = cli("estimate", own_run, "--order", spec, *CPU, "--json")
    assert said.json["order"] == fut.open(own_run).order("reverse").digest


def test_an_inline_list_longer_than_a_file_name_is_a_list(own_run: Path, cli: Cli) -> None:
    said = cli("estimate", own_run, "--order", ",".join(["1"] * 300), *CPU)
    assert said.status == 2
    assert "expected at most 5 steps" in said.err


def test_show_batch_prints_the_text_of_the_step(own_run: Path, cli: Cli) -> None:
    run = fut.open(own_run)
    rows = [bytes(row.tolist()).decode() for row in run.context.problem.data.items[4][0]]
    said = cli("show-batch", own_run, 0, "--order", "reverse", "--json").json
    assert [e["item"] for e in said["items"]] == [4]
    assert said["items"][0]["sequences"] == rows
    assert repr(rows[0]) in cli("show-batch", own_run, 0, "--order", "reverse").out


BAD: dict[str, tuple[list[str], int, str]] = {
    "unknown index": (["estimate", "RUN", "--order", "0,1,2,3,9"], 2, "expected items 0..4, got 9"),
    "missing index": (["estimate", "RUN", "--order", "0,1,2,3"], 2, "missing items: 4"),
    "too many": (["estimate", "RUN", "--order", "0,1,2,3,4,0"], 2, "at most 5 steps"),
    "not numbers": (["estimate", "RUN", "--order", "0,,1"], 2, "expected whole numbers"),
    "unknown name": (["estimate", "RUN", "--order", "sideways"], 2, "got `sideways`"),
    "swap out of range": (["estimate", "RUN", "--order", "swap:0,9"], 2, "expected a step 0..4, got 9"),
    "no order file": (["estimate", "RUN", "--order", "nowhere.json"], 2, "readable JSON file, got nowhere.json"),
    "bad JSON": (["estimate", "RUN", "--order", "BADJSON"], 2, "expected a JSON list"),
    "JSON of something": (
        ["estimate", "RUN", "--order", "NUMBER"],
        2,
        "expected a JSON list like [3, 1, 2, 0], got int",
    ),
    "JSON of an object": (["estimate", "RUN", "--order", "OBJECT"], 2, "got dict"),
    "JSON of words": (["estimate", "RUN", "--order", "WORDS"], 2, "expected whole item numbers"),
    "unknown estimator": (["estimate", "RUN", "--order", "reverse", "--estimator", "magic"], 2, "got `magic`"),
    "endpoint into a directory": (["endpoint", "RUN", "--order", "reverse", "--out", ".", *CPU], 2, "the directory ."),
    "unknown in verify": (["verify", "RUN", "--estimators", "magic"], 2, "got magic"),
    "one order": (["verify", "RUN", "--orders", "1"], 2, "expected at least 2 orders, got 1"),
    "unknown device": (["estimate", "RUN", "--order", "reverse", "--device", "abacus"], 2, "got `abacus`"),
    "another device": (["estimate", "RUN", "--order", "reverse", "--device", "meta"], 2, "got `meta`"),
    "step out of range": (["show-batch", "RUN", "5"], 2, "expected a step 0..4, got 5"),
    "existing run": (["train", "--out", "RUN", *arguments()], 2, "holds a finished run"),
    "missing run": (["info", "NEW"], 1, "expected a run directory"),
    "missing run checked": (["check", "NEW"], 1, "expected a run directory"),
    "unknown key": (
        ["train", "--out", "NEW", "--set", "data.itmes=3"],
        2,
        "`data.itmes`: unknown key; expected one of",
    ),
    "unknown section": (["train", "--out", "NEW", "--set", "date.items=3"], 2, "`date`: unknown key"),
    "wrong type": (["train", "--out", "NEW", "--set", "model.width=wide"], 2, "got 'wide'"),
    "no equals": (["train", "--out", "NEW", "--set", "model.width"], 2, "expected section.key=value"),
    "infinite rate": (["train", "--out", "NEW", "--set", "warmup.rate=inf"], 2, "finite number"),
    "huge seed": (["train", "--out", "NEW", "--set", "model.seed=99999999999999999999"], 2, "model.seed"),
    "unknown rule": (["train", "--out", "NEW", "--set", "rule.name=magic"], 2, "magic"),
    "odd heads": (["train", "--out", "NEW", *arguments(model={"heads": 3})], 2, "width divisible by heads"),
    "no config": (["train", "--out", "NEW", "--config", "nowhere.toml"], 2, "readable TOML file, got nowhere.toml"),
    "bad TOML": (["train", "--out", "NEW", "--config", "BADTOML"], 2, "expected TOML"),
    "flat TOML": (["train", "--out", "NEW", "--config", "FLATTOML"], 2, "`data`"),
    "no text": (["train", "--out", "NEW", "--text", "nowhere.txt"], 1, "readable file, got nowhere.txt"),
    "short text": (["train", "--out", "NEW", "--text", "SHORT"], 1, "text too short: expected at least"),
    "not UTF-8": (["train", "--out", "NEW", "--text", "BINARY"], 1, "expected UTF-8"),
    "no tokenizer": (["train", "--out", "NEW", "--set", "data.tokenizer=no.such:thing"], 2, "is it on PYTHONPATH?"),
    "cache of the rest": (
        ["cache", "RUN", "--set", "data.items=3"],
        2,
        "expected keys of the sections `cache` and `adjoint`",
    ),
    "cache of another": (["cache", "RUN", "--set", "cache.size=7", *CPU], 1, "cache.size"),
    "NaN": (["train", "--out", "NEW", *CPU, *arguments(schedule={"rate": 1e30})], 1, "expected a finite loss, got nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_message_and_a_status(own_run: Path, tmp_path: Path, cli: Cli, case: str) -> None:
    for name, content in {
        "BADJSON": b"[1, 2,",
        "NUMBER": b"3",
        "WORDS": b'["a"]',
        "OBJECT": b'{"items": [0]}',
        "BADTOML": b"= 3",
        "FLATTOML": b"data = 3",
        "SHORT": b"too short",
        "BINARY": b"\xff\xfe\x00text",
    }.items():
        (tmp_path / name).write_bytes(content)
    words, status, message = BAD[case]
    files = {
        n: str(tmp_path / n) for n in ("BADJSON", "NUMBER", "WORDS", "OBJECT", "BADTOML", "FLATTOML", "SHORT", "BINARY")
    }
    said = cli(*(files.get(w, w) for w in filled(words, own_run, tmp_path)))
    assert said.status == status, said.err
    assert message in said.err + said.out, said.err
    assert "Traceback" not in said.err
    if words[0] != "check":
        assert said.out == ""


@pytest.mark.parametrize("name", ["magic", "taylor1:magic=1", "taylor1:moments=magic"])
def test_a_wrong_estimator_is_refused_even_where_the_truth_is_known(own_run: Path, cli: Cli, name: str) -> None:
    fut.open(own_run, device="cpu").retrain("reverse")
    said = cli("estimate", own_run, "--order", "reverse", "--estimator", name, *CPU)
    assert said.status == 2, said.out
    assert "magic" in said.err


@pytest.mark.parametrize("file", ["manifest.json", "summary.json", "config.toml"])
def test_a_damaged_small_file_is_named(own_run: Path, cli: Cli, file: str) -> None:
    (own_run / file).write_bytes(b"{ half of what it w")
    for command in (["info", own_run], ["estimate", own_run, "--order", "reverse", *CPU], ["check", own_run]):
        said = cli(*command)
        assert said.status in (1, 2), command
        assert file in said.err + said.out
        assert "Traceback" not in said.err


def test_every_message_has_three_parts_and_every_kind_its_status(own_run: Path, cli: Cli) -> None:
    said = cli("estimate", own_run, "--order", "0,1,2,3,9")
    assert said.err.startswith("fut: order: expected ")
    assert "got" in said.err
    assert ";" in said.err
    assert exit_status(fut.UsageError()) == 2
    assert exit_status(fut.NotCachedError()) == exit_status(fut.DataError()) == 1


def test_the_installed_entry_point_keeps_standard_output_clean(
    own_run: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start_python(
        "from fut.cli.app import main; main()", "estimate", own_run, "--order", "swap:0,1", "--json", *CPU
    )
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["value"] > 0
    process = start_python("from fut.cli.app import main; main()", "info", os.devnull)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("fut: run: expected a run directory")


@pytest.mark.parametrize("wrong", ["reverse", Path("order.json")])
def test_one_order_in_place_of_a_list_is_refused_with_the_list_to_write(small_run: fut.Run, wrong: Any) -> None:
    with pytest.raises(OrderError, match="expected a list of orders, got one"):
        small_run.estimate(wrong)


@pytest.mark.parametrize("wrong", [3, None, 2.5])
def test_an_order_that_is_no_order_is_refused(small_run: fut.Run, wrong: Any) -> None:
    with pytest.raises(OrderError, match="expected a name, a path, a list of items or an Order"):
        small_run.order(wrong)


def test_an_inline_list_may_have_brackets(small_run: fut.Run) -> None:
    assert small_run.order("[4, 3, 2, 1, 0]") == small_run.order("4,3,2,1,0") == small_run.order("reverse")


@pytest.mark.parametrize(("setting", "meant"), [("data.items=4", "data.items=3"), ("data.epochs=2", "data.epochs=1")])
def test_steps_and_a_setting_that_differ_are_refused(tmp_path: Path, cli: Cli, setting: str, meant: str) -> None:
    said = cli("train", "--out", tmp_path / "run", "--steps", 3, "--set", setting)
    assert said.status == 2
    assert f"expected {meant}, as --steps 3 means, got --set {setting}" in said.err
    assert not (tmp_path / "run").exists()


def test_steps_and_a_setting_that_agree_are_taken(tmp_path: Path, cli: Cli) -> None:
    same = ("--steps", 3, "--set", "data.items=3", "--set", "data.epochs=1")
    said = cli("train", "--out", tmp_path / "run", *arguments(), *same, "--device", "cpu", "--json")
    assert said.status == 0, said.err
    assert said.json["steps"] == 3


BROKEN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, vocabulary, context):
        super().__init__()
        self.inner = nn.Linear(7, vocabulary)

    def forward(self, ids):
        return self.inner(ids.float())

def lossy(module, tokens):
    raise KeyError("nothing here")
"""


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.factory=broken_net:Net", ("RuntimeError: mat1 and mat2", "broken_net.py, line 11")),
        ("model.loss=broken_net:lossy", ("KeyError: 'nothing here'", "broken_net.py, line 14")),
    ],
)
def test_an_error_in_the_users_forward_pass_is_one_line_with_its_place(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, setting: str, words: tuple[str, str]
) -> None:
    (tmp_path / "broken_net.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    said = cli("train", "--out", "run", *arguments(), "--set", setting, "--device", "cpu")
    assert said.status == 1
    for word in (*words, "mend the forward pass"):
        assert word in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not Path("run").exists()


def test_the_baselines_note_asks_for_no_calibration(own_run: Path, cli: Cli) -> None:
    said = cli("estimate", own_run, "--order", "reverse", "--estimator", "reference", "--device", "cpu", "--json")
    assert "calibrate" not in said.json["note"]
    assert said.json["interval"] is None


def test_both_doors_take_the_calibration_of_single_edits(own_run: Path, cli: Cli) -> None:
    run = fut.open(own_run, device="cpu")
    run.calibrate(4)
    run.calibrate(4, edit="swap")
    for order in ("swap:0,3", "random:5"):
        (own,) = run.estimate([order], known=False)
        said = cli("estimate", own_run, "--order", order, "--no-known", *CPU, "--json").json
        assert ("one `swap` away" in own.note) == (order == "swap:0,3")
        assert said == json.loads(json.dumps(own.as_dict())), order

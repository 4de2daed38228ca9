"""A bank of retrained orders: kept once, by any number of processes, and read again for any question."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from same_files import endpoints
from small import ASKED, Cli, MakeRun, flip

import fut
from fut.artifacts.directory import RETRAINED
from fut.estimation.calibration_orders import fresh_orders
from fut.questions.bank import BankRequest
from fut.training.trainer import train_order_at
from storage import CheckpointStore

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def path(small_run: fut.Run, tmp_path: Path) -> Path:
    """A copy of a cached run of which nobody has asked anything."""
    return Path(shutil.copytree(small_run.path, tmp_path / "run", ignore=ASKED))


def opened(path: Path) -> fut.Run:
    return fut.open(path, device="cpu")


def refuse(*arguments: Any, **options: Any) -> None:
    raise AssertionError("an order was trained")


def test_it_keeps_what_retraining_gives_and_goes_on_where_it_stopped(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = opened(path), list[Any]()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        return train_order_at(*arguments, **options)

    monkeypatch.setattr("fut.methods.context.train_order_at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.orders.bank(4, seed=7)
    assert len(endpoints(run)) == 2
    monkeypatch.undo()
    bank = opened(path).orders.bank(4, seed=7)
    assert (bank.trained, len(bank.orders)) == (2, 4)
    plain = opened(Path(shutil.copytree(path, tmp_path / "plain", ignore=ASKED)))
    assert [one.loss for one in bank.orders] == [plain.retrain(one.order).loss for one in bank.orders]
    assert [one.value for one in bank.orders] == [one.loss for one in bank.orders]
    assert endpoints(opened(path)) == endpoints(plain)


def test_every_later_question_finds_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(path)
    bank = run.orders.bank(4, seed=0)
    monkeypatch.setattr("fut.methods.context.train_order_at", refuse)
    assert run.verify(4, estimators=["taylor1"]).true_losses == [one.loss for one in bank.orders]
    assert run.verify(4, estimators=["taylor1"], readout="item:1").readout == "item:1"
    assert run.orders.bank(3).trained == 0
    with pytest.raises(AssertionError, match="an order was trained"):
        run.orders.bank(5)


def test_a_read_out_that_is_asked_for_later_is_evaluated_at_the_kept_endpoints(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(path)
    run.orders.bank(3, seed=2)
    about = run.context.readouts.get("item:2")
    truths = {order.digest: run.context.retrained.find(order) for order, _ in run.context.retrained.losses()}
    monkeypatch.setattr("fut.methods.context.train_order_at", refuse)
    bank = opened(path).orders.bank(readout="item:2")
    assert len(bank.orders) == len(truths) == 3
    for one in bank.orders:
        truth = truths[one.digest]
        assert truth is not None
        assert (one.loss, one.value) == (truth.loss, about.value(truth.theta))
        assert one.value != one.loss
    early = opened(path).orders.bank(readout="probe@2")
    assert [one.value for one in early.orders] == [None] * 3, "which no training has reached"


def test_parts_are_every_nth_order_and_make_up_the_whole(path: Path) -> None:
    run = opened(path)
    whole = fresh_orders(run.reference, run.context.problem.canonical, 5, 3, ())
    parts = [[one.digest for one in run.orders.bank(5, 3, part=f"{i}/3").orders] for i in (1, 2, 3)]
    assert parts == [[order.digest for order in whole[i::3]] for i in range(3)]
    assert run.orders.bank(5, 3).trained == 0


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(fut.UsageError, match="as 2/8, the second of eight parts"):
        BankRequest(4, part=part)
    with pytest.raises(fut.UsageError, match="0 orders or more"):
        BankRequest(-1)


COMMAND = (
    "import sys\nimport fut.cli.app as app\n"
    "sys.argv = ['fut', 'bank', *sys.argv[1:], '--orders', '6', '--seed', '7', '--device', 'cpu', '--json']\napp.main()\n"
)


@pytest.mark.slow
def test_processes_train_parts_at_once_and_the_same_orders_too(path: Path, tmp_path: Path, start_python: Start) -> None:
    plain = opened(Path(shutil.copytree(path, tmp_path / "plain", ignore=ASKED)))
    plain.orders.bank(6, 7)
    running = [start_python(COMMAND, path, *more) for more in (("--part", "1/2"), ("--part", "2/2"), ())]
    said = [process.communicate(timeout=PATIENCE) for process in running]
    assert [process.returncode for process in running] == [0] * 3, said
    found = [json.loads(out) for out, _ in said]
    assert [len(one["orders"]) for one in found] == [3, 3, 6]
    assert endpoints(opened(path)) == endpoints(plain)
    assert opened(path).check() == []
    assert not list(path.rglob("*.part"))


def test_a_truth_that_another_process_kept_meanwhile_stays(path: Path) -> None:
    run = opened(path)
    order = run.order("reverse")
    found = run.retrain(order)
    (file,) = (path / RETRAINED).rglob("*.h5")
    before = file.read_bytes()
    run.context.retrained.keep(order, found)
    assert file.read_bytes() == before


# --- truths of other directories


def test_truths_of_a_copy_of_the_run_are_taken(path: Path, tmp_path: Path, cli: Cli) -> None:
    other = Path(shutil.copytree(path, tmp_path / "other"))
    mine, theirs = opened(path).orders.bank(3, 1), opened(other).orders.bank(5, 1)
    assert (mine.trained, theirs.trained) == (3, 5)
    said = cli("bank", path, "--from", other, "--device", "cpu", "--json")
    assert (said.json["copied"], said.json["known"]) == (2, 3)
    assert endpoints(opened(path)) == endpoints(opened(other))
    names = [sorted(str(f.relative_to(p)) for f in (p / RETRAINED).rglob("*.h5")) for p in (path, other)]
    assert names[0] == names[1]
    assert opened(path).check() == []
    again = cli("bank", path, "--from", other, "--device", "cpu")
    assert "0 truths copied, 5 were here already" in again.out


def test_what_is_not_of_the_run_is_refused_by_name_and_nothing_is_taken(
    path: Path, tmp_path: Path, make_run: MakeRun
) -> None:
    run = opened(path)
    stranger = make_run(cached=False, data={"probe": 3})
    stranger.retrain("reverse")
    with pytest.raises(fut.IdentityError, match=r"expected a file of this run in .*step-000005\.h5"):
        run.orders.bank(source=stranger.path)
    with pytest.raises(fut.MissingError, match="expected a directory of retrained orders"):
        run.orders.bank(source=tmp_path / "nowhere")
    other = Path(shutil.copytree(path, tmp_path / "other"))
    opened(other).orders.bank(3)
    files = sorted((other / RETRAINED).rglob("*.h5"))
    flip(files[2], files[2].stat().st_size // 2)
    with pytest.raises(fut.DamagedError, match=re.escape(files[2].parent.name)):
        run.orders.bank(source=other)
    files[2].unlink()
    files[1].parent.rename(files[1].parent.with_name("0" * 32))
    with pytest.raises(fut.DamagedError, match=r"truth about the order that .*0{32}.* is named by, got another"):
        run.orders.bank(source=other)
    shutil.rmtree(other / RETRAINED)
    (other / RETRAINED).symlink_to(tmp_path)
    with pytest.raises(fut.DamagedError):
        run.orders.bank(source=other)
    assert endpoints(run) == {}


# --- the command


def test_orders_of_a_file_come_first_and_each_is_trained_once(path: Path, tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text('reverse\n\n[4, 3, 2, 1, 0]\n{"order": "random:3"}\n"swap:0,1"\n')
    words = ("--file", file, "--orders", 1, "--device", "cpu")
    said = cli("bank", path, *words, "--json")
    assert said.json["trained"] == 4
    run = opened(path)
    named = [run.order(spec).digest for spec in ("reverse", "random:3", "swap:0,1")]
    assert [one["digest"] for one in said.json["orders"]][:3] == named
    again = cli("bank", path, *words)
    assert "4 orders, 4 of them kept already; retraining 0 orders of 5 steps, 0 gradients" in again.err
    assert "4 retrained orders" in again.out
    file.write_text('{"edits": [["swap", 0, 1]]}\n')
    assert "expected an order in every line" in cli("bank", path, *words).err


def test_without_orders_all_are_listed_and_what_the_run_is_says_how_many(path: Path, cli: Cli) -> None:
    assert cli("bank", path, "--device", "cpu").out.strip() == "0 retrained orders"
    assert "truths:" not in cli("info", path).out
    run = opened(path)
    run.retrain("reverse")
    run.context.retrain(run.order("random:1"), at=(2,))
    listed = cli("bank", path, "--readout", "item:1", "--device", "cpu")
    assert "2 retrained orders" in listed.out, "first steps of an order are none"
    assert "item:1 [nats/token]" in listed.out
    assert listed.err == "", "nothing is trained"
    assert "truths: 3 retrained orders are kept; `fut bank RUN` lists them" in cli("info", path).out
    bank = run.orders.bank()
    assert "2 retrained orders" in repr(bank)
    assert bank.plot().get_xlabel() == "probe [nats/token]"


def test_a_bank_is_whole_files(path: Path) -> None:
    """What another process reads while one is kept is all of it or nothing."""
    run = opened(path)
    run.orders.bank(2)
    for directory in sorted((path / RETRAINED).iterdir()):
        assert CheckpointStore(directory, run.context.owner).check() == []
        assert [file.suffix for file in directory.iterdir()] == [".h5"]

"""Orders in files, written and read, and logs of trainings compared with orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import Cli
from torch.utils.data import DataLoader, TensorDataset

import fut
from estimators.errors import OrderError
from estimators.orders.order import Order, random_order
from fut.orders.checking import Obedience, check_log
from fut.orders.files import read_order_file, write_order_file

PAIRS = Order.of([[0, 1], [2, 3], [4, 5]])
ORDERS = [Order.of([2, 0, 1]), Order.of([[3, 0], [5, 2], [4, 1]])]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".npy", ".uint32", ".u32", ".bin"])
@pytest.mark.parametrize("order", ORDERS)
def test_an_order_comes_back_from_its_file(order: Order, suffix: str, tmp_path: Path) -> None:
    reference = Order.of([sorted(step) for step in [[0], [1], [2]]]) if len(order.steps[0]) == 1 else PAIRS
    path = write_order_file(tmp_path / f"order{suffix}", order)
    assert Order.of(read_order_file(path, reference)) == order


def test_files_are_what_their_readers_expect(tmp_path: Path) -> None:
    order = ORDERS[1]
    bare = write_order_file(tmp_path / "global_indices.uint32", order)
    assert np.memmap(bare, mode="r", dtype=np.uint32).tolist() == [3, 0, 5, 2, 4, 1]
    assert np.load(write_order_file(tmp_path / "a.npy", order)).tolist() == order.tolist()
    lines = write_order_file(tmp_path / "a.jsonl", order).read_text().splitlines()
    assert json.loads(lines[1]) == {"step": 1, "indices": [5, 2]}
    rows = write_order_file(tmp_path / "rows.u32", Order.of([2, 0]), samples=2)
    assert np.fromfile(rows, "<u4").tolist() == [4, 5, 0, 1]
    uneven = Order.of([[0, 1], [2]])
    assert Order.of(read_order_file(write_order_file(tmp_path / "b.npy", uneven), uneven)) == uneven
    bare.rename(tmp_path / "global_indices.npy")  # as OLMo names it, without a head
    assert Order.of(read_order_file(tmp_path / "global_indices.npy", PAIRS)) == order


def test_weights_survive_lines_alone(tmp_path: Path) -> None:
    order = Order.of([{"items": [0, 1], "weights": [1, 0.5]}, 2])
    for suffix in (".json", ".jsonl"):
        assert Order.of(read_order_file(write_order_file(tmp_path / f"w{suffix}", order), order)) == order
    with pytest.raises(OrderError, match="equal weight"):
        write_order_file(tmp_path / "w.npy", order)


def test_files_that_are_no_orders_say_why(tmp_path: Path) -> None:
    def refused(name: str, content: bytes, message: str, reference: Order = PAIRS) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OrderError, match=message):
            read_order_file(tmp_path / name, reference)

    def numbers(*values: int) -> bytes:
        return np.array(values, dtype="<u4").tobytes()

    refused("a.u32", numbers(0, 1, 2), "expected 6 indices, what 3 steps consume, got 3")
    refused("b.u32", numbers(0, 1, 2, 3, 4, 4), "without 5 and with 4 beside")
    refused("c.u32", b"12345", "numbers of 4 bytes each")
    refused("d.npy", b"\x93NUMPY", "expected an array of numpy")
    refused("e.jsonl", b'{"step": 0, "indices": [1]}\n{"step', "line 2")
    refused("f.jsonl", b'{"step": 3, "indices": [1]}\n', "got step 3 in place of 0")
    refused("g.jsonl", b'{"batch": 3}\n', "expected lines like")
    refused("h.json", b'{"a": 1}', "expected a JSON list")
    np.save(tmp_path / "i.npy", np.array([0.5, 1]))
    with pytest.raises(OrderError, match="expected whole numbers"):
        read_order_file(tmp_path / "i.npy", PAIRS)
    np.save(tmp_path / "j.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(OrderError, match="expected an array of numpy"):
        read_order_file(tmp_path / "j.npy", PAIRS)
    with pytest.raises(OrderError, match="expected a readable file"):
        read_order_file(tmp_path / "none.jsonl", PAIRS)
    with pytest.raises(OrderError, match=r"ends in \.json"):
        write_order_file(tmp_path / "order.txt", PAIRS)


def test_a_file_is_an_order_wherever_one_is_named(small_run: fut.Run, cli: Cli, tmp_path: Path) -> None:
    order = small_run.order("random:7")
    for suffix in (".jsonl", ".npy", ".uint32"):
        said = cli("write-order", small_run.path, "--order", "random:7", "--out", tmp_path / f"o{suffix}", "--json")
        assert said.json == {"path": str(tmp_path / f"o{suffix}"), "steps": 5, "order": order.digest}
        path = tmp_path / f"o{suffix}"
        assert small_run.order(path) == small_run.order(str(path)) == order
        assert cli("estimate", small_run.path, "--order", path, "--json").json["order"] == order.digest
        assert small_run.estimate([path])[0].order == order.digest
    said = cli("write-order", small_run.path, "--out", tmp_path / "o.txt")
    assert (said.status, "rename it" in said.err) == (2, True)


def trained(order: Order, path: Path, rows: int = 12) -> None:
    """A training loop that logs what it consumes, in micro-batches of two lines a step."""
    loader = DataLoader(TensorDataset(torch.arange(rows)), batch_sampler=order.batch_sampler())
    with path.open("w") as log:
        for step, (batch,) in enumerate(loader):
            for part in batch.split(1):
                log.write(json.dumps({"step": step, "indices": part.tolist()}) + "\n")


def test_a_loop_that_obeys_is_told_so(tmp_path: Path) -> None:
    trained(ORDERS[1], tmp_path / "log.jsonl")
    found = check_log(tmp_path / "log.jsonl", ORDERS[1])
    assert found.obeyed
    assert "obeyed: the log has what the order says in each of 3 steps" in repr(found)
    other = check_log(tmp_path / "log.jsonl", PAIRS)
    assert not other.obeyed
    assert other.first is not None
    assert (other.first.step, other.first.expected, other.first.logged) == (0, [0, 1], [0, 3])
    assert (other.differing, other.missing_count, other.added_count) == (3, 0, 0)
    assert "in another order" in other.text()


@pytest.mark.parametrize(
    "form", ["flat.txt", "flat.json", "steps.json", "flat.jsonl", "two.npy", "flat.npy", "flat.u32"]
)
def test_all_forms_of_a_log_say_the_same(form: str, tmp_path: Path) -> None:
    order = random_order(PAIRS, 4)
    steps = [list(step) for step in order.steps]
    steps[1], steps[2] = [steps[1][0], 9], steps[2][::-1]
    flat, path = [i for step in steps for i in step], tmp_path / form
    if form.endswith(".npy"):
        np.save(path, np.array(steps if form == "two.npy" else flat))
    elif form.endswith(".u32"):
        path.write_bytes(np.array(flat, dtype="<u4").tobytes())
    elif form == "flat.jsonl":
        path.write_text("\n".join(map(str, flat)))
    else:
        path.write_text(
            " ".join(map(str, flat)) if form == "flat.txt" else json.dumps(steps if "steps" in form else flat)
        )
    found = check_log(path, order)
    lost = order.steps[1][1]
    assert (found.differing, found.logged_steps, found.missing, found.added) == (1, 3, [lost], [9])
    assert found.first is not None
    assert found.first.step == 1
    assert f"missing in the log, or there less often: {lost}" in found.text()


def test_logs_that_are_short_long_or_begin_earlier(tmp_path: Path) -> None:
    def check(entries: list[list[int]], first: int = 0, **options: Any) -> Obedience:
        lines = [json.dumps({"step": first + t, "indices": step}) for t, step in enumerate(entries)]
        (tmp_path / "log.jsonl").write_text("\n".join(lines))
        flat = [i for step in entries for i in step]
        (tmp_path / "log.u32").write_bytes(np.array(flat, dtype="<u4").tobytes())
        found = check_log(tmp_path / "log.jsonl", PAIRS, **options)
        if first == 0:
            assert check_log(tmp_path / "log.u32", PAIRS, **options) == found
        return found

    right = [list(step) for step in PAIRS.steps]
    short = check(right[:2])
    assert (short.obeyed, short.differing, short.missing, short.first and short.first.step) == (False, 1, [4, 5], 2)
    longer = check([*right, [0, 1]])
    assert (longer.obeyed, longer.added, longer.steps, longer.logged_steps) == (False, [0, 1], 3, 4)
    assert check([*right, [0, 1]], later=False).obeyed
    assert check([[7, 7], [8, 8], *right], start=2).obeyed
    assert check(right, first=400, start=400).obeyed
    assert not check([]).obeyed
    with pytest.raises(OrderError, match="say where the window begins"):
        check(right, first=400)
    with pytest.raises(OrderError, match="a step from 0"):
        check(right, start=-1)


def test_samples_of_items_are_compared_row_by_row(tmp_path: Path) -> None:
    order = Order.of([2, 0, 1])
    write_order_file(tmp_path / "rows.npy", order, samples=4)
    assert check_log(tmp_path / "rows.npy", order, samples=4).obeyed
    rows = np.load(tmp_path / "rows.npy")
    rows[1, 3], rows[2, 0] = rows[2, 0], rows[1, 3]
    np.save(tmp_path / "rows.npy", rows)
    found = check_log(tmp_path / "rows.npy", order, samples=4)
    assert (found.differing, found.missing_count) == (2, 0)


@pytest.mark.parametrize("content", ["1 2 x", '[1, "a"]', "[-1]", '{"step": 0}', "1.5 2", "[null]"])
def test_logs_that_are_none_are_refused(content: str, tmp_path: Path) -> None:
    for name in ("log.txt", "log.jsonl"):
        (tmp_path / name).write_text(content)
        with pytest.raises(OrderError, match=r"expected .* got"):
            check_log(tmp_path / name, PAIRS)


def test_the_command_says_it_and_exits_with_one(small_run: fut.Run, cli: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    small_run.orders.write("random:7", log)
    said = cli("check-order", small_run.path, log, "--order", "random:7")
    assert (said.status, said.out.splitlines()[0]) == (
        0,
        "obeyed: the log has what the order says in each of 5 steps",
    )
    said = cli("check-order", small_run.path, log, "--json")
    assert said.status == 1
    assert said.json["obeyed"] is False
    assert said.json == json.loads(json.dumps(small_run.orders.check(log).as_dict()))
    said = cli("check-order", small_run.path, tmp_path / "none.jsonl")
    assert (said.status, "expected a readable file" in said.err) == (2, True)

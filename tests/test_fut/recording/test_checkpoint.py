"""Windows that begin at a checkpoint: against a Trainer that resumed from it, and against a loop that went on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import PROBE, gpt2, lora, recording, rows, stacked
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from transformers import Trainer, TrainingArguments, get_scheduler
from user_loops import PROBE as OWN_PROBE
from user_loops import adamw, batches, net

import fut
from fut.errors import DataError, ModelError, UntrustedError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

ACCUMULATE, FIRST, STEPS, CLIP = 2, 4, 6, 0.05


def linear(optimizer: Any) -> Any:
    return get_scheduler("linear", optimizer, 2, 12)


class Logging:
    """A collator that notes the rows of every batch that it makes."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, given: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.seen.append([int(row["number"]) for row in given])
        return collate(given)


def collate(given: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return stacked([{name: value for name, value in row.items() if name != "number"} for row in given])


def numbered(count: int) -> list[dict[str, Tensor]]:
    """Rows of which different numbers of targets count."""
    given: list[dict[str, Any]] = []
    for number, row in enumerate(rows(count)):
        place = torch.arange(len(row["labels"]))
        given.append({**row, "labels": row["labels"].where(place < 4 + number % 6, -100), "number": number})
    return given


def trainer(out: Path, make: Callable[[], nn.Module], collator: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=ACCUMULATE,
        max_grad_norm=CLIP,
        learning_rate=3e-3,
        lr_scheduler_type="linear",
        warmup_steps=2,
        weight_decay=0.1,
        max_steps=12,
        save_steps=2,
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    return Trainer(model=make(), args=arguments, train_dataset=numbered(48), data_collator=collator)


@pytest.fixture(scope="module", params=[gpt2, lora], ids=["gpt2", "lora"])
def resumed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of checkpoints, and the rows of every micro-batch after the fourth step of a Trainer that was resumed there."""
    out: Path = tmp_path_factory.mktemp("trainer")
    trainer(out, request.param, collate).train()
    for later in out.glob("checkpoint-*"):
        if int(later.name.rpartition("-")[2]) > FIRST:
            shutil.rmtree(later)
    log = Logging()
    trainer(out, request.param, log).train(resume_from_checkpoint=str(out / f"checkpoint-{FIRST}"))
    parts = log.seen[: ACCUMULATE * STEPS]
    order = [parts[k : k + ACCUMULATE] for k in range(0, len(parts), ACCUMULATE)]
    return out, order, request.param


def taken_up(resumed: Any, path: Path, **changed: Any) -> fut.Recorder:
    out, order, make = resumed
    given: dict[str, Any] = {"model": make(), "data": numbered(48), "order": order, "collate": collate, "clip": CLIP}
    return fut.Recorder.from_checkpoint(out / f"checkpoint-{FIRST}", path, **{**given, "scheduler": linear, **changed})


def test_it_trains_as_the_resumed_trainer_did(resumed: Any, tmp_path: Path) -> None:
    out = resumed[0]
    recorder = taken_up(resumed, tmp_path / "run")
    for later in (FIRST + 2, FIRST + STEPS):
        recorder.expect(out / f"checkpoint-{later}")
    run = recorder.finish(PROBE, device="cpu")
    errors = recording(run)["replay_errors"]
    assert sorted(errors) == ["2", "6"]
    assert max(errors.values()) <= 1e-5
    assert (run.steps, run.items, recording(run)["first_step"]) == (STEPS, ACCUMULATE * STEPS, FIRST)
    assert run.estimate(["reverse"], "retrain")[0].value != run.reference_loss


def test_another_clip_or_order_is_found_by_a_later_checkpoint(resumed: Any, tmp_path: Path) -> None:
    for changed in ({"clip": None}, {"order": resumed[1][::-1]}):
        recorder = taken_up(resumed, tmp_path / "run", **changed)
        recorder.expect(resumed[0] / f"checkpoint-{FIRST + STEPS}")
        with pytest.raises(ModelError, match="end where the training did"):
            recorder.finish(PROBE, device="cpu")


def test_what_a_checkpoint_does_not_say_is_asked_for(resumed: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected the function of its schedule.*scheduler=lambda"):
        taken_up(resumed, tmp_path / "run", scheduler=None)
    with pytest.raises(UsageError, match=r"expected the saved rate 0.0024 after 4 steps, got 0.00293878"):
        taken_up(resumed, tmp_path / "run", scheduler=lambda o: get_scheduler("linear", o, 2, 100))
    with pytest.raises(ModelError, match=r"give its model"):
        taken_up(resumed, tmp_path / "run", model=nn.Linear(2, 2))
    with pytest.raises(UsageError, match="for every step, row numbers"):
        taken_up(resumed, tmp_path / "run", order=[0, 1, 2])
    with pytest.raises(UsageError, match="expected rows of the data, got 48 at step 1"):
        taken_up(resumed, tmp_path / "run", order=[[0], [48]])
    recorder = taken_up(resumed, tmp_path / "run")
    with pytest.raises(UsageError, match="expected one of steps 5 to 10, got 12"):
        recorder.expect(resumed[0] / "checkpoint-12")


def test_pickled_code_is_refused_by_name(resumed: Any, tmp_path: Path) -> None:
    out = resumed[0]
    folder = tmp_path / "checkpoint"
    shutil.copytree(out / f"checkpoint-{FIRST}", folder)
    torch.save({"state": {}, "param_groups": [], "more": shutil.rmtree}, folder / "optimizer.pt")
    with pytest.raises(UntrustedError, match=r"optimizer.pt: expected tensors.*got pickled objects"):
        fut.Recorder.from_checkpoint(folder, tmp_path / "run", model=resumed[2](), data=[], order=[], clip=None)
    (folder / "optimizer.pt").unlink()
    with pytest.raises(DataError, match="expected the optimizer's state, got none"):
        fut.Recorder.from_checkpoint(
            folder, tmp_path / "run", model=resumed[2](), data=numbered(4), order=[[0], [1]], collate=collate, clip=None
        )


@pytest.mark.parametrize(
    "make",
    [adamw, lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9), lambda m: AdamW(m.named_parameters(), lr=0.02)],
    ids=["groups", "momentum", "named"],
)
@pytest.mark.parametrize("stored", ["mapping", "file"])
def test_states_of_ones_own(tmp_path: Path, make: Any, stored: str) -> None:
    model = net()
    optimizer = make(model)
    given = list(batches(9))
    states = []
    for step, (x, y) in enumerate(given):
        model(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (2, 8):
            own = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(own, tmp_path / f"{step}.pt")
            states.append(torch.load(tmp_path / f"{step}.pt") if stored == "mapping" else tmp_path / f"{step}.pt")
    recorder = fut.Recorder.from_checkpoint(
        states[0],
        tmp_path / "run",
        model=net(),
        data=[{"x": x, "y": y} for x, y in given],
        order=[[step] for step in range(3, 9)],
        collate=lambda listed: listed[0],
        optimizer=make if make is adamw else None,
        clip=None,
    )
    recorder.expect(states[1])
    run = recorder.finish(OWN_PROBE, device="cpu")
    assert json.loads((run.path / "recording.json").read_text())["replay_errors"]["6"] <= 1e-5


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"optimizer": {}}, DataError, r"expected optimizer.state_dict\(\) as the optimizer"),
        (
            {"optimizer": {"state": {}, "param_groups": [{"params": [0]}]}},
            UsageError,
            "which tensors its 1 parameter groups",
        ),
        (
            {"optimizer": SGD([torch.zeros(1)], lr=0.1).state_dict()},
            ModelError,
            "expected the state of the given optimizer",
        ),
        ({"step": "late"}, DataError, "expected a number of steps, got 'late'"),
        ({"model": {"head.weight": torch.zeros(2)}}, ModelError, "weights of the model's shapes|lacks"),
        ({"optimizer": [1, 2]}, DataError, "expected one optimizer, got 2"),
        ({"scheduler": {"last_epoch": 1}}, UsageError, "state of a LambdaLR, got that of another scheduler"),
    ],
    ids=["no state", "no constants", "another", "no step", "another model", "several", "another scheduler"],
)
def test_states_that_are_damaged(tmp_path: Path, changed: dict[str, Any], error: type[Exception], message: str) -> None:
    model = net()
    state = {"model": model.state_dict(), "optimizer": AdamW(model.parameters()).state_dict(), **changed}
    data = [{"x": x, "y": y} for x, y in batches(2)]
    with pytest.raises(error, match=message):
        fut.Recorder.from_checkpoint(
            state,
            tmp_path / "run",
            model=net(),
            data=data,
            order=[[0], [1]],
            collate=lambda listed: listed[0],
            clip=None,
            scheduler=linear if "scheduler" in changed else None,
        )


def test_groups_that_the_state_does_not_name_are_asked_for(tmp_path: Path) -> None:
    model = net()
    given: dict[str, Any] = {"data": [], "order": [], "clip": None, "model": net()}
    state = {"model": model.state_dict(), "optimizer": adamw(model).state_dict()}
    data = [{"x": x, "y": y} for x, y in batches(2)]
    given |= {"data": data, "order": [[0], [1]], "collate": lambda listed: listed[0]}
    with pytest.raises(UsageError, match="which tensors its 2 parameter groups hold"):
        fut.Recorder.from_checkpoint(state, tmp_path / "run", **given)
    with pytest.raises(DataError, match="expected the weights as one of model, "):
        fut.Recorder.from_checkpoint({"net": {}}, tmp_path / "run", **given)
    with pytest.raises(DataError, match="expected a folder or a file"):
        fut.Recorder.from_checkpoint(tmp_path / "none", tmp_path / "run", **given)

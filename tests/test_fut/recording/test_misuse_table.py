"""The table of docs/recording.md: every row has a test, by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = "tests/test_fut/recording"
TRANSLATED = "tests/test_estimators/test_torch_optimizers.py"
REPLAYED = "test_recorder.py::test_a_window_is_replayed_as_it_was"
REPEATED, REFUSED = "test_misuse.py::test_it_is_repeated", "test_misuse.py::test_it_is_refused"
FIRST_STEP = "test_refusals.py::test_what_cannot_be_repeated_fails_at_the_first_step"
SHARDED = "test_sharded.py::test_two_processes_of_fully_shard"
ROWS: dict[str, list[str]] = {
    "parameter groups, rates of their own, schedulers": [f"{REPLAYED}[groups]"],
    "a rate that is changed by hand between steps": [f"{REPEATED}[a rate by hand]"],
    "decay or another constant that is changed inside the window": [f"{REFUSED}[a decay by hand]"],
    "frozen tensors, tensors that no optimizer holds": [f"{REPLAYED}[a part is frozen]"],
    "tensors frozen or unfrozen inside the window": [f"{REFUSED}[unfreezing]"],
    "tied weights": [f"{REPEATED}[tied weights]"],
    "AdamW and Adam (amsgrad, fused, foreach), NAdam, RAdam, Adafactor, Muon, SGD with or without momentum": [
        f"{TRANSLATED}::test_a_rule_read_in_mid_training_goes_on_as_torch",
        f"{REPEATED}[a fused optimizer]",
        f"{REPEATED}[foreach]",
    ],
    "other optimizers, `maximize`, LBFGS, 8-bit, schedule-free": [
        f"{TRANSLATED}::test_optimizers_that_are_no_rules",
        f"{REFUSED}[LBFGS]",
        f"{REFUSED}[maximize]",
        "test_refusals.py::test_optimizers_that_are_no_rules_are_named",
    ],
    "several optimizers": [f"{REPLAYED}[two optimizers]"],
    "an optimizer inside the backward pass, one for each tensor": [
        "test_misuse.py::test_an_optimizer_inside_the_backward_pass"
    ],
    "a closure": [f"{REPEATED}[closure]"],
    "`zero_grad` before or after the step, to zeros or to None": [f"{REPEATED}[zero_grad before]"],
    "no `zero_grad`": [f"{REFUSED}[no zero_grad]"],
    "gradient accumulation by the mean": [f"{REPLAYED}[accumulated]"],
    "accumulation by the number of targets": [
        "test_recorder.py::test_items_count_by_their_targets_where_the_loop_counts_so"
    ],
    "`num_items_in_batch` of the Hugging Face trainer": [
        "test_recorder.py::test_losses_divided_by_the_targets_of_a_step[unlike]"
    ],
    "accumulation by the sum": [f"{FIRST_STEP}[sum of losses]"],
    "steps of unequal numbers of micro-batches": ["test_refusals.py::test_steps_of_unequal_numbers_of_items"],
    "a last batch of fewer rows": [f"{REPEATED}[an incomplete batch]"],
    "packed rows, rows of different length": ["test_misuse.py::test_packed_rows_of_different_lengths"],
    "a batch that the loop overwrites": [f"{REPEATED}[an overwritten batch]"],
    "clipping by the global norm": [f"{REPLAYED}[clipped]"],
    "clipping by value, a hook that edits gradients": [
        f"{REFUSED}[clipping by value]",
        f"{FIRST_STEP}[edited gradients]",
    ],
    "a gradient scaler": [
        f"{REPEATED}[a gradient scaler]",
        f"{REPEATED}[a gradient scaler and a fused optimizer]",
    ],
    "a gradient scaler that skips a step": [
        "test_misuse.py::test_a_step_that_a_scaler_leaves_out_is_refused",
        "test_refusals.py::test_a_step_that_a_scaler_skips_is_refused",
    ],
    "`DataParallel`, `DistributedDataParallel`, `torch.compile`": [
        "test_recorder.py::test_wrapped_models_are_seen_inside[compiled]",
        "test_ranks.py::test_two_processes",
    ],
    "`fully_shard` (FSDP2)": [SHARDED],
    "`fully_shard` with a policy that casts, hybrid sharding, tensor parallel": [
        f"{SHARDED}[a policy of precision]",
        f"{SHARDED}[a mesh of two dimensions]",
        f"{SHARDED}[tensor parallel]",
    ],
    "`FullyShardedDataParallel` (FSDP1)": [f"{SHARDED}[the older kind]"],
    "LoRA and other adapters": ["test_hugging_face.py::test_a_loop_of_ones_own"],
    "gradient checkpointing, SDPA or eager attention": ["test_misuse.py::test_attention_of_hugging_face[eager]"],
    "dropout, noise in the forward pass": [
        "test_noise.py::test_a_window_with_noise_is_replayed_as_it_was[a function]",
        "test_noise.py::test_noise_travels_with_its_item",
    ],
    "dropout that another order meets as a loop would": [
        "test_step_noise.py::test_another_order_is_what_the_loop_does_with_it"
    ],
    "another seed of dropout": [
        "test_step_noise.py::test_another_draw_is_another_training_of_the_same_order",
    ],
    "several forward passes with noise for one item": [
        "test_noise.py::test_two_noisy_forward_passes_for_one_item_are_refused"
    ],
    "a loss of several forward passes that is no mean of theirs": [f"{REFUSED}[a joint loss]"],
    "validation inside the window": ["test_recorder.py::test_evaluation_in_between_is_no_item"],
    "training in evaluation mode": [f"{REFUSED}[evaluation mode]"],
    "an average of the weights (EMA)": [f"{REPEATED}[an average of weights]"],
    "`torch.no_grad` edits of parameters": ["test_refusals.py::test_a_tensor_that_something_else_writes_is_found"],
    "batch norm in training mode": [f"{FIRST_STEP}[batch norm]"],
    "autocast to bfloat16 (`bf16=True`, `bf16-mixed`)": [
        "test_recorded_autocast.py::test_the_trainer_of_hugging_face",
        "test_recorded_autocast.py::test_the_trainer_of_lightning",
    ],
    "autocast to float16, bfloat16 parameters": [
        "test_recorded_autocast.py::test_half_precision_and_a_window_of_two_precisions_are_refused",
        f"{FIRST_STEP}[bfloat16]",
    ],
}


def table() -> list[str]:
    """The first cell of every row."""
    text = (ROOT / "docs/recording.md").read_text(encoding="utf-8")
    rows = [line for line in text.partition("## What people do")[2].splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]]


def test_every_row_has_a_test() -> None:
    assert table() == list(ROWS)
    assert len(ROWS) >= 20


@pytest.mark.parametrize("name", sorted({name for names in ROWS.values() for name in names}))
def test_every_test_of_a_row_exists(name: str) -> None:
    """By its function, and its case by the name that the file gives it."""
    where, _, test = name.partition("::")
    function, _, case = test.partition("[")
    path = ROOT / where if "/" in where else ROOT / HERE / where
    module = ast.parse(path.read_text(encoding="utf-8"))
    assert function in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
    texts = {node.value for node in ast.walk(module) if isinstance(node, ast.Constant)}
    assert not case or case.removesuffix("]") in texts

"""Messages at the Python door have Python's words; on the command line they stay as they are."""

from __future__ import annotations

import re
from typing import Any

import pytest
from small import Cli

import fut
from fut.spoken import command_line, in_python, spoken

CASES = {
    "got 9; correct --items": "got 9; correct `items`",
    "use --estimator replay-exact or retrain": 'use estimator="replay-exact" or retrain',
    "use --device cpu": 'use device="cpu"',
    "expected --verify 1 or more with --also, got 0": "expected verify=1 or more with `also`, got 0",
    "expected --samples of 0 or more": "expected `samples` of 0 or more",
    "give a longer --text, or lower data.items": "give a longer `data.text`, or lower data.items",
    "pass --trust if you trust it": "pass trust=True if you trust it",
    "run `fut cache RUN --terms adjoint`": 'run `fut cache RUN --terms adjoint` (in Python `run.cache("adjoint")`)',
    "`fut cache RUN --terms update,jvp` first": (
        '`fut cache RUN --terms update,jvp` (in Python `run.cache(["update", "jvp"])`) first'
    ),
    "needs no `fut cache`": "needs no `fut cache` (in Python `run.cache()`)",
    "`fut domains --calibrate 8`": "`fut domains --calibrate 8` (in Python `run.domains(calibrate=8)`)",
    "a -- b --- c, `x --y` and `fut.train(…)`": "a -- b --- c, `x --y` and `fut.train(…)`",
    "`fut cache RUN --readouts 'x`": "`fut cache RUN --readouts 'x`",
}
WRONG: dict[str, tuple[Any, list[str]]] = {
    "--items": (lambda run: run.domains(["a", "a", "b", "b", "b"], items=[9]), ["domains", "--labels", "loss:2"]),
    "--samples": (lambda run: run.report(samples=-1), ["report"]),
}
FLAG = re.compile(r"(?<![\w-])--[a-z]")


@pytest.mark.parametrize("said", CASES)
def test_options_are_arguments_and_commands_are_calls(said: str) -> None:
    assert in_python(said) == CASES[said]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_run_speaks_python_and_the_command_line_its_own_words(small_run: fut.Run, cli: Cli, wrong: str) -> None:
    ask, words = WRONG[wrong]
    with pytest.raises(fut.UsageError) as caught:
        ask(small_run)
    assert f"`{wrong.removeprefix('--')}`" in str(caught.value)
    assert not FLAG.search(str(caught.value))
    value = "-1" if wrong == "--samples" else "9"
    said = cli(words[0], small_run.path, *words[1:], wrong, value, "--device", "cpu")
    assert said.status == 2
    assert wrong in said.err


def test_a_missing_term_names_the_call_too(make_run: Any) -> None:
    with pytest.raises(fut.NotCachedError, match=r"in Python `run\.cache\("):
        make_run(cached=False).estimate(["reverse"])


def test_functions_speak_python_too(tmp_path: Any) -> None:
    with pytest.raises(fut.UsageError, match="correct `device`"):
        fut.train(tmp_path / "run", device="nothing")
    with pytest.raises(fut.FutError, match=r"check `data\.text`"):
        fut.train(tmp_path / "run", fut.load_config(data={"text": str(tmp_path / "none")}), device="cpu")


def test_only_our_own_errors_are_changed_and_once() -> None:
    for error in (ValueError("correct --items"), KeyError("--items")):
        with pytest.raises(type(error)) as caught, spoken():
            raise error
        assert "--items" in str(caught.value)
    with pytest.raises(fut.UsageError) as twice, spoken(), spoken():
        raise fut.UsageError("run `fut cache RUN --terms adjoint`")
    assert str(twice.value).count("in Python") == 1
    with pytest.raises(fut.UsageError, match="correct --items"), command_line(), spoken():
        raise fut.UsageError("correct --items")

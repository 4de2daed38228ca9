"""A run that cannot be written to: every question is answered, and what cannot be kept is said."""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import Cli

import fut
from fut.artifacts.kept import NotKeptWarning

Ask = Callable[[fut.Run], Any]


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a directory read-only for this process, whoever runs it: root may write where nobody may."""

    def shut(path: Path) -> None:
        def inside(target: Any) -> bool:
            return not isinstance(target, int) and str(os.fsdecode(target)).startswith(str(path))

        def refuse(target: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(target))

        whole_open, whole_builtin, access = os.open, builtins.open, os.access

        def opened(target: Any, flags: int, *more: Any, **options: Any) -> int:
            if inside(target) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                refuse(target)
            return whole_open(target, flags, *more, **options)

        def built_in(target: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            if inside(target) and set(mode) & set("wax+"):
                refuse(target)
            return whole_builtin(target, mode, *more, **options)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(builtins, "open", built_in)
        monkeypatch.setattr(os, "access", lambda p, m, **o: access(p, m, **o) and not (m & os.W_OK and inside(p)))
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "remove"):
            whole = getattr(os, name)
            monkeypatch.setattr(os, name, lambda p, *more, w=whole, **o: refuse(p) if inside(p) else w(p, *more, **o))

    return shut


QUESTIONS: dict[str, Ask] = {
    "whatif": lambda run: run.whatif("swap:0,1").rows(),
    "sort": lambda run: run.estimate(["sort:loss"])[0].value,
    "search": lambda run: run.search(evaluations=20, verify=0).order,
    "retrain": lambda run: run.retrain("reverse").loss,
    "bank": lambda run: [one.value for one in run.orders.bank(2).orders],
    "bank of another read-out": lambda run: [one.value for one in run.orders.bank(2, readout="item:1").orders],
    "verify": lambda run: run.verify(2).true_losses,
    "calibrate": lambda run: run.calibrate(3).truths,
    "lds": lambda run: run.lds(subsets=2).as_dict()["subsets"],
    "domains": lambda run: run.domains(["a", "a", "b", "b", "b"]).as_dict()["labels"],
    "memorize": lambda run: run.memorize(items=[0, 1], groups=2).as_dict()["effects"],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_about_a_read_only_run_is_answered(
    own_run: Path, read_only: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    before = sorted(own_run.rglob("*"))
    run = fut.open(own_run, device="cpu")
    read_only(own_run)
    with pytest.warns(NotKeptWarning, match="is not kept"):
        found = QUESTIONS[name](run)
    assert found or name == "sort"
    assert sorted(own_run.rglob("*")) == before, "nothing is written"


@pytest.mark.filterwarnings("ignore::fut.artifacts.kept.NotKeptWarning")
@pytest.mark.parametrize("name", ["search", "memorize", "verify", "bank of another read-out"])
def test_the_answer_is_that_of_a_run_that_can_be_written_to(
    own_run: Path, small_run: fut.Run, read_only: Callable[[Path], None], name: str
) -> None:
    run = fut.open(own_run, device="cpu")
    with pytest.MonkeyPatch.context():
        expected = QUESTIONS[name](fut.open(small_run.path, device="cpu"))
    read_only(own_run)
    assert QUESTIONS[name](run) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["info"],
        ["check"],
        ["whatif", "--swap", "0,1"],
        ["verify", "--orders", "2"],
        ["search", "--evaluations", "20", "--verify", "0"],
    ],
)
def test_commands_print_their_answers(
    own_run: Path, cli: Cli, read_only: Callable[[Path], None], words: list[str]
) -> None:
    read_only(own_run)
    said = cli(words[0], own_run, *words[1:])
    assert said.status == 0, said.err
    assert said.out
    assert ("fut: note:" in said.err) == (words[0] not in ("info", "check"))


def test_a_report_goes_where_it_can(own_run: Path, tmp_path: Path, cli: Cli, read_only: Callable[[Path], None]) -> None:
    read_only(own_run)
    said = cli("report", own_run, "--samples", "0")
    assert (said.status, "--out" in said.err) == (2, True), said.err
    said = cli("report", own_run, "--samples", "0", "--out", tmp_path / "new" / "page.html")
    assert said.status == 0, said.err
    assert (tmp_path / "new" / "page.html").stat().st_size > 1000


def test_caching_says_what_it_needs(own_run: Path, cli: Cli, read_only: Callable[[Path], None]) -> None:
    read_only(own_run)
    said = cli("cache", own_run)
    assert said.status == 1
    assert "lock" in said.err
    assert "unexpected" not in said.err

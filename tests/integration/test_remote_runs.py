"""Runs at URLs, on an S3 server: opened where nothing of them was, asked, extended, trained and recorded."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from object_store import s3_server
from small import Cli, small_config
from torch import nn

import fut
from fut.artifacts import location
from fut.artifacts.kept import NotKeptWarning
from fut.methods import stages
from fut.questions.bank import BankRequest
from storage import TermStore, absent_bytes, sources
from storage.remote import Objects

SMALL: dict[str, Any] = {"device": "cpu"}


def pair_terms(run: fut.Run) -> TermStore:
    """Terms of every (checkpoint, item) pair of a run."""
    return TermStore.open(run.path / "terms")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def place(tmp_path: Path) -> str:
    """The URL of an empty directory of this machine, which costs no requests."""
    return f"file://{tmp_path}/remote"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Go on as on another machine, which has nothing of any run yet."""

    def elsewhere(name: str) -> None:
        monkeypatch.setenv(location.HOME, str(tmp_path / name))
        location._MIRRORS.clear()
        sources._SOURCES.clear()

    elsewhere("first")
    yield elsewhere
    location._MIRRORS.clear()
    sources._SOURCES.clear()


@pytest.fixture
def pushed(own_run: Path, bucket: str, request: pytest.FixtureRequest, machine: object) -> str:
    """The URL of the small run, without what has been asked of it."""
    url = f"{bucket}/{request.node.name.replace('[', '-').replace(']', '')}"
    fut.push(own_run, url)
    return url


def test_a_run_at_a_url_answers_as_it_does_here_and_little_of_it_is_fetched(
    own_run: Path, pushed: str, machine: Callable[[str], None]
) -> None:
    orders = ["reverse", "random:3"]
    expected = fut.open(own_run, **SMALL).estimate(orders)
    machine("laptop")
    run = fut.open(pushed, **SMALL)
    assert run.estimate(orders) == expected
    for private in ("lock", "info.json"):  # which are not uploaded
        (own_run / private).unlink(missing_ok=True)
    assert run.info()["store_bytes"] == fut.open(own_run, **SMALL).info()["store_bytes"]
    assert absent_bytes(run.path / "terms") > 0  # of the pairs, which the default method does not read


def test_what_was_retrained_and_asked_on_one_machine_is_known_on_another(
    own_run: Path, place: str, machine: Callable[[str], None]
) -> None:
    fut.push(own_run, place)
    first = fut.open(place, **SMALL)
    truth = first.retrain("reverse")
    fit = first.calibrate(3, estimator="adjoint")
    machine("second")
    second = fut.open(place, **SMALL)
    assert second.info()["retrained_orders"] == 4
    assert not list((second.path / "retrained").glob("*/*.h5"))  # none was fetched to say so
    found = second.context.retrained.find(second.order("reverse"))
    assert found is not None
    assert (found.loss, found.theta.tolist()) == (truth.loss, truth.theta.tolist())
    assert second.estimate(["random:9"])[0].interval == first.estimate(["random:9"])[0].interval
    assert [c["estimator"] for c in second.info()["calibrations"]] == ["adjoint"]
    assert fit.fit.count == 3


def test_terms_are_computed_into_a_run_at_a_url(place: str, machine: Callable[[str], None], tmp_path: Path) -> None:
    url = f"{place}/trained"
    here = fut.train(tmp_path / "here", small_config(), **SMALL)
    run = fut.train(url, small_config(), **SMALL)
    assert run.reference_loss == here.reference_loss
    machine("second")
    fut.open(url, **SMALL).cache("adjoint")
    here.cache("adjoint")
    machine("third")
    assert fut.open(url, **SMALL).estimate(["reverse"]) == here.estimate(["reverse"])
    assert fut.open(url, **SMALL).check() == []


def test_a_recording_goes_to_a_url(place: str, machine: Callable[[str], None]) -> None:
    url, model = f"{place}/recorded", nn.Linear(3, 1)
    inputs = torch.randn(4, 2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    recorder = fut.Recorder(url, steps=4, loss=lambda module, input: (module(input) ** 2).mean())
    with recorder.watch(model, optimizer):
        for x in inputs:
            optimizer.zero_grad()
            (model(x) ** 2).mean().backward()
            optimizer.step()
    run = recorder.finish([(inputs[0],)], **SMALL)
    machine("second")
    files = Objects(url).sizes()
    assert {"manifest.json", "recording.json", "summary.json"} <= files.keys()
    again = fut.open(url, module=nn.Linear(3, 1), loss=lambda module, input: (module(input) ** 2).mean(), **SMALL)
    assert again.reference_loss == run.reference_loss


def test_commands_take_urls(
    cli: Cli, own_run: Path, bucket: str, machine: Callable[[str], None], tmp_path: Path
) -> None:
    url = f"{bucket}/commands"
    said = cli("push", own_run, url, "--json")
    assert said.status == 0
    assert json.loads(said.out)["uploaded"] > 10
    assert json.loads(cli("push", own_run, url, "--json").out)["uploaded"] == 0
    machine("second")
    expected = json.loads(cli("estimate", own_run, "--order", "reverse", "--json").out)
    assert json.loads(cli("estimate", url, "--order", "reverse", "--json").out) == expected
    assert json.loads(cli("check", url, "--json").out) == {"sound": True, "damaged": []}
    assert cli("info", url).status == 0
    assert json.loads(cli("plan", url, "--json").out)["stages"]
    pulled = cli("pull", url, tmp_path / "pulled")
    assert "downloaded" in pulled.out
    assert json.loads(cli("estimate", tmp_path / "pulled", "--order", "reverse", "--json").out) == expected


def test_nothing_at_a_url_is_an_error_that_says_so(cli: Cli, place: str, machine: object) -> None:
    said = cli("info", f"{place}/nothing")
    assert (said.status, said.out) == (1, "")
    assert f"expected a run at {place}/nothing, got nothing" in said.err


def test_a_bucket_that_is_not_there_is_named(
    cli: Cli, own_run: Path, bucket: str, machine: object, tmp_path: Path
) -> None:
    missing = "s3://elsewhere/run"
    for words in (["info", missing], ["pull", missing, tmp_path / "here"], ["push", own_run, missing]):
        said = cli(*words)
        assert said.status == 1
        assert "expected a bucket at s3://elsewhere, got none; make it, or check the URL" in said.err


def test_what_is_written_as_a_url_is_never_taken_for_a_directory(
    cli: Cli, place: str, machine: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = [
        cli("train", "--out", "gcs://bucket/run"),
        cli("info", "http://host/run"),
        cli("push", place, f"{place}-2"),
        cli("pull", place, "s3://bucket/run"),
    ]
    assert [one.status for one in said] == [1] * 4
    assert all("expected a" in one.err for one in said)
    assert "`fut pull` brings a run here" in said[2].err
    assert not list(tmp_path.iterdir())


def test_a_run_at_a_url_is_called_by_it_and_not_by_the_copy(
    cli: Cli, own_run: Path, place: str, machine: object, tmp_path: Path
) -> None:
    fut.push(own_run, place)
    run = fut.open(place, **SMALL)
    assert run.info()["path"] == place
    assert place in repr(run)
    said = [cli(*words) for words in (("info", place), ("check", place), ("report", place))]
    assert [one.out.startswith(f"{place}: ") for one in said[:2]] == [True, True]
    assert f"for all who open the run, {place}/report.html" in said[2].out
    assert f" {place}" in said[2].out.split("what would compute it:")[1]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert f"fut calibrate {place}" in page
    assert str(run.path) not in page
    written = cli("endpoint", place, "--order", "reverse")
    assert f"for all who open the run, {place}/endpoints/" in written.out


def test_an_interrupted_cache_goes_on_on_another_machine(
    place: str, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{place}/interrupted"
    fut.train(url, small_config(), **SMALL)
    begun = fut.open(url, **SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(stages, "discard_scratch", lambda files: (_ for _ in ()).throw(OSError("preempted")))
        with pytest.raises(OSError, match="preempted"):  # after the last term, before the end
            begun.cache("gradient")
    assert pair_terms(begun).missing(["gradient"]) == []
    machine("second")
    run = fut.open(url, **SMALL)
    assert pair_terms(run).missing(["gradient"]) == []  # what the first has computed
    run.cache("gradient")
    machine("third")
    assert fut.open(url, **SMALL).check() == []


def test_a_run_that_may_only_be_read_is_asked_and_what_is_not_kept_is_said(
    own_run: Path, place: str, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from obstore.exceptions import PermissionDeniedError

    fut.push(own_run, place)
    machine("second")

    def denied(*arguments: object, **options: object) -> None:
        raise PermissionDeniedError("no")

    monkeypatch.setattr("obstore.put", denied)
    run = fut.open(place, **SMALL)
    truth = None
    with pytest.warns(NotKeptWarning, match="is not kept"):
        truth = run.retrain("reverse")
    again = fut.open(
        place, **SMALL
    )  # what lies in the local copy cannot be uploaded, which is no reason not to open it
    assert again.retrain("reverse").loss == truth.loss


def test_a_url_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, machine: object) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "obstore" else found(name, *a))
    with pytest.raises(OSError, match=r"pip install obstore"):
        fut.open("s3://runs/any")


def test_processes_of_an_engine_do_their_work_for_a_run_at_a_url(
    place: str, machine: Callable[[str], None], tmp_path: Path
) -> None:
    here = fut.train(tmp_path / "here", small_config(), **SMALL)
    fut.push(here.path, place)
    machine("second")
    with fut.engine("ray", workers=2) as engine:
        run = fut.open(place, engine=engine, **SMALL)
        run.cache("gradient")
        bank = run.ask(BankRequest(orders=3))
    machine("third")
    elsewhere = fut.open(place, **SMALL)
    assert elsewhere.info()["retrained_orders"] == 3
    assert pair_terms(elsewhere).missing(["gradient"]) == []
    found = [one.value for one in elsewhere.ask(BankRequest(orders=3)).orders]
    assert found == [one.value for one in bank.orders] == [here.retrain(one.order).loss for one in bank.orders]
    assert [one.value for one in here.ask(BankRequest(orders=3, source=place)).orders] == found

"""A run directory from somebody else: nothing that it names runs, nothing outside is touched, no size is believed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import configured, external, fifo, huge, module_that_marks, nested, signed
from small import Cli, Said

import fut
from storage import fingerprint

PATIENCE = 240
"""Seconds after which a command is taken to hang."""


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError("the command hangs")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)


def refused(said: Said, *words: str) -> None:
    """A message and a status, no traceback, and nothing unforeseen."""
    assert said.status in (1, 2), (said.status, said.err)
    assert "Traceback" not in said.err
    assert "unexpected" not in said.err, said.err
    for word in words:
        assert word in said.err + said.out, (word, said.err)


def owner_of(run: Path) -> str:
    return fingerprint(json.loads((run / "manifest.json").read_text())["identity"])


RETRAIN = ("--order", "random:9", "--estimator", "retrain")
COMPUTES = {
    "retrain": ["estimate", *RETRAIN],
    "cache": ["cache", "--terms", "lowrank"],
    "verify": ["verify", "--orders", "2"],
    "plan": ["plan"],
}
READS = {
    "info": ["info"],
    "estimate": ["estimate", "--order", "reverse"],
    "report": ["report"],
    "whatif": ["whatif", "--swap", "0,1"],
}
"""Commands that need the model, and some that answer from what is kept."""


@pytest.mark.parametrize("key", ["factory", "loss"])
@pytest.mark.parametrize("name", COMPUTES | READS)
def test_a_model_or_a_loss_that_the_directory_names_is_not_imported(
    own_run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    module_that_marks(own_run / "evil.py", tmp_path / "mark")
    configured(own_run, "model", key, "evil:make")
    for part in ("adjoint", "terms"):  # which would be refused as another run's
        shutil.rmtree(own_run / part)
    monkeypatch.chdir(own_run)
    command, *rest = (COMPUTES | READS)[name]
    said = cli(command, ".", *rest)
    assert "Traceback" not in said.err
    if name in COMPUTES:
        refused(said, "evil:make", "--trust")
    assert not (tmp_path / "mark").exists()
    assert "evil" not in sys.modules


def test_nor_from_the_directory_above(own_run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    module_that_marks(own_run / "evil.py", tmp_path / "mark")
    configured(own_run, "model", "factory", f"{own_run.name}.evil:make")
    monkeypatch.chdir(own_run.parent)
    refused(cli("estimate", own_run.name, *RETRAIN), "--trust")
    assert not (tmp_path / "mark").exists()


def test_it_runs_for_who_says_so(own_run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same directory with --trust: the tests above could fail."""
    module_that_marks(own_run / "evil_trusted.py", tmp_path / "mark")
    configured(own_run, "model", "factory", "evil_trusted:make")
    monkeypatch.chdir(own_run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    refused(cli("estimate", ".", *RETRAIN, "--trust"), "evil_trusted:make")
    assert (tmp_path / "mark").exists()


def test_a_readout_that_the_directory_names_is_not_imported(
    own_run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    module_that_marks(own_run / "evil.py", tmp_path / "mark")
    signed(own_run / "adjoint" / "manifest.json", lambda c: c["identity"].update(readouts=["evil:f"]))
    monkeypatch.chdir(own_run)
    for words in (["report", "."], ["info", "."], ["cache", ".", "--terms", "adjoint"]):
        said = cli(*words)
        assert "Traceback" not in said.err
        assert "unexpected" not in said.err, said.err
    assert not (tmp_path / "mark").exists()


def test_a_tokenizer_and_a_text_are_not_taken_from_an_interrupted_run(own_run: Path, tmp_path: Path, cli: Cli) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x" * 100_000)
    configured(own_run, "data", "text", str(secret))
    configured(own_run, "data", "tokenizer", "os:system")
    (own_run / "summary.json").unlink()
    for file in own_run.glob("data/*.h5"):
        file.unlink()
    refused(cli("plan", own_run), "os:system", str(secret), "--trust")


def test_the_working_directory_shadows_no_package(own_run: Path, tmp_path: Path) -> None:
    for name in ("matplotlib", "jinja2", "sympy", "tqdm"):
        module_that_marks(own_run / f"{name}.py", tmp_path / name)
    script = "from fut.cli.app import main; main()"
    environment = os.environ | {"PYTHONPATH": str(Path(fut.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", script, "report", ".", "--samples", "0"]
    done = subprocess.run(
        command, cwd=own_run, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir() if p.name in ("matplotlib", "jinja2", "sympy", "tqdm")] == []


def test_a_lock_that_is_a_link_overwrites_nothing(own_run: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "precious").write_text("keep me")
    (own_run / "lock").unlink(missing_ok=True)
    (own_run / "lock").symlink_to(tmp_path / "precious")
    refused(cli("cache", own_run), "lock", "link")
    assert (tmp_path / "precious").read_text() == "keep me"


@pytest.mark.parametrize("place", ["calibration", "terms/arrays/norm", "adjoint/terms", "retrained", "answers"])
def test_a_link_to_a_directory_outside_is_neither_written_nor_swept(
    own_run: Path, tmp_path: Path, cli: Cli, place: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "step-000001.h5.1-abc-0.part").write_text("keep me")
    target = own_run / place
    if target.exists():
        target.rename(own_run / "moved")
    target.symlink_to(outside)
    for words in (["calibrate", own_run, "--orders", "3"], ["cache", own_run], ["info", own_run]):
        refused(cli(*words), place, "link")
    assert [p.name for p in outside.iterdir()] == ["step-000001.h5.1-abc-0.part"]
    assert (outside / "step-000001.h5.1-abc-0.part").read_text() == "keep me"


@pytest.mark.parametrize("how", ["a link", "storage", "virtual", "a soft link"])
def test_no_file_outside_is_shown(own_run: Path, tmp_path: Path, cli: Cli, how: str) -> None:
    external(own_run / "data" / "step-000000.h5", how, tmp_path / "secret")
    refused(cli("show-batch", own_run, "0"), "step-000000.h5")
    refused(cli("check", own_run), "step-000000.h5")


def test_a_manifest_without_an_end_is_not_read(own_run: Path, cli: Cli) -> None:
    (own_run / "manifest.json").unlink()
    (own_run / "manifest.json").symlink_to("/dev/zero")
    for command in ("info", "check"):
        refused(cli(command, own_run), "manifest.json", "link")


@pytest.mark.parametrize("name", ["manifest.json", "checkpoints/step-000002.h5", "order.json", "adjoint/manifest.json"])
def test_a_fifo_does_not_hang(own_run: Path, cli: Cli, name: str) -> None:
    fifo(own_run / name)
    for command in ("info", "check"):
        refused(cli(command, own_run), name, "FIFO")


@pytest.mark.parametrize("make", [huge, nested])
@pytest.mark.parametrize("name", ["checkpoints/step-000005.h5", "data/step-000000.h5", "adjoint/sample/step-000000.h5"])
def test_what_a_small_file_declares_is_not_allocated(own_run: Path, cli: Cli, name: str, make: Any) -> None:
    manifest = own_run / ("adjoint/manifest.json" if name.startswith("adjoint") else "manifest.json")
    owner = fingerprint(json.loads(manifest.read_text())["identity"])
    make(own_run / name, int(Path(name).stem.removeprefix("step-")), owner)
    refused(cli("check", own_run), Path(name).name)
    if not name.startswith("adjoint"):
        refused(
            cli("show-batch", own_run, "0") if name.startswith("data") else cli("verify", own_run, "--orders", "2"),
            Path(name).name,
        )


DOCUMENTS = ("manifest.json", "order.json", "summary.json", "adjoint/manifest.json", "terms/manifest.json")


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 5000, "9" * 100_000, "1e999", "NaN", "\x00" * 1000, '{"format": 4}']
)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_odd_documents_are_refused(own_run: Path, cli: Cli, name: str, text: str) -> None:
    (own_run / name).write_text(text)
    refused(cli("check", own_run), name)
    if not name.startswith(("order", "terms")):
        refused(cli("info", own_run), name)


def test_a_configuration_of_odd_documents_is_refused(own_run: Path, cli: Cli) -> None:
    (own_run / "config.toml").write_text("a = " + "[" * 100_000)
    refused(cli("info", own_run), "config.toml")
    refused(cli("check", own_run), "config.toml")


def test_a_config_that_is_deep_and_signed_is_refused(own_run: Path, cli: Cli) -> None:
    """A configuration that the manifest pins is still no configuration."""
    import hashlib

    text = b"a = " + b"[" * 100_000
    (own_run / "config.toml").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    signed(own_run / "manifest.json", lambda c: c["environment"].update({"config.toml": digest}))
    refused(cli("info", own_run), "config.toml")

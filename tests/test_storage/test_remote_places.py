"""What may be at a URL that is no sound directory: other objects, parts of an upload, a copy of which somebody removed files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from object_store import opened, put

from storage import CheckpointStore, DamagedError, IdentityError, MissingError, RemoteError, StorageError, write_json
from storage.remote import Download, Objects, Policy, Upload, copies, is_url, normal_url
from storage.remote.index import Index

POLICY = Policy()


@pytest.fixture
def url(tmp_path) -> str:
    """The URL of a directory that is empty."""
    return f"file://{tmp_path}/remote"


@pytest.fixture
def machine(tmp_path, url):
    """A machine of that name, and its copy of the directory, opened anew at every call."""
    return lambda name: opened(url, tmp_path / name, POLICY)


@pytest.fixture
def here(tmp_path) -> Path:
    """A directory of this machine."""
    (tmp_path / "here").mkdir()
    for name in ("manifest.json", "summary.json"):
        write_json(tmp_path / "here" / name, {"a": 1})
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://b/a?x=1", "without [?] and #"),  # the store would take it for s3://b/a
        ("s3://b/a#x", "without [?] and #"),
        ("s3://b/../a", "without empty parts"),
        ("s3://b//a", "without empty parts"),
        ("file://relative/a", "three slashes"),
        ("gcs://b/a", "schemes: s3, gs"),
    ],
)
def test_a_url_that_would_mean_another_place_is_refused(text, said) -> None:
    with pytest.raises(RemoteError, match=said):
        normal_url(text)


def test_a_scheme_may_be_written_in_capitals() -> None:
    assert is_url("S3://Bucket/Run")
    assert normal_url("S3://Bucket/Run") == "s3://Bucket/Run"


def test_no_more_is_read_of_an_object_than_the_index_says(machine, tmp_path, monkeypatch) -> None:
    one = machine("one")
    store = CheckpointStore(one.directory / "checkpoints")
    store.write(0, {"theta": np.zeros(3)}, {})
    (tmp_path / "long").write_bytes(store.path(0).read_bytes() + bytes(1 << 16))
    one.objects.upload("checkpoints/step-000000.h5", tmp_path / "long")
    read = 0

    def pieces(self, name):
        nonlocal read
        for _ in range(64):
            read += 1 << 10
            yield bytes(1 << 10)

    two = machine("two")
    monkeypatch.setattr(Objects, "_pieces", pieces)
    with pytest.raises(DamagedError, match="or more with"):
        CheckpointStore(two.directory / "checkpoints").read(0)
    assert read <= store.path(0).stat().st_size + (1 << 10)


def test_a_first_upload_that_was_cut_off_is_not_seen(machine, url, here, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Objects, "upload", lambda *a, upload=Objects.upload: "manifest" in a[1] and upload(*a))
        patched.setattr(copies, "commit", lambda objects, index: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Upload(here, url, POLICY).run(lambda: None)
    two = machine("two")
    assert two.objects.read("manifest.json")  # the object is there
    assert not two.index.files
    with pytest.raises(MissingError, match="there is none"):
        Download(url, tmp_path / "back", POLICY)
    Upload(here, url, POLICY).run(lambda: None)
    assert sorted(machine("two").index.files) == ["manifest.json", "summary.json"]


def test_objects_that_are_no_directory_are_neither_fetched_nor_listed(machine, url, here, tmp_path) -> None:
    write_json(tmp_path / "other.json", 1)
    one = machine("one")
    one.objects.upload("other.json", tmp_path / "other.json")
    assert not list(machine("two").directory.rglob("*.json"))
    Upload(here, url, POLICY).run(lambda: None)
    assert sorted(machine("three").index.files) == ["manifest.json", "summary.json"]
    assert one.objects.read("other.json")  # and it stays as it is


def test_what_somebody_removes_from_a_copy_to_have_its_room_stays_at_the_url(machine) -> None:
    one = machine("one")
    store = CheckpointStore(one.directory / "checkpoints")
    for step in range(3):
        store.write(step, {"theta": np.full(3, step)}, {})
    store.path(1).unlink()  # before it is opened again
    one = machine("one")
    store.path(2).unlink()  # and while it is open
    put(one, "summary.json", 1)
    for name in ("one", "two"):
        found = CheckpointStore(machine(name).directory / "checkpoints")
        assert found.steps() == [0, 1, 2]
        assert found.read_array(1, "theta").tolist() == [1, 1, 1]


@pytest.mark.parametrize("since", ["another", "nothing"])
def test_what_was_computed_for_a_directory_is_not_put_into_another(machine, url, here, tmp_path, since) -> None:
    Upload(here, url, POLICY).run(lambda: None)
    one = machine("one")
    shutil.rmtree(tmp_path / "remote")
    if since == "another":
        write_json(here / "manifest.json", {"a": 2})
        Upload(here, url, POLICY).run(lambda: None)
    with pytest.raises(RemoteError, match=f"got {since} there since; answers/b.json and what else"):
        put(one, "answers/b.json", 1)
    with pytest.raises(RemoteError, match=f"got {since} there since"):
        machine("one")
    assert "answers/b.json" not in machine("two").index.files
    (one.directory / "answers/b.json").unlink()  # which nobody wants any more
    assert machine("one").index == machine("two").index


def test_what_was_fetched_to_be_read_is_not_taken_for_written_here(machine) -> None:
    one = machine("one")
    store = CheckpointStore(one.directory / "checkpoints")
    store.write(0, {"theta": np.zeros(2)}, {})
    put(one, "summary.json", 1)
    CheckpointStore(machine("two").directory / "checkpoints").read(0)  # and nothing else, before it ends
    store.write(0, {"theta": np.ones(2)}, {}, replace=True)
    again = CheckpointStore(machine("two").directory / "checkpoints")
    assert again.read_array(0, "theta").tolist() == [1, 1]


@pytest.mark.parametrize(
    "names",
    ['"a": [1, ""], "a/b": [1, ""]', '"a\\u001b[2J": [1, ""]', '"a": [1e30, ""]', '"a": [true, "x"], "b": [1.5, ""]'],
)
def test_a_strange_index_ends_in_an_error_that_names_it(machine, tmp_path, names) -> None:
    one = machine("one")
    assert one.objects.create(Index.name(1), f'{{"format": 1, "files": {{{names}}}}}'.encode())
    with pytest.raises(StorageError) as raised:
        machine("two")
    assert "\x1b" not in str(raised.value)


def test_nothing_is_brought_into_a_file(url, here) -> None:
    Upload(here, url, POLICY).run(lambda: None)
    with pytest.raises(IdentityError, match="new or empty directory"):
        Download(url, here / "summary.json", POLICY)


def test_what_a_killed_command_removed_is_removed(machine) -> None:
    one = machine("one")
    path = put(one, "terms/a.json", 1)
    put(one, "summary.json", 1)
    held = one.writing()
    held.__enter__()  # and is never left
    path.unlink()
    assert sorted(machine("one").index.files) == ["summary.json"]
    (one.directory / "summary.json").unlink()
    assert sorted(machine("one").index.files) == ["summary.json"]  # it writes no more

"""Directories at URLs, against an S3 server and a directory: never a part taken for the whole, nothing lost."""

import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from object_store import opened, put, s3_server

from storage import (
    CheckpointStore,
    DamagedError,
    IdentityError,
    MissingError,
    RemoteError,
    TermStore,
    read_json,
    write_json,
)
from storage.remote import Download, Mirror, Objects, Policy, Upload, is_url, normal_url
from storage.remote import mirror as mirrors
from storage.remote.index import Index, commit, read_index
from storage.remote.mirror import natural
from storage.sources import absent_bytes, fetch_all, listed, there, writing

NUMBER = itertools.count()
POLICY = Policy(private=frozenset({"lock"}), first=frozenset({"truths"}), last=frozenset({"answers"}))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["s3", "file"])
def url(request, tmp_path) -> str:
    """The URL of a directory that is empty."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/folder/{next(NUMBER)}"
    return f"file://{tmp_path}/remote"


@pytest.fixture
def machine(tmp_path, url):
    """A machine of that name, and its copy of the directory, opened anew at every call."""
    return lambda name: opened(url, tmp_path / name, POLICY)


def written_until(mirror: Mirror, name: str, error: type[BaseException]) -> None:
    """Hold a copy, write one document into it, and end with an error."""

    def held() -> None:
        with writing(mirror.directory):
            put(mirror, name, 6)
            raise error

    with pytest.raises(error):
        held()


def test_urls_are_known_also_where_a_path_lost_a_slash() -> None:
    assert is_url("s3://bucket/run")
    assert is_url(Path("s3://bucket/run"))
    assert not is_url("runs/demo")
    assert not is_url("C:/runs")
    assert normal_url(Path("s3://bucket/run/")) == "s3://bucket/run"
    assert normal_url(Path("file:///tmp/run")) == "file:///tmp/run"
    with pytest.raises(RemoteError, match="schemes: s3, gs"):
        normal_url("s3://")


def test_what_one_machine_writes_another_reads(machine) -> None:
    one = machine("one")
    put(one, "manifest.json", {"a": 1})
    CheckpointStore(one.directory / "checkpoints").write(3, {"theta": np.arange(6.0)}, {"loss": 2.0})
    two = machine("two")
    assert read_json(two.directory / "manifest.json") == {"a": 1}
    store = CheckpointStore(two.directory / "checkpoints")
    assert not (two.directory / "checkpoints").exists()  # not fetched yet, and there all the same
    assert (store.steps(), store.has(3), store.has(4)) == ([3], True, False)
    assert store.nbytes() == absent_bytes(two.directory) > 0
    assert np.array_equal(store.read_array(3, "theta"), np.arange(6.0))
    assert store.path(3).exists()
    assert absent_bytes(two.directory) == 0


def test_a_term_store_is_read_through_its_chunks_and_by_zarr_where_it_lies(machine, url, disk, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")  # which obstore itself asks for
    one = machine("one")
    disk.path = one.directory / "terms"
    expected = disk.filled().read("gradient", 1)
    two = machine("two")
    store = TermStore.open(two.directory / "terms")
    assert store.missing() == []  # as the ledger says, without a chunk
    assert not list((two.directory / "terms/arrays/gradient").glob("c/**/*"))
    assert np.array_equal(store.read("gradient", 1), expected)
    import zarr
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    array = zarr.open_array(ObjectStore(from_url(f"{url}/terms/arrays/gradient"), read_only=True), mode="r")
    assert np.array_equal(np.asarray(array[1]), expected)


def test_files_that_follow_are_fetched_at_once(machine, disk, monkeypatch) -> None:
    one = machine("one")
    disk.path = one.directory / "terms"
    disk.filled()
    two, together, most, lock = machine("two"), 0, 0, threading.Lock()
    download, arrived = Objects.download, threading.Barrier(4, timeout=60)

    def counted(self, name, path, most_bytes):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        arrived.wait()  # none ends before four are under way
        with lock:
            together -= 1
        return download(self, name, path, most_bytes)

    monkeypatch.setattr(mirrors, "AHEAD_FILES", 3)
    monkeypatch.setattr(Objects, "download", counted)
    TermStore.open(two.directory / "terms").read_items("gradient", 0, [0])
    assert most == 4


def test_numbers_in_names_are_sorted_by_value() -> None:
    names = ["c/10/0/0", "c/9/10/0", "c/9/2/0"]
    assert sorted(names, key=natural) == ["c/9/2/0", "c/9/10/0", "c/10/0/0"]


def test_an_upload_that_was_cut_off_is_not_seen_and_is_finished_later(machine, monkeypatch) -> None:
    put(machine("one"), "a.json", 1)
    one = machine("one")
    with monkeypatch.context() as patched:
        patched.setattr(mirrors, "commit", lambda objects, index: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(one, "b.json", 2)
    assert one.objects.read("b.json")  # the object is there, and no index lists it
    assert not there(machine("two").directory / "b.json")
    machine("one")  # opened again
    assert read_json(machine("two").directory / "b.json") == 2


def test_an_object_that_is_not_what_the_index_says_is_refused(machine, tmp_path) -> None:
    one = machine("one")
    CheckpointStore(one.directory / "checkpoints").write(0, {"theta": np.zeros(3)}, {})
    content = bytearray(one.objects.read("checkpoints/step-000000.h5"))
    for wrong in (content[:-7], content[:100] + b"x" + content[101:]):
        (tmp_path / "wrong").write_bytes(wrong)
        one.objects.upload("checkpoints/step-000000.h5", tmp_path / "wrong")
        two = machine(f"two-{len(wrong)}")
        with pytest.raises(DamagedError, match=r"step-000000\.h5"):
            CheckpointStore(two.directory / "checkpoints").read(0)
        assert [p for p in two.directory.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", ".fut/x", "a\\b", ""])
def test_an_index_that_leads_outside_is_refused(machine, path) -> None:
    one = machine("one")
    listed = f'{{"format": 1, "files": {{"{path}": [1, ""]}}}}'.replace("\\", "\\\\")
    assert one.objects.create(Index.name(1), listed.encode())
    with pytest.raises(DamagedError, match="cannot lie in the directory"):
        machine("two")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"format": 1}', '{"files": {}}', '{"format": 9, "files": {}}', '{"format": 1, "files": {"a": 3}}'],
)
def test_an_index_that_is_none_is_refused(machine, text) -> None:
    assert machine("one").objects.create(Index.name(1), text.encode())
    with pytest.raises(DamagedError, match="expected an index"):
        machine("two")


def test_what_another_program_uploaded_is_read_without_an_index(machine, tmp_path) -> None:
    one = machine("one")
    (tmp_path / "manifest.json").write_text('{"a": 1}')
    one.objects.upload("manifest.json", tmp_path / "manifest.json")
    two = machine("two")
    assert read_json(two.directory / "manifest.json") == {"a": 1}
    assert read_index(two.objects).number == 0  # nothing is written by reading
    put(two, "answers/b.json", 2)
    assert sorted(read_index(two.objects).files) == ["answers/b.json", "manifest.json"]


def test_two_writers_at_once_lose_nothing(machine) -> None:
    mirrors = [machine(f"machine-{i}") for i in range(4)]

    def write(i: int) -> None:
        for k in range(5):
            put(mirrors[i], f"truths/{i}-{k}.json", [i, k])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert listed(machine("reader").directory / "truths") == [f"{i}-{k}.json" for i in range(4) for k in range(5)]


def test_of_two_versions_the_policy_chooses(machine) -> None:
    one, two = machine("one"), machine("two")
    for value, mirror in ((1, one), (2, two)):
        for name in ("truths/a.json", "answers/a.json"):
            put(mirror, name, value)
    reader = machine("reader")
    assert read_json(reader.directory / "truths/a.json") == 1  # the first
    assert read_json(reader.directory / "answers/a.json") == 2  # the last
    assert read_json(two.directory / "truths/a.json") == 1
    put(one, "terms/a.json", 1)
    with pytest.raises(RemoteError, match=r"alone in writing terms/a\.json"):
        put(two, "terms/a.json", 2)
    assert read_json(machine("reader").directory / "terms/a.json") == 1
    assert read_json(two.directory / "terms/a.json") == 2  # nothing is lost
    (two.directory / "terms/a.json").unlink()
    assert read_json(machine("two").directory / "terms/a.json") == 1


def test_a_newer_version_replaces_a_copy(machine) -> None:
    one = machine("one")
    put(one, "answers/a.json", 1)
    two = machine("two")
    put(two, "answers/a.json", 2)
    one.refresh()
    assert read_json(one.directory / "answers/a.json") == 2


def test_a_command_that_writes_holds_all_and_uploads_at_its_end(machine, monkeypatch) -> None:
    one = machine("one")
    store = CheckpointStore(one.directory / "terms")
    for step in range(3):
        store.write(step, {"theta": np.full(2, step)}, {})
    put(one, "truths/a.json", 1)
    two = machine("two")
    with writing(two.directory):
        assert absent_bytes(two.directory) == 0
        CheckpointStore(two.directory / "terms").remove(1)
        put(two, "terms/b.json", 5)
        put(two, "lock", 0)
        assert 1 in CheckpointStore(machine("reader").directory / "terms").steps()  # not yet
    reader = machine("other reader")
    assert CheckpointStore(reader.directory / "terms").steps() == [0, 2]
    assert read_json(reader.directory / "terms/b.json") == 5
    assert not there(reader.directory / "lock")
    monkeypatch.setattr(mirrors, "EVERY", 0.0)  # now and then, which is always
    written_until(two, "terms/c.json", KeyboardInterrupt)
    assert read_json(machine("third reader").directory / "terms/c.json") == 6


def test_what_an_error_ends_is_uploaded_and_what_a_key_ends_is_later(machine) -> None:
    one = machine("one")
    written_until(one, "a.json", ValueError)
    assert there(machine("reader").directory / "a.json")
    written_until(one, "b.json", KeyboardInterrupt)
    assert not there(machine("reader").directory / "b.json")
    machine("one")
    assert there(machine("reader").directory / "b.json")


def test_a_lost_record_of_the_copy_costs_a_comparison_and_no_upload(machine, tmp_path) -> None:
    put(machine("one"), "a.json", 1)
    (tmp_path / "one/synced.json").write_text("no JSON")
    number = read_index(machine("one").objects).number
    assert read_index(machine("one").objects).number == number


def test_a_file_that_changes_within_a_tick_of_the_clock_is_seen(machine) -> None:
    one = machine("one")
    path = put(one, "answers/a.json", 1)
    found = path.stat()
    path.write_text("2\n")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    one.push()
    assert read_json(machine("two").directory / "answers/a.json") == 2


def test_old_indices_go(machine) -> None:
    one = machine("one")
    for value in range(6):
        put(one, "answers/a.json", value)
    assert sorted(one.objects.sizes(".fut")) == [Index.name(number) for number in (5, 6, 7)]


def test_an_index_is_not_written_over_another(machine) -> None:
    objects = machine("one").objects
    assert commit(objects, Index(1, {}))
    assert not commit(objects, Index(1, {}))


def test_a_directory_goes_there_and_back(url, tmp_path) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    (here / "truths").mkdir(parents=True)
    write_json(here / "manifest.json", {"a": 1})
    write_json(here / "truths/a.json", 1)
    (here / "lock").write_text("12")
    upload = Upload(here, url, POLICY)
    assert sorted(upload.transfer.files) == ["manifest.json", "truths/a.json"]
    assert upload.transfer.nbytes == sum(p.stat().st_size for p in (here / "manifest.json", here / "truths/a.json"))
    ticks: list[None] = []
    upload.run(lambda: ticks.append(None))
    assert len(ticks) == 2
    assert not Upload(here, url, POLICY).transfer.files  # nothing is new
    Download(url, back, POLICY).run(lambda: None)
    assert sorted(p.relative_to(back).as_posix() for p in back.rglob("*.json")) == ["manifest.json", "truths/a.json"]
    write_json(here / "truths/b.json", 2)
    Upload(here, url, POLICY).run(lambda: None)
    assert list(Download(url, back, POLICY).transfer.files) == ["truths/b.json"]


def test_what_a_directory_lacks_is_taken_away_on_request(machine, url, tmp_path) -> None:
    here = tmp_path / "here"
    for name in ("manifest.json", "terms/a.json", "terms/b.json", "truths/a.json"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(here / name, name)
    Upload(here, url, POLICY).run(lambda: None)
    one = machine("one")
    (here / "terms/a.json").unlink()
    (here / "truths/a.json").unlink()
    Upload(here, url, POLICY).run(lambda: None)
    assert there(machine("two").directory / "terms/a.json")
    upload = Upload(here, url, POLICY, prune=True)
    assert upload.transfer.removed == {"terms/a.json"}
    upload.run(lambda: None)
    assert sorted(read_index(Objects(url)).files) == ["manifest.json", "terms/b.json", "truths/a.json"]
    assert "terms/a.json" not in Objects(url).sizes()
    one.refresh()
    assert not (one.directory / "terms/a.json").exists()


def test_terms_of_two_machines_are_not_mixed_by_a_push(machine, url, tmp_path) -> None:
    here = tmp_path / "here"
    (here / "terms").mkdir(parents=True)
    write_json(here / "manifest.json", {"a": 1})
    Upload(here, url, POLICY).run(lambda: None)
    put(machine("one"), "terms/a.json", "theirs")
    write_json(here / "terms/a.json", "ours")
    write_json(here / "terms/b.json", "ours")
    with pytest.raises(IdentityError, match=r"expected terms/a\.json in .* it differs"):
        Upload(here, url, POLICY)
    assert read_json(machine("two").directory / "terms/a.json") == "theirs"
    assert not there(machine("two").directory / "terms/b.json")
    Upload(here, url, POLICY, prune=True).run(lambda: None)
    assert read_json(machine("three").directory / "terms/a.json") == "ours"


def test_another_directory_is_not_mixed_in(url, tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "manifest.json", name)
    Upload(tmp_path / "one", url, POLICY).run(lambda: None)
    with pytest.raises(IdentityError, match="another lies there"):
        Upload(tmp_path / "two", url, POLICY)
    with pytest.raises(IdentityError, match="it differs"):
        Download(url, tmp_path / "two", POLICY)
    (tmp_path / "three").mkdir()
    write_json(tmp_path / "three/other.json", 1)
    with pytest.raises(IdentityError, match="new or empty"):
        Download(url, tmp_path / "three", POLICY)
    with pytest.raises(MissingError, match=r"manifest\.json"):
        Upload(tmp_path / "three", url, POLICY)
    with pytest.raises(MissingError, match="there is none"):
        Download(f"{url}-empty", tmp_path / "four", POLICY)


def test_a_link_is_not_uploaded(url, tmp_path) -> None:
    (tmp_path / "one").mkdir()
    write_json(tmp_path / "one/manifest.json", 1)
    (tmp_path / "one/secret").symlink_to("/etc/hostname")
    with pytest.raises(DamagedError, match="a link"):
        Upload(tmp_path / "one", url, POLICY)


def test_a_server_that_does_not_answer_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with pytest.raises(RemoteError, match="s3://nowhere/run: listing failed"):
        Mirror("s3://nowhere/run", tmp_path / "home")


def test_all_is_fetched_on_request(machine) -> None:
    CheckpointStore(machine("one").directory / "checkpoints").write(0, {"theta": np.zeros(3)}, {})
    two = machine("two")
    fetch_all(two.directory)
    assert (two.directory / "checkpoints/step-000000.h5").exists()

"""Files are whole or absent, whatever fails in between."""

import errno
import os
import re
import shutil
import time

import pytest
from patience import PATIENCE

from storage import (
    ContentError,
    DamagedError,
    DiskFullError,
    MissingError,
    read_json,
    remove_abandoned,
    remove_parts,
    replacing,
    require_free,
    write_bytes,
    write_json,
)
from storage.atomic import FORGOTTEN


class Killed(BaseException):
    """Stands for a failure that no handler expects."""


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [Killed(), OSError(errno.EIO, "broken disk")])
def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch, failing, failure):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(*_):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(type(failure)):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_failing_body_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    parts = []

    def write_half() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            parts.append(part)
            raise Killed

    with pytest.raises(Killed):
        write_half()
    assert [(part.parent, part.suffix) for part in parts] == [(tmp_path, ".part")]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_content_is_durable_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace

    def recorded_sync(descriptor):
        kind = "directory" if os.path.isdir(os.readlink(f"/proc/self/fd/{descriptor}")) else "file"
        events.append(f"sync {kind}")
        sync(descriptor)

    def recorded_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_bytes(tmp_path / "file", b"content")
    assert events == ["sync file", "rename", "sync directory"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_its_free_bytes(tmp_path, monkeypatch, code):
    path = tmp_path / "file"

    def full(_):
        raise OSError(code, "no room")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 321, 321))
    with pytest.raises(DiskFullError, match="321 bytes free") as caught:
        write_bytes(path, b"x")
    assert str(path) in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_require_free_gives_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 500, 500))
    require_free(tmp_path, 500, "the terms")
    with pytest.raises(DiskFullError, match=r"expected 501 bytes free for the terms; .* has 500 bytes free"):
        require_free(tmp_path / "not" / "yet", 501, "the terms")


def test_remove_parts_removes_what_a_killed_process_left_and_nothing_else(tmp_path, start_python):
    script = (
        "import os, sys\nfrom storage import replacing\nwith replacing(sys.argv[1]) as part:\n"
        "    part.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
    )
    write_bytes(tmp_path / "file", b"old")
    start_python(script, tmp_path / "file").communicate(timeout=PATIENCE)
    stray = [name for name in os.listdir(tmp_path) if name.endswith(".part")]
    assert len(stray) == 1
    with replacing(tmp_path / "other") as part:
        part.write_bytes(b"mine")
        assert [path.name for path in remove_parts(tmp_path)] == stray
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_the_next_process_removes_what_a_killed_one_left_and_nothing_of_one_that_lives(tmp_path, start_python):
    killed = (
        "import os, sys\nfrom storage import replacing\nwith replacing(sys.argv[1]) as part:\n"
        "    part.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
    )
    start_python(killed, tmp_path / "file").communicate(timeout=PATIENCE)
    (stray,) = (path.name for path in tmp_path.iterdir())
    elsewhere = re.sub(r"-[0-9a-f]{8}", "-00000000", stray)  # of another machine, whose processes are not seen here
    foreign = ("odd.part", "file.0-x-1.part", elsewhere)
    for name in foreign:
        (tmp_path / name).write_bytes(b"half")
    with replacing(tmp_path / "mine") as part:
        part.write_bytes(b"half")
        writes = "import sys\nfrom storage import write_bytes\nwrite_bytes(sys.argv[1], b'whole')\n"
        assert start_python(writes, tmp_path / "other").communicate(timeout=PATIENCE) == ("", "")
        assert sorted(os.listdir(tmp_path)) == sorted([part.name, "other", *foreign])


def test_what_nobody_writes_any_more_is_removed_below_a_directory(tmp_path, start_python):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    killed = (
        "import os, sys\nfrom storage import replacing\nwith replacing(sys.argv[1]) as part:\n"
        "    part.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
    )
    with replacing(deep / "mine") as part:
        part.write_bytes(b"half")
        start_python(killed, deep / "file").communicate(timeout=PATIENCE)
        (stray,) = (path for path in deep.iterdir() if path != part)
        elsewhere = re.sub(r"-[0-9a-f]{8}", "-00000000", stray.name)  # of another machine
        names = ("old." + elsewhere, "new." + elsewhere, "my own.part")
        for name in names:
            (deep / name).write_bytes(b"half")
        for name in (names[0], names[2]):
            os.utime(deep / name, (0, time.time() - 1.1 * FORGOTTEN))
        assert sorted(path.name for path in remove_abandoned(tmp_path)) == sorted([stray.name, names[0]])
        assert sorted(path.name for path in deep.iterdir()) == sorted([part.name, *names[1:]])
    assert remove_abandoned(tmp_path / "not there") == []


def test_json_round_trip_is_sorted_and_ends_in_a_newline(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "ü"})
    assert read_json(path) == {"a": "ü", "b": [1, 2.5, None]}
    text = path.read_text()
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {"a": object()}])
def test_json_refuses_what_it_cannot_hold(tmp_path, value):
    path = tmp_path / "a.json"
    with pytest.raises(ContentError, match="expected a JSON value"):
        write_json(path, value)
    assert not path.exists()


def test_reading_json_that_is_absent_or_damaged(tmp_path):
    with pytest.raises(MissingError, match=r"none\.json"):
        read_json(tmp_path / "none.json")
    for content in (b"", b'{"a": 1', b"\xff\xfe{"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(DamagedError, match=r"bad\.json"):
            read_json(tmp_path / "bad.json")

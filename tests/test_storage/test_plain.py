"""Files are opened as regular files alone, documents are bounded, and stores know whose they are."""

import json
import os
import shutil
from pathlib import Path

import google_crc32c
import h5py
import numpy as np
import pytest

from storage import (
    CheckpointStore,
    DamagedError,
    IdentityError,
    TermSpec,
    TermStore,
    irregular,
    open_plain,
    parse_json,
    read_json,
    read_plain,
    require_plain,
    write_json,
)


def test_what_is_no_regular_file_is_neither_followed_nor_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with open_plain(tmp_path / "file") as file:
        assert file.read() == b"content"
    kinds = {"link": "a link", "dangling": "a link", "folder": "a directory", "fifo": "a FIFO"}
    for name, kind in kinds.items():
        with pytest.raises(DamagedError, match=rf"expected a regular file in .*{name}; got {kind}"):
            open_plain(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "absent")
    with pytest.raises(DamagedError, match="a device"):
        open_plain("/dev/zero")
    assert {Path(d.path).name for d in irregular(tmp_path)} == {"link", "dangling", "fifo"}


def test_a_directory_is_looked_at_as_a_whole_and_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "run" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "deep" / "file").write_text("x")
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    require_plain(tmp_path / "latest")
    require_plain(tmp_path / "absent")
    (tmp_path / "run" / "deep" / "out").symlink_to(tmp_path)
    with pytest.raises(DamagedError, match=r"deep/out, a link"):
        require_plain(tmp_path / "latest")


def test_a_large_document_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError, match="expected at most 268435456 bytes"):
        read_json(tmp_path / "sparse.json")
    (tmp_path / "small").write_bytes(b"four")
    assert read_plain(tmp_path / "small", most=4) == b"four"
    with pytest.raises(DamagedError, match="expected at most 3 bytes"):
        read_plain(tmp_path / "small", most=3)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "1e999", "-1e400", "[" * 65 + "]" * 65, "[" * 10**6, "9" * 5000, "{", "", '{"a": 1,}']
)
def test_odd_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text)
    assert not isinstance(caught.value, RecursionError)


def test_sound_json_is_read() -> None:
    assert parse_json("[" * 64 + "]" * 64) is not None
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": 10**300}}
    assert parse_json(json.dumps(value)) == value


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / "target.json").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "target.json", [1])
    assert (tmp_path / "precious").read_text() == "keep me", "the link is replaced, not followed"
    assert read_json(tmp_path / "target.json") == [1]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    made = CheckpointStore(tmp_path / "mine", "mine")
    made.write(1, {"theta": np.arange(6.0)}, {"loss": 0.5})
    return made


def test_a_checkpoint_of_another_owner_is_refused_by_name(tmp_path: Path, store: CheckpointStore) -> None:
    other = CheckpointStore(tmp_path / "other", "theirs")
    other.write(1, {"theta": np.arange(6.0)}, {"loss": 0.5})
    shutil.copy(other.path(1), store.path(1))
    for ask in (store.read, store.read_attributes, lambda step: store.read_array(step, "theta")):
        with pytest.raises(
            IdentityError, match=r"step-000001.h5 \(owner mine…\); it belongs to another \(owner theirs…\)"
        ):
            ask(1)
    assert [Path(d.path).name for d in store.check()] == ["step-000001.h5"]
    assert CheckpointStore(store.directory).read(1).attributes == {"loss": 0.5}, "who does not ask may read it"


def test_a_checkpoint_of_an_older_format_is_refused_by_name(store: CheckpointStore) -> None:
    with h5py.File(store.path(1), "r+") as file:
        del file["header"]
        file["header"] = np.frombuffer(json.dumps({"step": 1, "attributes": {}}).encode(), np.uint8)
    with pytest.raises(IdentityError, match="it has format None"):
        store.read(1)


def test_a_checkpoint_has_no_more_than_what_it_belongs_to_implies(store: CheckpointStore) -> None:
    small = CheckpointStore(store.directory, "mine", most=100)
    with pytest.raises(DamagedError, match="implies at most 100"):
        small.read(1)
    assert CheckpointStore(store.directory, "mine", most=1 << 20).read(1).arrays["theta"].tolist() == [0, 1, 2, 3, 4, 5]


def terms(path: Path, seed: int) -> TermStore:
    made = TermStore.create_or_open(path, [TermSpec("gradient", (2, 4, 3), "float32")], {"seed": seed}, 2)
    for block in made.blocks("gradient"):
        made.write(block, {"gradient": np.full((2, 3), float(seed), np.float32)})
    return made


def test_a_block_of_another_store_is_refused(tmp_path: Path) -> None:
    mine, other = terms(tmp_path / "mine", 1), terms(tmp_path / "other", 2)
    for file in ("ledger/gradient/0-0.json", "arrays/gradient/c/0/0/0"):
        shutil.copy(other.path / file, mine.path / file)
    with pytest.raises(DamagedError, match="one of another store"):
        mine.read("gradient", 0)
    assert mine.read("gradient", 1).tolist() == [[1.0] * 3] * 4
    assert [Path(d.path).name for d in mine.check()] == ["0-0.json"]


def test_a_store_is_opened_for_what_it_must_be(tmp_path: Path) -> None:
    specs = list(terms(tmp_path / "mine", 1).specs)
    assert TermStore.open(tmp_path / "mine", {"seed": 1}, specs).missing() == []
    with pytest.raises(IdentityError, match="seed: expected 2, found 1"):
        TermStore.open(tmp_path / "mine", {"seed": 2})
    with pytest.raises(IdentityError, match="layout of the term store"):
        TermStore.open(tmp_path / "mine", {"seed": 1}, [TermSpec("gradient", (2, 4, 10**9), "float32")])


def test_a_chunk_that_declares_more_than_its_size_is_not_decoded(tmp_path: Path) -> None:
    """A frame of zstd says how large it is once it is decompressed; the decoder would allocate that."""
    made = terms(tmp_path / "mine", 1)
    chunk = made.path / "arrays/gradient/c/0/0/0"
    data = bytearray(chunk.read_bytes())
    assert data[:4] == b"\x28\xb5\x2f\xfd"
    frame = bytes(data[:4]) + bytes([0xE0]) + (10**12).to_bytes(8, "little") + bytes(data[6:-4])
    crc = google_crc32c.value(frame)
    chunk.write_bytes(frame + crc.to_bytes(4, "little"))
    entry = made.path / "ledger/gradient/0-0.json"
    content = json.loads(entry.read_text())
    content["chunks"]["c/0/0/0"] = {"length": len(frame) + 4, "crc32c": crc}
    entry.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="a chunk of 1000000000000 bytes where the layout asks for 24"):
        made.read("gradient", 0)

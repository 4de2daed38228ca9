"""The store on disk: what it belongs to, what it looks like, and in which order it becomes durable."""

import errno
import json
import os
import shutil
from typing import Any

import numpy as np
import pytest
import zarr

from storage import (
    FORMAT,
    Block,
    DamagedError,
    DiskFullError,
    ExistsError,
    IdentityError,
    Manifest,
    MissingError,
    TermSpec,
    TermStore,
)


def test_another_identity_is_refused_naming_the_field_and_both_values(tmp_path, disk):
    disk.opened()
    with pytest.raises(IdentityError, match=r"seed: expected 4, found 3") as caught:
        disk.opened(identity=disk.identity | {"seed": 4})
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(IdentityError, match=r'rule\.name: expected "sgd", found "adam"'):
        disk.opened(identity={"seed": 3, "rule": {"name": "sgd"}})
    with pytest.raises(IdentityError, match=r"sketch: expected 1, found no such field"):
        disk.opened(identity=disk.identity | {"sketch": 1})


def test_another_layout_is_refused_naming_the_field_and_both_values(disk):
    disk.opened()
    with pytest.raises(IdentityError, match=r"item_block: expected 3, found 2"):
        disk.opened(item_block=3)
    with pytest.raises(IdentityError, match=r"terms\.half: expected no such field"):
        disk.opened(specs=disk.specs[:1])
    with pytest.raises(IdentityError, match=r"terms\.half\.shape\[1\]: expected 6, found 5"):
        disk.opened(specs=[disk.specs[0], TermSpec("half", (2, 6, 4), "bfloat16")])
    with pytest.raises(IdentityError, match=r'terms\.half\.dtype: expected "float32", found "bfloat16"'):
        disk.opened(specs=[disk.specs[0], TermSpec("half", (2, 5, 4), "float32")])


def test_open_needs_no_identity_and_does_not_write(tmp_path, disk):
    written = disk.filled().read("half", 1)
    store = TermStore.open(tmp_path)
    assert store.identity == disk.identity
    assert store.specs == tuple(disk.specs)
    assert store.item_block == 2
    np.testing.assert_array_equal(store.read("half", 1), written)
    with pytest.raises(IdentityError, match="create_or_open"):
        disk.write(store, Block(0, 0, 2))


def test_what_is_no_store_is_not_opened(tmp_path, disk):
    with pytest.raises(MissingError, match="fut cache RUN"):
        TermStore.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    Manifest("run", FORMAT, {}, {}).write(tmp_path / "manifest.json")
    for ask in (TermStore.open, lambda _: disk.opened()):
        with pytest.raises(IdentityError, match="it is one of run"):
            ask(tmp_path)


def test_a_store_that_lost_its_manifest_is_not_taken_for_a_new_one(tmp_path, disk):
    disk.filled()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        disk.opened()


def test_zarr_itself_reads_the_arrays(tmp_path, disk):
    store = disk.filled()
    group: Any = zarr.open_group(tmp_path / "arrays", mode="r")
    assert sorted(group.array_keys()) == ["gradient", "half"]
    np.testing.assert_array_equal(group["gradient"][1], store.read("gradient", 1))
    document = json.loads((tmp_path / "arrays/gradient/zarr.json").read_text())
    assert [codec["name"] for codec in document["codecs"]] == ["bytes", "zstd", "crc32c"]
    assert document["chunk_grid"]["configuration"]["chunk_shape"] == [1, 2, 4]
    assert document["fill_value"] == "NaN"


def test_a_full_disk_leaves_the_block_missing_and_no_half_chunk(tmp_path, disk, monkeypatch):
    store = disk.opened()
    disk.write(store, Block(0, 0, 2))
    sync = os.fsync

    def full(descriptor):
        if "/arrays/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "full")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match=r"gradient/c/0/1.*bytes free"):
            disk.write(store, Block(0, 2, 4))
    assert len(disk.chunk_files()) == 2
    assert Block(0, 2, 4) in store.missing()
    assert store.check() == []
    disk.filled()
    assert TermStore.open(tmp_path).missing() == []


def test_a_failed_rewrite_leaves_the_block_missing_not_stale(disk, monkeypatch):
    store = disk.filled()

    def broken(_):
        raise OSError(errno.EIO, "broken disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="broken disk"):
            disk.write(store, Block(0, 2, 4))
    assert store.missing_names(Block(0, 2, 4)) == ["gradient"]


def test_chunks_are_durable_before_their_marker_has_its_name(tmp_path, disk, monkeypatch):
    store = disk.opened(specs=disk.specs[:1])
    disk.write(store, Block(0, 0, 2))
    events = []
    sync, replace = os.fsync, os.replace

    def recorded_sync(descriptor):
        events.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        sync(descriptor)

    def recorded_replace(source, target):
        events.append(f"rename to {os.path.relpath(target, tmp_path)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    disk.write(store, Block(1, 2, 4))
    marked = events.index("rename to ledger/gradient/1-2.json")
    folder = "arrays/gradient/c"
    assert {f"{folder}/1/1/0", f"{folder}/1/1", f"{folder}/1", folder} <= set(events[:marked])
    assert events[-1] == "ledger/gradient"


def test_a_rewritten_block_is_durably_unmarked_before_its_chunks_change(tmp_path, disk, monkeypatch):
    store = disk.filled(specs=disk.specs[:1])
    chunk, marker = tmp_path / "arrays/gradient/c/1/1/0", tmp_path / "ledger/gradient/1-2.json"
    old = chunk.read_bytes()
    seen = []
    sync = os.fsync

    def recorded_sync(descriptor):
        seen.append(
            (os.readlink(f"/proc/self/fd/{descriptor}"), marker.exists(), chunk.exists() and chunk.read_bytes() == old)
        )
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    store.write(Block(1, 2, 4), {"gradient": np.ones((2, 4), np.float32)})
    assert seen[0] == (str(marker.parent), False, True)


def test_discard_deletes_the_chunks_and_what_a_killed_writer_left_beside_them(tmp_path, disk):
    store = disk.filled()
    folder = tmp_path / "arrays/gradient/c/0/1"
    (folder / "0.abc.partial").write_bytes(b"half")
    before = store.nbytes()
    store.discard(Block(0, 2, 4), ["gradient"])
    assert not folder.exists()
    assert store.nbytes() < before
    assert len(disk.chunk_files()) == 11


def test_nbytes_counts_every_file(tmp_path, disk):
    store = disk.filled()
    assert store.nbytes() == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    shutil.rmtree(tmp_path / "ledger")
    assert 0 < store.nbytes() < disk.filled().nbytes()


def test_errors_are_also_the_builtins():
    assert issubclass(MissingError, FileNotFoundError)
    assert issubclass(ExistsError, FileExistsError)
    assert issubclass(DamagedError, OSError)
    assert issubclass(IdentityError, ValueError)
    assert str(MissingError("text")) == "text"
    assert str(DiskFullError("text")) == "text"

"""The store on disk: what it belongs to, what it looks like, and what it notices when a byte has changed."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import zarr

from storage import (
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

SPECS = [TermSpec("gradient", (2, 5, 4), "float32"), TermSpec("half", (2, 5, 4), "bfloat16")]
IDENTITY = {"seed": 3, "rule": {"name": "adam"}}


def opened(path, specs=SPECS, identity=IDENTITY, item_block=2) -> TermStore:
    return TermStore.create_or_open(path, specs, identity, item_block)


def write(store, block) -> None:
    rng = np.random.default_rng([block.step, block.first])
    shape = (block.last - block.first, store.specs[0].shape[2])
    store.write(block, {spec.name: rng.normal(size=shape).astype(np.float32) for spec in store.specs})


def filled(path, **changed) -> TermStore:
    store = opened(path, **changed)
    for block in store.missing():
        write(store, block)
    return store


def chunk_files(path):
    return sorted(file for file in (path / "arrays").rglob("*") if file.is_file() and file.name != "zarr.json")


def flip(path, position, mask=1):
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def assert_found(store, files):
    """`check` names exactly `files`, and `read` refuses exactly the steps of the terms that they belong to."""
    assert sorted(damage.path for damage in store.check()) == sorted(map(str, files))
    arrays = store.path / "arrays"
    affected = {(file.relative_to(arrays).parts[0], int(file.relative_to(arrays).parts[2])) for file in files}
    for spec in store.specs:
        for step in range(spec.shape[0]):
            if (spec.name, step) in affected:
                with pytest.raises(DamagedError, match=rf"{spec.name}.*c/{step}/") as caught:
                    store.read(spec.name, step)
                assert any(str(file) in str(caught.value) for file in files)
            else:
                store.read(spec.name, step)


def test_another_identity_is_refused_naming_the_field_and_both_values(tmp_path):
    opened(tmp_path)
    with pytest.raises(IdentityError, match=r"seed: expected 4, found 3") as caught:
        opened(tmp_path, identity=IDENTITY | {"seed": 4})
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(IdentityError, match=r'rule\.name: expected "sgd", found "adam"'):
        opened(tmp_path, identity={"seed": 3, "rule": {"name": "sgd"}})
    with pytest.raises(IdentityError, match=r"sketch: expected 1, found no such field"):
        opened(tmp_path, identity=IDENTITY | {"sketch": 1})


def test_another_layout_is_refused_naming_the_field_and_both_values(tmp_path):
    opened(tmp_path)
    with pytest.raises(IdentityError, match=r"item_block: expected 3, found 2"):
        opened(tmp_path, item_block=3)
    with pytest.raises(IdentityError, match=r"terms\.half: expected no such field"):
        opened(tmp_path, specs=SPECS[:1])
    with pytest.raises(IdentityError, match=r"terms\.half\.shape\[1\]: expected 6, found 5"):
        opened(tmp_path, specs=[SPECS[0], TermSpec("half", (2, 6, 4), "bfloat16")])
    with pytest.raises(IdentityError, match=r'terms\.half\.dtype: expected "float32", found "bfloat16"'):
        opened(tmp_path, specs=[SPECS[0], TermSpec("half", (2, 5, 4), "float32")])


def test_open_needs_no_identity_and_does_not_write(tmp_path):
    written = filled(tmp_path).read("half", 1)
    store = TermStore.open(tmp_path)
    assert store.identity == IDENTITY
    assert store.specs == tuple(SPECS)
    assert store.item_block == 2
    np.testing.assert_array_equal(store.read("half", 1), written)
    with pytest.raises(IdentityError, match="create_or_open"):
        write(store, Block(0, 0, 2))


def test_what_is_no_store_is_not_opened(tmp_path):
    with pytest.raises(MissingError, match="fut cache RUN"):
        TermStore.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    Manifest("run", 1, {}, {}).write(tmp_path / "manifest.json")
    for ask in (TermStore.open, opened):
        with pytest.raises(IdentityError, match="it is one of run"):
            ask(tmp_path)


def test_a_store_that_lost_its_manifest_is_not_taken_for_a_new_one(tmp_path):
    filled(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        opened(tmp_path)


def test_zarr_itself_reads_the_arrays(tmp_path):
    store = filled(tmp_path)
    group = zarr.open_group(tmp_path / "arrays", mode="r")
    assert sorted(group.array_keys()) == ["gradient", "half"]
    np.testing.assert_array_equal(group["gradient"][1], store.read("gradient", 1))
    document = json.loads((tmp_path / "arrays/gradient/zarr.json").read_text())
    assert [codec["name"] for codec in document["codecs"]] == ["bytes", "zstd", "crc32c"]
    assert document["chunk_grid"]["configuration"]["chunk_shape"] == [1, 2, 4]
    assert document["fill_value"] == "NaN"


def test_wide_terms_are_cut_into_chunks_of_coordinates(tmp_path):
    wide = TermSpec("wide", (1, 3, 300_000), "float32")
    store = filled(tmp_path, specs=[wide])
    assert [str(file.relative_to(tmp_path / "arrays/wide")) for file in chunk_files(tmp_path)] == [
        "c/0/0/0", "c/0/0/1", "c/0/1/0", "c/0/1/1",
    ]  # fmt: skip
    rng = np.random.default_rng([0, 2])
    np.testing.assert_array_equal(store.read("wide", 0)[2:], rng.normal(size=(1, 300_000)).astype(np.float32))
    flip(tmp_path / "arrays/wide/c/0/1/1", 5000)
    assert_found(store, [tmp_path / "arrays/wide/c/0/1/1"])


def test_a_flipped_byte_in_any_chunk_file_is_found(tmp_path):
    store = filled(tmp_path)
    files = chunk_files(tmp_path)
    assert len(files) == 12
    for file in files:
        for position in (0, file.stat().st_size // 2, -4, -1):
            flip(file, position)
            assert_found(store, [file])
            flip(file, position)
    assert store.check() == []


@pytest.mark.parametrize(
    "change", [lambda data: b"", lambda data: data[:3], lambda data: data[:-1], lambda data: data + b"\0"]
)
def test_a_chunk_file_of_another_length_is_found(tmp_path, change):
    store = filled(tmp_path)
    file = chunk_files(tmp_path)[3]
    file.write_bytes(change(file.read_bytes()))
    assert_found(store, [file])


def test_a_deleted_chunk_file_is_found(tmp_path):
    store = filled(tmp_path)
    file = chunk_files(tmp_path)[4]
    file.unlink()
    assert_found(store, [file])


def test_swapped_chunk_files_are_found(tmp_path):
    store = filled(tmp_path)
    one, other = tmp_path / "arrays/gradient/c/0/0/0", tmp_path / "arrays/gradient/c/1/1/0"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert_found(store, [one, other])


def test_swapped_markers_are_found(tmp_path):
    store = filled(tmp_path)
    one, other = tmp_path / "ledger/half/0-0.json", tmp_path / "ledger/half/1-2.json"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert sorted(damage.path for damage in store.check()) == [str(one), str(other)]
    for step in (0, 1):
        with pytest.raises(DamagedError, match="completion marker"):
            store.read("half", step)


def test_a_flipped_byte_in_a_marker_is_found_or_harmless(tmp_path):
    store = filled(tmp_path)
    marker = tmp_path / "ledger/gradient/0-2.json"
    expected = store.read("gradient", 0)
    found = 0
    for position in range(marker.stat().st_size):
        flip(marker, position, 4)
        if store.check():
            with pytest.raises(DamagedError):
                store.read("gradient", 0)
            found += 1
        else:
            np.testing.assert_array_equal(store.read("gradient", 0), expected)
        flip(marker, position, 4)
    assert found > 0.9 * marker.stat().st_size


def test_repair_discards_what_is_damaged_and_nothing_else(tmp_path):
    store = filled(tmp_path)
    before = {spec.name: [store.read(spec.name, step) for step in range(2)] for spec in SPECS}
    flip(tmp_path / "arrays/gradient/c/0/1/0", 8)
    (tmp_path / "arrays/half/c/1/2/0").unlink()
    (tmp_path / "ledger/half/0-0.json").write_bytes(b"")
    flip(tmp_path / "arrays/half/zarr.json", 0)
    damaged = [Block(0, 0, 2), Block(0, 2, 4), Block(1, 4, 5)]
    assert TermStore.repair(store) == damaged
    assert store.missing() == damaged
    assert [store.missing_names(block) for block in damaged] == [["half"], ["gradient"], ["half"]]
    assert store.check() == []
    store = filled(tmp_path)
    for name, arrays in before.items():
        for step, array in enumerate(arrays):
            np.testing.assert_array_equal(store.read(name, step), array)
    assert store.repair() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", ""),
        ("2,", "1,"),
        ("5,", "6,"),
        ('"/"', '"."'),
        ('"NaN"', "0.0"),
        ('"shape"', '"shope"'),
        ('"array"', '"group"'),
        ('"little"', '"big"'),
        ('"crc32c"', '"crc32d"'),
        ('"float32"', '"int32"'),
    ],
)
def test_damaged_array_metadata_is_found_and_can_be_written_anew(tmp_path, old, new):
    written = filled(tmp_path)
    metadata = tmp_path / "arrays/gradient/zarr.json"
    text = metadata.read_text()
    assert old in text
    metadata.write_text(text.replace(old, new, 1))
    assert [damage.path for damage in written.check()] == [str(metadata)]
    for ask in (TermStore.open, opened):
        with pytest.raises(DamagedError, match=r"gradient/zarr\.json.*delete that file"):
            ask(tmp_path)
    metadata.unlink()
    assert opened(tmp_path).missing() == []
    assert metadata.read_text() == text


def test_every_flipped_byte_of_array_metadata_is_found_or_harmless(tmp_path):
    expected = filled(tmp_path).read("gradient", 1)
    metadata = tmp_path / "arrays/gradient/zarr.json"
    size = metadata.stat().st_size
    found = 0
    for position in range(0, size, 3):
        flip(metadata, position)
        try:
            store = TermStore.open(tmp_path)
        except DamagedError:
            found += 1
        else:
            np.testing.assert_array_equal(store.read("gradient", 1), expected)
        flip(metadata, position)
    assert found > size // 3 // 4


def test_damaged_group_metadata_is_found_and_repaired(tmp_path):
    store = filled(tmp_path)
    (tmp_path / "arrays/zarr.json").write_bytes(b"{")
    assert [damage.path for damage in store.check()] == [str(tmp_path / "arrays/zarr.json")]
    assert store.repair() == []
    assert store.check() == []


def test_a_full_disk_leaves_the_block_missing_and_no_half_chunk(tmp_path, monkeypatch):
    store = opened(tmp_path)
    write(store, Block(0, 0, 2))
    sync = os.fsync

    def full(descriptor):
        if "/arrays/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "full")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match=r"gradient/c/0/1.*bytes free"):
            write(store, Block(0, 2, 4))
    assert len(chunk_files(tmp_path)) == 2
    assert Block(0, 2, 4) in store.missing()
    assert store.check() == []
    filled(tmp_path)
    assert TermStore.open(tmp_path).missing() == []


def test_a_failed_rewrite_leaves_the_block_missing_not_stale(tmp_path, monkeypatch):
    store = filled(tmp_path)

    def broken(_):
        raise OSError(errno.EIO, "broken disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="broken disk"):
            write(store, Block(0, 2, 4))
    assert store.missing_names(Block(0, 2, 4)) == ["gradient"]


def test_chunks_are_durable_before_their_marker_has_its_name(tmp_path, monkeypatch):
    store = opened(tmp_path, specs=SPECS[:1])
    write(store, Block(0, 0, 2))
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
    write(store, Block(1, 2, 4))
    marked = events.index("rename to ledger/gradient/1-2.json")
    folder = "arrays/gradient/c"
    assert {f"{folder}/1/1/0", f"{folder}/1/1", f"{folder}/1", folder} <= set(events[:marked])
    assert events[-1] == "ledger/gradient"


def test_a_rewritten_block_is_durably_unmarked_before_its_chunks_change(tmp_path, monkeypatch):
    store = filled(tmp_path, specs=SPECS[:1])
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


def test_discard_deletes_the_chunks_and_what_a_killed_writer_left_beside_them(tmp_path):
    store = filled(tmp_path)
    folder = tmp_path / "arrays/gradient/c/0/1"
    (folder / "0.abc.partial").write_bytes(b"half")
    before = store.nbytes()
    store.discard(Block(0, 2, 4), ["gradient"])
    assert not folder.exists()
    assert store.nbytes() < before
    assert len(chunk_files(tmp_path)) == 11


def test_a_damaged_block_can_be_written_over(tmp_path):
    store = filled(tmp_path)
    expected = store.read("gradient", 0)
    flip(tmp_path / "arrays/gradient/c/0/2/0", 3)
    write(store, Block(0, 4, 5))
    assert store.check() == []
    np.testing.assert_array_equal(store.read("gradient", 0), expected)


def failing_to_open(monkeypatch, file, code):
    whole = type(file).open

    def fail(path, *arguments, **options):
        if path == file:
            raise OSError(code, os.strerror(code))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(type(file), "open", fail)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE])
def test_a_file_that_is_only_out_of_reach_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch, code):
    store = filled(tmp_path)
    failing_to_open(monkeypatch, chunk_files(tmp_path)[2], code)
    for ask in (store.check, store.repair, lambda: store.read("gradient", 0)):
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            ask()
        assert not isinstance(caught.value, DamagedError)
    assert store.missing() == []


def test_a_file_that_the_disk_cannot_read_is_damaged(tmp_path, monkeypatch):
    store = filled(tmp_path)
    file = chunk_files(tmp_path)[2]
    failing_to_open(monkeypatch, file, errno.EIO)
    assert_found(store, [file])


def test_nbytes_counts_every_file(tmp_path):
    store = filled(tmp_path)
    assert store.nbytes() == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    shutil.rmtree(tmp_path / "ledger")
    assert 0 < store.nbytes() < filled(tmp_path).nbytes()


def test_errors_are_also_the_builtins():
    assert issubclass(MissingError, FileNotFoundError)
    assert issubclass(ExistsError, FileExistsError)
    assert issubclass(DamagedError, OSError)
    assert issubclass(IdentityError, ValueError)
    assert str(MissingError("text")) == "text"
    assert str(DiskFullError("text")) == "text"

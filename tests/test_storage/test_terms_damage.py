"""What the store notices when a byte has changed, a file is gone or files are swapped; and how it repairs."""

import errno
import os

import numpy as np
import pytest

from storage import Block, DamagedError, TermSpec, TermStore


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


def test_wide_terms_are_cut_into_chunks_of_coordinates(tmp_path, disk):
    wide = TermSpec("wide", (1, 3, 300_000), "float32")
    store = disk.filled(specs=[wide])
    assert [str(file.relative_to(tmp_path / "arrays/wide")) for file in disk.chunk_files()] == [
        "c/0/0/0", "c/0/0/1", "c/0/1/0", "c/0/1/1",
    ]  # fmt: skip
    rng = np.random.default_rng([0, 2])
    np.testing.assert_array_equal(store.read("wide", 0)[2:], rng.normal(size=(1, 300_000)).astype(np.float32))
    disk.flip(tmp_path / "arrays/wide/c/0/1/1", 5000)
    assert_found(store, [tmp_path / "arrays/wide/c/0/1/1"])


def test_a_flipped_byte_in_any_chunk_file_is_found(disk):
    store = disk.filled()
    files = disk.chunk_files()
    assert len(files) == 12
    for file in files:
        for position in (0, file.stat().st_size // 2, -4, -1):
            disk.flip(file, position)
            assert_found(store, [file])
            disk.flip(file, position)
    assert store.check() == []


@pytest.mark.parametrize(
    "change", [lambda data: b"", lambda data: data[:3], lambda data: data[:-1], lambda data: data + b"\0"]
)
def test_a_chunk_file_of_another_length_is_found(disk, change):
    store = disk.filled()
    file = disk.chunk_files()[3]
    file.write_bytes(change(file.read_bytes()))
    assert_found(store, [file])


def test_a_deleted_chunk_file_is_found(disk):
    store = disk.filled()
    file = disk.chunk_files()[4]
    file.unlink()
    assert_found(store, [file])


def test_swapped_chunk_files_are_found(tmp_path, disk):
    store = disk.filled()
    one, other = tmp_path / "arrays/gradient/c/0/0/0", tmp_path / "arrays/gradient/c/1/1/0"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert_found(store, [one, other])


def test_swapped_markers_are_found(tmp_path, disk):
    store = disk.filled()
    one, other = tmp_path / "ledger/half/0-0.json", tmp_path / "ledger/half/1-2.json"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert sorted(damage.path for damage in store.check()) == [str(one), str(other)]
    for step in (0, 1):
        with pytest.raises(DamagedError, match="completion marker"):
            store.read("half", step)


def test_a_flipped_byte_in_a_marker_is_found_or_harmless(tmp_path, disk):
    store = disk.filled()
    marker = tmp_path / "ledger/gradient/0-2.json"
    expected = store.read("gradient", 0)
    found = 0
    for position in range(marker.stat().st_size):
        disk.flip(marker, position, 4)
        if store.check():
            with pytest.raises(DamagedError):
                store.read("gradient", 0)
            found += 1
        else:
            np.testing.assert_array_equal(store.read("gradient", 0), expected)
        disk.flip(marker, position, 4)
    assert found > 0.9 * marker.stat().st_size


def test_repair_discards_what_is_damaged_and_nothing_else(tmp_path, disk):
    store = disk.filled()
    before = {spec.name: [store.read(spec.name, step) for step in range(2)] for spec in disk.specs}
    disk.flip(tmp_path / "arrays/gradient/c/0/1/0", 8)
    (tmp_path / "arrays/half/c/1/2/0").unlink()
    (tmp_path / "ledger/half/0-0.json").write_bytes(b"")
    disk.flip(tmp_path / "arrays/half/zarr.json", 0)
    damaged = [Block(0, 0, 2), Block(0, 2, 4), Block(1, 4, 5)]
    assert TermStore.repair(store) == damaged
    assert store.missing() == damaged
    assert [store.missing_names(block) for block in damaged] == [["half"], ["gradient"], ["half"]]
    assert store.check() == []
    store = disk.filled()
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
def test_damaged_array_metadata_is_found_and_can_be_written_anew(tmp_path, disk, old, new):
    written = disk.filled()
    metadata = tmp_path / "arrays/gradient/zarr.json"
    text = metadata.read_text()
    assert old in text
    metadata.write_text(text.replace(old, new, 1))
    assert [damage.path for damage in written.check()] == [str(metadata)]
    for ask in (TermStore.open, lambda _: disk.opened()):
        with pytest.raises(DamagedError, match=r"gradient/zarr\.json.*delete that file"):
            ask(tmp_path)
    metadata.unlink()
    assert disk.opened().missing() == []
    assert metadata.read_text() == text


def test_every_flipped_byte_of_array_metadata_is_found_or_harmless(tmp_path, disk):
    expected = disk.filled().read("gradient", 1)
    metadata = tmp_path / "arrays/gradient/zarr.json"
    size = metadata.stat().st_size
    found = 0
    for position in range(0, size, 3):
        disk.flip(metadata, position)
        try:
            store = TermStore.open(tmp_path)
        except DamagedError:
            found += 1
        else:
            np.testing.assert_array_equal(store.read("gradient", 1), expected)
        disk.flip(metadata, position)
    assert found > size // 3 // 4


def test_damaged_group_metadata_is_found_and_repaired(tmp_path, disk):
    store = disk.filled()
    (tmp_path / "arrays/zarr.json").write_bytes(b"{")
    assert [damage.path for damage in store.check()] == [str(tmp_path / "arrays/zarr.json")]
    assert store.repair() == []
    assert store.check() == []


def test_a_damaged_block_can_be_written_over(tmp_path, disk):
    store = disk.filled()
    expected = store.read("gradient", 0)
    disk.flip(tmp_path / "arrays/gradient/c/0/2/0", 3)
    disk.write(store, Block(0, 4, 5))
    assert store.check() == []
    np.testing.assert_array_equal(store.read("gradient", 0), expected)


def failing_to_open(monkeypatch, file, code):
    whole = os.open

    def fail(path, *arguments, **options):
        if path == file:
            raise OSError(code, os.strerror(code))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE])
def test_a_file_that_is_only_out_of_reach_is_not_taken_for_a_damaged_one(disk, monkeypatch, code):
    store = disk.filled()
    failing_to_open(monkeypatch, disk.chunk_files()[2], code)
    for ask in (store.check, store.repair, lambda: store.read("gradient", 0)):
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            ask()
        assert not isinstance(caught.value, DamagedError)
    assert store.missing() == []


def test_a_file_that_the_disk_cannot_read_is_damaged(disk, monkeypatch):
    store = disk.filled()
    file = disk.chunk_files()[2]
    failing_to_open(monkeypatch, file, errno.EIO)
    assert_found(store, [file])

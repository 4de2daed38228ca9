"""A manifest is read back strictly, and two identities are compared field by field."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import FORMAT, DamagedError, IdentityError, Manifest, MissingError, fingerprint, require_same

LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text("ab", max_size=2)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
)
IDENTITIES = st.dictionaries(st.text("abc", min_size=1, max_size=2), VALUES, max_size=3)


def example() -> Manifest:
    return Manifest("terms", FORMAT, {"seed": 3, "rule": {"name": "adam", "betas": (0.9, 0.999)}}, {"numpy": "2.0"})


def test_round_trip(tmp_path):
    example().write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == example()
    assert example().identity["rule"]["betas"] == [0.9, 0.999]


def test_a_manifest_does_not_change_with_the_dict_it_was_made_from():
    identity = {"rule": {"name": "adam"}}
    manifest = Manifest("terms", FORMAT, identity, {})
    identity["rule"]["name"] = "sgd"
    assert manifest.identity == {"rule": {"name": "adam"}}


def test_every_flipped_byte_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "manifest.json"
    example().write(path)
    whole = path.read_bytes()
    found = 0
    for position in range(len(whole)):
        for mask in (1, 0x20, 0x80):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
            try:
                read = Manifest.read(path)
            except DamagedError:
                found += 1
            else:
                assert read == example(), f"silently wrong after a flip at {position}"
    assert found > 2 * len(whole)


def test_another_format_is_refused_with_both_numbers(tmp_path):
    Manifest("terms", 99, {}, {}).write(tmp_path / "manifest.json")
    with pytest.raises(IdentityError, match=rf"expected manifest format {FORMAT} .* has format 99"):
        Manifest.read(tmp_path / "manifest.json")


def test_an_absent_manifest_is_missing(tmp_path):
    with pytest.raises(MissingError):
        Manifest.read(tmp_path / "manifest.json")


def test_require_same_names_every_field_with_both_values():
    found = {"seed": 3, "rule": {"name": "adam", "decay": 0.1}, "shape": [1, 2], "old": True}
    expected = {"seed": 4, "rule": {"name": "adam", "decay": 0.2}, "shape": [1, 3], "new": None}
    with pytest.raises(IdentityError) as caught:
        require_same(found, expected, "the run")
    message = str(caught.value)
    for part in (
        "the run",
        "5 field(s) differ",
        "seed: expected 4, found 3",
        "rule.decay: expected 0.2, found 0.1",
        "shape[1]: expected 3, found 2",
        "new: expected null, found no such field",
        "old: expected no such field, found true",
    ):
        assert part in message
    assert "rule.name" not in message


def test_require_same_shows_the_first_five_and_counts_the_rest():
    with pytest.raises(IdentityError, match=r"7 field\(s\) differ: .*f4.*; and 2 more") as caught:
        require_same({f"f{index}": 0 for index in range(7)}, {f"f{index}": 1 for index in range(7)}, "it")
    assert "f5" not in str(caught.value)


def test_require_same_shows_beginnings_of_digests_and_one_of_many_entries_in_words():
    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(12)]
    found = {"data": {"items": digests[:6], "probe": digests[0], "few": [1, 2, 3, 4]}}
    expected = {"data": {"items": digests[6:], "probe": digests[1], "few": [1, 2, 3, 4, 5]}}
    with pytest.raises(IdentityError) as caught:
        require_same(found, expected, "it", {"data.items": "content of the items", "data": "anything"})
    message = str(caught.value)
    first = f'expected "{digests[6][:12]}…", found "{digests[0][:12]}…"'
    assert f"content of the items (`data.items`): 6 of 6 differ, the first data.items[0]: {first};" in message
    assert f'anything (`data.probe`): expected "{digests[1][:12]}…"' in message
    assert "anything (`data.few`): expected 5 entries, found 4" in message
    assert not any(digest[:13] in message for digest in digests)


@pytest.mark.parametrize(
    ("left", "right"), [(1, 1.0), (1, True), (0, False), (None, 0), ("1", 1), ([], {}), ([1], [1, 1])]
)
def test_values_that_only_look_equal_differ(left, right):
    with pytest.raises(IdentityError):
        require_same({"a": left}, {"a": right}, "it")
    assert fingerprint({"a": left}) != fingerprint({"a": right})


@given(IDENTITIES, IDENTITIES)
def test_require_same_agrees_with_the_fingerprint(left, right):
    require_same(left, json.loads(json.dumps(left)), "it")
    if fingerprint(left) == fingerprint(right):
        require_same(left, right, "it")
    else:
        with pytest.raises(IdentityError):
            require_same(left, right, "it")


def test_fingerprint_is_the_digest_of_canonical_json():
    assert fingerprint({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()
    assert fingerprint({"b": 1, "a": [2]}) == fingerprint({"a": (2,), "b": 1})


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), {1, 2}, object()])
def test_fingerprint_refuses_what_has_no_canonical_json(value):
    with pytest.raises(IdentityError):
        fingerprint({"a": value})

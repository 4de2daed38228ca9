"""Held-out text in groups of like pieces, and how near every group is to an item: read-outs `probe:0of8` … `probe:7of8`.

A piece is one sample of the probe set. The groups are a function of the held-out data alone, so that a name says which
samples are meant; near and far is said by cosines of tf-idf vectors (`fut.data.similarity`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fut.data.dataset import Dataset
from fut.data.similarity import Floats, like_groups, number_vectors, token_vectors
from fut.errors import UsageError
from fut.models.objective import Item

HEAD, ALL = "probe", "groups"


@dataclass(frozen=True)
class Group:
    """Group `number` of `count`."""

    number: int
    count: int

    @property
    def name(self) -> str:
        return f"{HEAD}:{self.number}of{self.count}"


def parse_group(spec: str) -> list[Group] | None:
    """The groups that `probe:2of8` or `groups:8` (all of them) mean; None for a specification of something else."""
    head, colon, text = spec.partition(":")
    if head not in (HEAD, ALL) or not colon:
        return None
    number, of, count = text.partition("of") if head == HEAD else ("0", "of", text)
    if not (of and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise UsageError(
            f"readout: expected probe:0of8 … probe:7of8, or groups:8 for all of them, got `{spec}`; correct it"
        )
    return [Group(g, int(count)) for g in (range(int(count)) if head == ALL else [int(number)])]


def samples(items: Sequence[Item]) -> list[Item]:
    """The single samples of items, in order: every tensor's rows."""
    return [tuple(t[k : k + 1] for t in item) for item in items for k in range(len(item[0]))]


def probe_groups(data: Dataset, count: int) -> list[list[int]]:
    """Numbers of the probe samples in each of `count` groups of like samples; UsageError where there are too few."""
    pieces = samples(data.probe)
    if count > len(pieces):
        raise UsageError(
            f"groups: expected at most {len(pieces)} groups, as many as there are probe samples, got {count}; lower it, or "
            "train with a larger data.probe"
        )
    return like_groups(similarity(pieces), count)


def group_item(data: Dataset, group: Group) -> Item:
    """The samples of one group, stacked as one item."""
    pieces = samples(data.probe)
    members = [pieces[k] for k in probe_groups(data, group.count)[group.number]]
    return tuple(torch.cat(parts) for parts in zip(*members, strict=True))


def similarity(pieces: Sequence[Item]) -> Floats:
    """Cosines [N, N] of pieces by their first tensors: of n-grams where those hold whole numbers, else of mean samples."""
    first = [piece[0].detach().cpu() for piece in pieces]
    arrays = [t.float().numpy() if t.is_floating_point() else t.numpy() for t in first]
    return number_vectors(arrays) if first[0].is_floating_point() else token_vectors(arrays)


def item_similarity(data: Dataset, count: int, items: Sequence[int]) -> Floats:
    """Cosines [items, groups] of items with each of `count` groups of the probe set."""
    compared = [data.items[i] for i in items] + [group_item(data, Group(g, count)) for g in range(count)]
    return np.ascontiguousarray(similarity(compared)[: len(items), len(items) :])

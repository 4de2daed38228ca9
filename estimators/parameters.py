"""How the flat parameter vector is made of tensors, and where it may be cut.

A rule's *coupling* says which coordinates of the gradient the update of one coordinate reads. A *block* is a set of coordinates
that read one another and nothing else: a method may treat blocks apart, and must not cut through one. Every place that cuts,
or takes a part of, the coordinates asks `ParameterLayout.blocks` or `ParameterLayout.restrict`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Literal

import torch
from torch import Tensor

from .errors import LayoutError

Coupling = Literal["coordinate", "matrix", "layer", "global"]
"""What the update of one coordinate reads of the gradient, from the narrowest to the widest: that coordinate alone (AdamW); its
tensor, whatever the number of dimensions (Muon, Shampoo, LAMB); the tensors of its layer, which are those whose names differ
after the last dot alone, as a weight and its bias (K-FAC); or all of it. A global norm that is passed in is not counted."""
Coordinates = slice | Tensor
"""Some of the coordinates: a slice without a step, or their numbers, ascending [k]."""


@dataclass(frozen=True)
class ParameterLayout:
    """The tensors of the flat parameter vector theta [D], in their order in it.

    Args:
        names: of the tensors, each once; what precedes the last dot names the layer.
        shapes: of the tensors; () for a single number.
        groups: a label for every tensor, by which rules may treat tensors differently; empty where there are none.

    Raises:
        LayoutError: for names, shapes and groups that do not belong together.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))  # lists would not hash
        object.__setattr__(self, "shapes", tuple(tuple(shape) for shape in self.shapes))
        object.__setattr__(self, "groups", tuple(self.groups))
        for field, values in (("names", self.names), ("groups", self.groups)):
            if wrong := [value for value in values if not isinstance(value, str)]:
                raise LayoutError(f"layout: expected texts as {field}, got {wrong[0]!r}; name every tensor by a text")
        if len(set(self.names)) < len(self.names):
            repeated = next(name for i, name in enumerate(self.names) if name in self.names[:i])
            raise LayoutError(f"layout: expected names that occur once, got `{repeated}` again; rename one of the two")
        if len(self.shapes) != len(self.names):
            raise LayoutError(
                f"layout: expected a shape for each of {len(self.names)} names, got {len(self.shapes)}; give one for each"
            )
        if self.groups and len(self.groups) != len(self.names):
            raise LayoutError(
                f"layout: expected a group for each of {len(self.names)} tensors, or none at all, got {len(self.groups)}; "
                "label every tensor"
            )
        for name, shape in zip(self.names, self.shapes, strict=True):
            if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
                raise LayoutError(
                    f"layout: expected whole numbers >= 0 as the shape of `{name}`, got {shape}; pass tuple(tensor.shape)"
                )

    @classmethod
    def flat(cls, size: int) -> ParameterLayout:
        """A vector of `size` numbers as one tensor."""
        return cls(("theta",), ((size,),))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in every tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Where each tensor begins in the vector, and D: one number more than there are tensors."""
        return tuple(accumulate(self.sizes, initial=0))

    @property
    def size(self) -> int:
        """D, the length of the vector."""
        return self.ends[-1]

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where every tensor stands in the vector."""
        return tuple(slice(a, b) for a, b in zip(self.ends, self.ends[1:], strict=False))

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The layer of every tensor: its name up to the last dot."""
        return tuple(name.rpartition(".")[0] for name in self.names)

    def split(self, vector: Tensor) -> list[Tensor]:
        """The tensors of a vector.

        Args:
            vector: parameters, a gradient or a buffer of as many numbers [..., D].

        Returns:
            Views [..., *shape], in the order of `names`.

        Raises:
            LayoutError: for a vector of another length.
        """
        if vector.shape[-1] != self.size:
            raise LayoutError(
                f"layout: expected a vector of {self.size} numbers in {len(self.names)} tensors, got {vector.shape[-1]}; "
                "take the layout of those coordinates (`ParameterLayout.restrict`)"
            )
        parts = vector.split(self.sizes, dim=-1)
        return [part.reshape((*part.shape[:-1], *shape)) for part, shape in zip(parts, self.shapes, strict=True)]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """The vector [..., D] of tensors [..., *shape]: what `split` took apart."""
        parts = [t.flatten(t.ndim - len(s)) if s else t[..., None] for t, s in zip(tensors, self.shapes, strict=True)]
        return torch.cat(parts, dim=-1)

    def blocks(self, coupling: Coupling, width: int = 1, multiple: int = 1) -> list[slice]:
        """A partition of the coordinates within which alone they act on one another.

        Args:
            coupling: of the rule.
            width: coordinates that a block is to hold at most; it holds more where fewer would cut through what is coupled.
            multiple: blocks begin at multiples of this number.

        Returns:
            Slices, ascending, which together hold every coordinate once.
        """
        allowed, blocks, first = self._cuts(coupling, multiple), [], 0
        while first < self.size:
            place = bisect_right(allowed, first + width)
            last = allowed[place - 1]
            if first + width >= self.size:
                last = self.size
            elif last <= first:  # what begins here is wider than that
                last = allowed[place] if place < len(allowed) else self.size
            blocks.append(slice(first, last))
            first = last
        return blocks

    def _cuts(self, coupling: Coupling, multiple: int) -> Sequence[int]:
        """Where blocks may begin, ascending from 0: at tensors, at layers of which no tensor stands before, or nowhere else."""
        if coupling == "coordinate":
            return range(0, max(self.size, 1), multiple)
        cuts, ahead = [0], dict(zip(self.layers, range(len(self.layers)), strict=True))  # a layer's last tensor
        reached = -1
        for tensor, layer in enumerate(self.layers):
            if coupling == "matrix" or (coupling == "layer" and tensor > reached):
                cuts.append(self.ends[tensor])
            reached = max(reached, ahead[layer])
        return sorted({cut for cut in cuts if cut % multiple == 0 and cut < max(self.size, 1)})

    def restrict(self, coordinates: Coordinates, coupling: Coupling = "coordinate") -> ParameterLayout:
        """The layout of some of the coordinates.

        Args:
            coordinates: which ones.
            coupling: of the rule; a block of it is to be there whole or not at all.

        Returns:
            The tensors of which there is something, with their shapes where they are whole, else as vectors.

        Raises:
            LayoutError: where a block would be cut, or for coordinates out of order.
        """
        counts = self._counts(coordinates)
        if coupling != "coordinate":
            self._require_whole(counts, coupling)
        return ParameterLayout(
            tuple(self.names[i] for i in counts),
            tuple(self.shapes[i] if count == self.sizes[i] else (count,) for i, count in counts.items()),
            tuple(self.groups[i] for i in counts) if self.groups else (),
        )

    def _counts(self, coordinates: Coordinates) -> dict[int, int]:
        """How many of the coordinates are of each tensor, for tensors of which there are any."""
        if isinstance(coordinates, slice):
            first, last, step = coordinates.indices(self.size)
            if step != 1:
                raise LayoutError(f"layout: expected a slice without a step, got {coordinates}; pass the coordinates")
            touched = range(bisect_right(self.ends, first) - 1, bisect_left(self.ends, last)) if first < last else ()
            counts = {i: min(last, self.ends[i + 1]) - max(first, self.ends[i]) for i in touched}
            return {i: count for i, count in counts.items() if count}
        if len(coordinates) and not (
            bool((coordinates.diff() > 0).all()) and coordinates[0] >= 0 and coordinates[-1] < self.size
        ):
            raise LayoutError(
                f"layout: expected coordinates of 0..{self.size - 1}, ascending, each once, got others; sort them"
            )
        ends = torch.tensor(self.ends, device=coordinates.device)
        numbers: list[int] = torch.searchsorted(coordinates.contiguous(), ends).diff().tolist()
        return {i: count for i, count in enumerate(numbers) if count}

    def _require_whole(self, counts: Mapping[int, int], coupling: Coupling) -> None:
        """LayoutError unless of every block all coordinates are there, or none. counts: coordinates of tensors."""
        for block in self.blocks(coupling):
            tensors = [i for i, s in enumerate(self.slices) if block.start <= s.start and s.stop <= block.stop]
            count, size = sum(counts.get(i, 0) for i in tensors), block.stop - block.start
            if count not in (0, size):
                names = [f"`{self.names[i]}`" for i in tensors]
                raise LayoutError(
                    f"expected all {size} coordinates of {', '.join(names[:3])}{', …' * (len(names) > 3)} or none of them, as "
                    f"they are updated together (coupling `{coupling}`), got {count}; take whole blocks, or all coordinates"
                )

"""Which terms a store holds, and how their items fall into blocks: the arithmetic, without any storage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bfloat16 import from_bfloat16, to_bfloat16
from .errors import ContentError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_STORED = {"float32": "float32", "float64": "float64", "bfloat16": "uint16"}
_CHUNK_COORDINATES = 262144


@dataclass(frozen=True)
class TermSpec:
    """One term: an array [checkpoint index, item, coordinate] of `dtype` float32, float64 or bfloat16."""

    name: str
    shape: tuple[int, int, int]
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not _NAME.fullmatch(self.name):
            raise ContentError(f"expected a term name of letters, digits, _ and -; got {self.name!r}; rename the term")
        if len(self.shape) != 3 or any(type(length) is not int or length < 1 for length in self.shape):
            raise ContentError(
                f"expected the shape of {self.name} as three positive integers (checkpoints, items, coordinates); "
                f"got {self.shape}; leave out a term that is empty"
            )
        if self.dtype not in _STORED:
            raise ContentError(
                f"expected the dtype of {self.name} as one of {sorted(_STORED)}; got {self.dtype!r}; choose one"
            )

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """dtype of the array on disk: bfloat16 lies there as uint16."""
        return np.dtype(_STORED[self.dtype])

    @property
    def read_dtype(self) -> np.dtype[Any]:
        """dtype of what is written and read: bfloat16 is given and returned as float32."""
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    def encode(self, array: np.ndarray) -> np.ndarray:
        """`array` as it is stored."""
        return to_bfloat16(array) if self.dtype == "bfloat16" else np.ascontiguousarray(array)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """The inverse of `encode`, up to its rounding."""
        return from_bfloat16(stored) if self.dtype == "bfloat16" else stored


@dataclass(frozen=True, order=True)
class Block:
    """A unit of work: items `first` .. `last - 1` of one checkpoint index."""

    step: int
    first: int
    last: int


class Layout:
    """The terms of a store by name, and their blocks of `item_block` items (the last of a step may be shorter).

    owner: digest of what the blocks belong to, for backends to write beside them and to compare; "" for none.
    """

    def __init__(self, specs: Sequence[TermSpec], item_block: int, owner: str = "") -> None:
        if type(item_block) is not int or item_block < 1:
            raise ContentError(f"expected item_block as a positive integer; got {item_block!r}; 64 is a usual choice")
        names = [spec.name for spec in specs]
        if not names or len(set(names)) < len(names):
            raise ContentError(f"expected at least one term and no name twice; got {names}; name each term once")
        self.specs = tuple(sorted(specs, key=lambda spec: spec.name))
        self.item_block, self.owner = item_block, owner
        self._by_name = {spec.name: spec for spec in self.specs}

    def describe(self) -> dict[str, Any]:
        """The layout as a JSON value."""
        terms = {spec.name: {"shape": list(spec.shape), "dtype": spec.dtype} for spec in self.specs}
        return {"item_block": self.item_block, "terms": terms}

    @classmethod
    def described(cls, description: Mapping[str, Any], owner: str = "") -> Layout:
        """The layout that `describe` described."""
        specs = [TermSpec(name, tuple(term["shape"]), term["dtype"]) for name, term in description["terms"].items()]
        return cls(specs, description["item_block"], owner)

    def spec(self, name: str) -> TermSpec:
        """The term `name`. Raises ContentError if there is none."""
        if name not in self._by_name:
            raise ContentError(f"expected one of the terms {sorted(self._by_name)}; got {name!r}; check the name")
        return self._by_name[name]

    def names(self, names: Sequence[str] | None = None) -> list[str]:
        """`names`, each checked; all of them for None."""
        return [self.spec(name).name for name in (self._by_name if names is None else names)]

    def chunk_shape(self, name: str) -> tuple[int, int, int]:
        """Shape of one chunk: one checkpoint index, one block of items, at most 262,144 coordinates."""
        _, items, coordinates = self.spec(name).shape
        return (1, min(self.item_block, items), min(coordinates, _CHUNK_COORDINATES))

    def step_blocks(self, name: str, step: int) -> list[Block]:
        """The blocks of one checkpoint index of `name`, ascending. Raises ContentError if there is none such."""
        steps, items, _ = self.spec(name).shape
        if not 0 <= step < steps:
            raise ContentError(
                f"expected a checkpoint index of {name} from 0 to {steps - 1}; got {step}; check the index of the step"
            )
        firsts = range(0, items, self.item_block)
        return [Block(int(step), first, min(first + self.item_block, items)) for first in firsts]

    def blocks(self, name: str) -> list[Block]:
        """All blocks of `name`, ascending."""
        return [block for step in range(self.spec(name).shape[0]) for block in self.step_blocks(name, step)]

    def has(self, name: str, block: Block) -> bool:
        """Whether `block` is one of the blocks of `name`."""
        steps, items, _ = self.spec(name).shape
        first_fits = 0 <= block.first < items and block.first % self.item_block == 0
        return 0 <= block.step < steps and first_fits and block.last == min(block.first + self.item_block, items)

    def names_with(self, block: Block, names: Sequence[str] | None) -> list[str]:
        """Those of `names` that have `block`. Raises ContentError if none of them has it."""
        having = [name for name in self.names(names) if self.has(name, block)]
        if not having:
            raise ContentError(
                f"expected a block of {self.names(names)} with {self.item_block} items; got {block}; use blocks()"
            )
        return having

    def items(self, name: str, items: Sequence[int] | np.ndarray) -> np.ndarray:
        """`items` as an integer vector. Raises ContentError unless each is an item of `name`."""
        wanted = np.asarray(items)
        if wanted.size == 0:
            return np.zeros(0, np.int64)
        count = self.spec(name).shape[1]
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or wanted.min() < 0 or wanted.max() >= count:
            raise ContentError(
                f"expected a list of items of {name} from 0 to {count - 1}; got {items!r}; count items from 0"
            )
        return wanted.astype(np.int64)

    def encoded(self, block: Block, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays [last - first, k] of `block`, each checked, in their stored dtype. Raises ContentError."""
        return {name: self._encoded(self.spec(name), block, array) for name, array in arrays.items()}

    def _encoded(self, spec: TermSpec, block: Block, array: np.ndarray) -> np.ndarray:
        self.names_with(block, [spec.name])
        expected = (block.last - block.first, spec.shape[2])
        if not isinstance(array, np.ndarray) or array.shape != expected or array.dtype != spec.read_dtype:
            raise ContentError(
                f"expected {spec.name} of {block} as a numpy array {expected} of {spec.read_dtype}; got "
                f"{type(array).__name__} {getattr(array, 'shape', '')} of {getattr(array, 'dtype', 'no dtype')}; "
                "convert it first"
            )
        stored = spec.encode(array)
        # After encoding, because a finite float32 may round to an infinite bfloat16.
        finite = np.isfinite(spec.decode(stored))
        if not finite.all():
            bad = np.argwhere(~finite)
            item, coordinate = (int(index) for index in bad[0])
            raise ContentError(
                f"expected finite values for {spec.name} of {block}; got {len(bad)} that are not, the first "
                f"{array[item, coordinate]} at item {block.first + item}, coordinate {coordinate}, to be stored as "
                f"{spec.dtype}; find out where the run diverges, or store it in a wider dtype"
            )
        return stored

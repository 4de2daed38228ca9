"""Names for tensors in annotations: `Float[Tensor, "n D"]` is a tensor of n rows of D numbers.

For Python and mypy the text is a remark, as in any `Annotated`. The tests put jaxtyping's types in these places before any
other module of this room is imported, and have beartype check every call: see `tests/checked_shapes.py`.
Sizes: n runs or vectors, c items of a step, D parameters, k coordinates of them, T steps, r read-outs or ranks, C sums.
"""

from typing import Annotated as Bool
from typing import Annotated as Float
from typing import Annotated as Int

__all__ = ["Bool", "Float", "Int"]

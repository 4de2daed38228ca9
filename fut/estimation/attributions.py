"""What every item of every step contributes to a read-out, as an array that says what its numbers are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fut.methods.registry import open_estimator
from fut.readouts.readout import PROBE

if TYPE_CHECKING:
    from fut.methods.context import Context
    from fut.methods.reweighting.estimator import Reweighting


By = Literal["weight", "gradient"]
WORDS: dict[By, str] = {
    "weight": "derivative of {readout} by the weight of each item in its step's mean, at weight 1; in a step they sum to 0",
    "gradient": "derivative of {readout} by a factor on each item's gradient, at 1: the mean of a step of one item does not "
    "depend on that item's weight",
}
ORIENTATION = (
    "leaving an item out changes {readout} by about minus the sum over its steps: a negative number lowers {readout}"
)


class Attributions(np.ndarray):
    """Attributions [T, items per step], with what they are; NumPy's arithmetic gives plain numbers of the same kind.

    by: `weight`, the derivative by an item's weight in its step's mean; or `gradient`, where every step has one item, by a
    factor on its gradient. unit: of the read-out. note: both, and the orientation, in words.
    """

    by: By
    unit: str
    note: str

    @classmethod
    def of(cls, values: NDArray[np.float64], by: By, readout: str, unit: str) -> Attributions:
        """Values with the words about them.

        Args:
            values: [T, items per step].
            by: what they are derivatives by.
            readout: the read-out's name.
            unit: its unit.
        """
        made = values.view(cls)
        named = "the probe loss" if readout == PROBE else f"`{readout}`"
        said = "; ".join((WORDS[by], ORIENTATION)).format(readout=named)
        made.by, made.unit, made.note = by, unit, f"{said} [{unit or 'its own unit'}]"
        return made

    def __array_finalize__(self, origin: Any) -> None:
        for name in ("by", "unit", "note"):
            setattr(self, name, getattr(origin, name, ""))

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """A single number of all of them is a number."""
        return array[()] if return_scalar or array.ndim == 0 else super().__array_wrap__(array, context, return_scalar)


def attributions(context: Context, readout: str = PROBE) -> Attributions:
    """What every item of every step contributes to a read-out: see `Attributions`."""
    opened = cast("Reweighting", open_estimator(context, "reweighting", readout))
    alone = opened.first_order.shape[-1] == 1
    values = (opened.first_order if alone else opened.attributions).cpu().numpy()
    return Attributions.of(values, "gradient" if alone else "weight", readout, opened.readout.unit)

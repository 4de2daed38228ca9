"""Results in a notebook: as a pandas table, as a small HTML table, and as a picture.

A result class joins by inheriting `Displayable` and saying what it holds; the rest follows:

    @dataclass(frozen=True)
    class Found(Displayable):
        losses: list[float]

        def title(self) -> str:
            return f"{len(self.losses)} orders"

        def rows(self) -> list[dict[str, Any]]:
            return [{"place": i, "loss": loss} for i, loss in enumerate(self.losses)]

        def units(self) -> dict[str, str]:
            return {"loss": "nats/token"}

        def draw(self, axes: Axes) -> None:
            axes.plot(self.losses, color=COLOURS[0])
            axes.set(xlabel="place", ylabel="loss [nats/token]")

`rows` hold plain values under names that a program may use; units stand beside them. An estimate's row has its interval
(`low`, `high`), and `notes` say why where it has none.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fut.display.agreement import BASELINE, Agreement, axis_labels
from fut.display.format import columns
from fut.display.scale import Scale
from fut.display.scale import labelled as labelled
from fut.errors import ExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that the colour-blind tell apart (Okabe & Ito 2008), the first two the most so; pair them with MARKERS."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#888888"
SHOWN = 20
"""Rows of an HTML table at most."""


PRINTED = 6
"""Rows of a result as text at most."""


class Displayable:
    """A result that shows itself in a notebook, and in a few lines as text; see the module for what a class says of itself."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # before `dataclass` writes one that lists every field
            cls.__repr__ = Displayable.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """Title, the first rows and the first note."""
        rows, units = list(self.rows()), self.units()
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = [[f"{name} [{units[name]}]" if units.get(name) else name for name in names]] if names else []
        table += [[shortened(cell(row.get(name)), 24) for name in names] for row in rows[:PRINTED]]
        more = [f"… {len(rows) - PRINTED} more rows"] if len(rows) > PRINTED else []
        notes = [shortened(note, 118) for note in list(self.notes())[:1]]
        return "\n".join([self.title(), *([columns(table)] if table else []), *more, *notes])

    def title(self) -> str:
        """What it is, in a line."""
        raise NotImplementedError

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """A table, a mapping of column to value per row; None for a value that there is not."""
        raise NotImplementedError

    def draw(self, axes: Axes) -> None:
        """Draw onto axes, with their labels and units."""
        raise NotImplementedError

    def units(self) -> Mapping[str, str]:
        """Units by column, where they have any."""
        return {}

    def notes(self) -> Sequence[str]:
        """What is to be said below the table."""
        return ()

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`; `attrs["units"]` has the units by column.

        ExtraError, an ImportError, where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ExtraError(
                "to_pandas: expected the package pandas, got none installed; run `pip install pandas`"
            ) from error
        frame = pandas.DataFrame([dict(row) for row in self.rows()])
        frame.attrs["units"] = dict(self.units())
        return frame

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw onto `axes`, or onto a new figure's, and return them; `axes.figure.savefig(path)` writes the picture."""
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots(layout="constrained")[1]
        self.draw(axes)
        if not axes.get_title():
            axes.set_title(self.title(), fontsize="medium", wrap=True)
        return axes

    def _repr_html_(self) -> str:
        """A table for a notebook: every text escaped, no colours of its own, no script."""
        rows, units = list(self.rows()), self.units()
        names = list(dict.fromkeys(name for row in rows for name in row))
        head = "".join(f"<th>{_text(name)}{_unit(units.get(name))}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{_text(cell(row.get(name)))}</td>" for name in names) + "</tr>"
            for row in rows[:SHOWN]
        )
        more = [f"{len(rows) - SHOWN} more rows; to_pandas() has them all"] if len(rows) > SHOWN else []
        below = "".join(f"<p>{_text(note)}</p>" for note in [*more, *self.notes()])
        return (
            f"<div><p><strong>{_text(self.title())}</strong></p><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{below}</div>"
        )


def cell(value: Any) -> str:
    """A value as it is shown: a number with the digits that matter, a dash for one that there is not."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.5f}" if value == 0 or 1e-2 <= abs(value) < 1e4 else f"{value:.3g}"
    return str(value)


def shortened(text: str, width: int) -> str:
    """A text on one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _unit(unit: str | None) -> str:
    return f" [{_text(unit)}]" if unit else ""


def _text(value: object) -> str:
    return html.escape(str(value))


def draw_agreement(axes: Axes, agreements: Mapping[str, Agreement], scale: Scale) -> None:
    """Estimated against retrained changes, one mark per estimator.

    An exact estimate lies on the solid line; the dashed one is the answer "every order ends like the reference".

    Args:
        axes: to draw onto.
        agreements: points by estimator.
        scale: of both axes.
    """
    ends = (
        [scale(f(a.ends[i] for a in agreements.values())) for i, f in enumerate((min, max))] if agreements else [0, 0]
    )
    axes.plot(ends, ends, color=GREY, linewidth=1, label="exact")
    axes.axhline(0, color=GREY, linewidth=1, linestyle="--", label=BASELINE)
    for number, (name, agreement) in enumerate(agreements.items()):
        true, guess = ([scale(v) for v in values] for values in (agreement.true, agreement.estimated))
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axes.scatter(true, guess, s=18, alpha=0.8, linewidths=0, label=name, **style)
    x_label, y_label = axis_labels(scale.label)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.legend(fontsize="small", frameon=False)

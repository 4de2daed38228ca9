"""`fut trust` for people: the verdict, what it rests on, and what to do."""

from __future__ import annotations

from fut.display.format import amount, columns
from fut.questions.trust.result import Trust

EARLY = 0.9
"""Share of the interaction at the end that a first quarter has where a window begins roughly."""
NOISY = 1.5
"""Times what an additive estimate would err by, from which on a method's own error speaks for more runs."""


HEAD = ("after step", "changes / way moved", "interaction / changes", "interaction / way moved")


def text(found: Trust) -> str:
    """A verdict, a table over the steps, and advice."""
    verdict, *rest = sentences(found)
    return "\n".join([verdict, "", columns([HEAD, *rows(found)]), "", *rest])


def sentences(found: Trust) -> list[str]:
    """The verdict, what it rests on, and advice."""
    guess, orders = found.expected, 3 * len(found.trials)
    return [
        f"{guess.verdict}: expect Spearman {guess.spearman:.3f} ({guess.low:.3f} to {guess.high:.3f}) between the adjoint's "
        "estimates and retraining, over random orders.",
        f"Interaction: what two changes of the order do to the parameters together, beyond the sum of either, from {orders} "
        "trained orders. Where it is 0, estimates of first order can be right; where it is as large as the changes, nothing "
        "adds up.",
        *_share(found),
        *_own(found),
        *advice(found),
    ]


def rows(found: Trust) -> list[tuple[str, ...]]:
    """The table over the steps, under HEAD."""
    return [
        (str(at.step), f"{at.effect:.2f}", f"{at.interaction:.3f}", f"{at.interaction * at.effect:.3f}")
        for at in found.over
    ]


def _share(found: Trust) -> list[str]:
    if found.share is None or found.ceiling is None or found.ceiling_interval is None:
        return []
    low, high = found.ceiling_interval
    return [
        f"Of the variance that orders give {found.readout}, about {100 * found.share:.0f} % is interaction "
        f"({len(found.trials)} trials): no sum over steps can correlate with retraining by more than {found.ceiling:.2f} "
        f"({low:.2f} to {high:.2f})."
    ]


def _own(found: Trust) -> list[str]:
    if found.own is None:
        return []
    error, spread = (amount(value, found.unit, ".2g") for value in (found.own.error, found.own.spread))
    return [
        f"{found.method} errs by {error} on the runs that it is made of, which differ by {spread} (standard deviations)."
    ]


def advice(found: Trust) -> list[str]:
    """What to do, a line for each thing."""
    guess, first, last = found.expected, found.over[0].interaction, found.over[-1].interaction
    if guess.verdict == "smooth":
        lines = ["Do: `fut cache`, then `fut calibrate --orders 8` for intervals."]
    else:
        early = first > EARLY * last
        where = (
            "it is there after a quarter of the window already: more warm-up steps before the window help"
            if early
            else "it grows along the window: a lower learning rate, a decaying one, or a shorter window helps"
        )
        lines = [f"Do: {where}."]
    if guess.verdict in ("usable", "rough"):
        lines.append("Do: calibrate on 16 orders or more, and retrain what you choose.")
    if guess.verdict == "do not trust":
        lines.append("Do: retrain, or ask `replay-exact`; the adjoint will hardly rank orders here.")
    own = found.own
    if own is not None and own.spread > 0 and (own.error / own.spread) ** 2 > NOISY * max(1 - guess.low**2, 0.05):
        lines.append(
            "Do: take more runs (`--set adjoint.num_runs=8`): the method errs by more than interactions explain."
        )
    return lines

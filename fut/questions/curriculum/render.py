"""What a search found, as text for people."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

from fut.display import format as present
from fut.questions.curriculum.result import Curriculum


def text(found: Curriculum) -> str:
    """The answer for people."""
    unit, nats = found.unit, found.unit == "nats/token"

    def value(loss: float) -> str:
        return present.loss(loss) if nats else present.amount(loss, unit)

    interval = "no interval"
    if found.interval is not None:
        interval = "90 % interval " + " … ".join(present.amount(v, "") for v in found.interval)
    lines = [
        f"best order found ({found.method}, {found.evaluations} estimates in {present.brief(found.seconds)}):",
        f"  {','.join(map(str, found.order))}",
        f"estimated by {found.estimator}: {value(found.estimated_loss)}, {interval}",
        f"  {found.note}",
    ]
    if found.reevaluated_loss is not None:
        lines.append(f"re-evaluated by {found.reevaluated_by}: {value(found.reevaluated_loss)}")
    lines.append(f"  {found.reevaluated_note}")
    return "\n".join([*lines, *_truths(found, value)])


def _truths(found: Curriculum, value: Callable[[float], str]) -> list[str]:
    """What retraining says, a row per loss, the best first."""
    if found.retrained_loss is None:
        return ["nothing was retrained: --verify K retrains the found order beside K random and the named ones"]
    rows = [["really retrained", "loss", "gain", "in perplexity"]]
    rows.append(["found order", value(found.retrained_loss), "", ""])
    for name, loss in found.rivals.items():
        gain = found.gain(loss)
        rows.append([name, value(loss), f"{gain['value']:+.5f}", present.number(gain["perplexity"], "+.4f")])
    spread = (
        [] if found.random_sd is None else [f"order noise (sd of random orders): {found.random_sd:.2g} {found.unit}"]
    )
    return ["", present.columns(rows), *spread, *_elsewhere(found)]


def _elsewhere(found: Curriculum) -> list[str]:
    """The other read-outs, which the search did not seek."""
    lines = []
    for name, other in found.also.items():
        values = {"found": other["found"], "reference": other["reference"], "mean of random": mean(other["random"])}
        shown = ", ".join(f"{order} {present.amount(v, other['unit'])}" for order, v in values.items())
        lines.append(f"{name}, which was not sought: {shown}")
    return lines

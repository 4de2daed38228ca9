"""What a search found, as text for people."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

from fut.display import format as present
from fut.display.scale import NATS
from fut.questions.curriculum.result import Curriculum


def text(answer: Curriculum) -> str:
    """The answer for people."""
    unit = answer.unit

    def value(loss: float) -> str:
        return present.loss(loss, unit)

    estimate, search, interval = answer.estimate, answer.search, "no interval"
    if estimate.interval is not None:
        interval = "90 % interval " + " … ".join(present.amount(v, "") for v in estimate.interval)
    lines = [
        f"best order found ({search.method}, {search.evaluations} estimates in {present.brief(search.seconds)}):",
        f"  {','.join(map(str, answer.order))}",
        f"estimated by {answer.estimator}: {value(estimate.estimated_loss)}, {interval}",
        f"  {estimate.note}",
    ]
    if estimate.reevaluated_loss is not None:
        lines.append(f"re-evaluated by {estimate.reevaluated_by}: {value(estimate.reevaluated_loss)}")
    lines.append(f"  {estimate.reevaluated_note}")
    return "\n".join([*lines, *_truths(answer, value)])


def _truths(answer: Curriculum, value: Callable[[float], str]) -> list[str]:
    """What retraining says, a row per loss, the best first."""
    truths = answer.truths
    lost = [truths.lost] if truths.lost else []
    if truths.retrained_loss is None and lost:
        return lost
    if truths.retrained_loss is None:
        return ["nothing was retrained: --verify K retrains the found order beside K random and the named ones"]
    columns = 4 if answer.unit == NATS else 3
    rows = [["retrained", "loss", "gain", "in perplexity"]]
    rows.append(["found order", value(truths.retrained_loss), "", ""])
    for name, loss in answer.rivals.items():
        gain = answer.gain(loss)
        rows.append([name, value(loss), f"{gain['value']:+.5f}", present.number(gain["perplexity"], "+.4f")])
    sd = truths.random_sd
    spread = [] if sd is None else [f"order noise (sd of random orders): {present.amount(sd, answer.unit, '.2g')}"]
    return ["", present.columns([row[:columns] for row in rows]), *spread, *lost, *_elsewhere(answer)]


def _elsewhere(answer: Curriculum) -> list[str]:
    """The other read-outs, which the search did not seek."""
    lines = []
    for name, other in answer.truths.also.items():
        values = {"found": other["found"], "reference": other["reference"], "mean of random": mean(other["random"])}
        shown = ", ".join(f"{order} {present.amount(v, other['unit'])}" for order, v in values.items())
        lines.append(f"{name}, which was not sought: {shown}")
    return lines

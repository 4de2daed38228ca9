"""Plans, costs, run information and damage reports as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from fut.display.format import COARSE, amount, brief, columns, duration, loss, nbytes
from fut.display.scale import shown_unit
from fut.estimation.calibration import KnownCalibration
from fut.methods.applicability import RuleInfo
from fut.methods.build import CachePlan
from fut.methods.curvature_batches import NOISE
from fut.methods.described import Setting
from fut.methods.registry import is_baseline
from fut.planning import Plan
from fut.readouts.readout import shortened, unit_of
from storage import Damage

WIDTH = 110
"""Characters of a line of settings."""
NAMED = 3
"""Steep items that are named."""


def plan(planned: CachePlan, repaired: int) -> str:
    lines = [f"{repaired} damaged blocks are computed again"] if repaired else []
    if not planned.blocks:
        return "\n".join([*lines, "nothing to compute: every term is cached"])
    cost = (
        f"{planned.gradients} gradients, about {duration(planned.seconds)}, {nbytes(planned.nbytes)} before compression"
    )
    return "\n".join([*lines, f"{', '.join(planned.terms)}: {planned.blocks} blocks, {cost}"])


def costs(planned: Plan) -> str:
    """Every stage's cost, a row each."""
    free = f", {nbytes(planned.available_memory)} of memory available" if planned.available_memory is not None else ""
    header = ["stage", "gradients", "time", "on disk", "scratch", "memory"]
    rows = [
        [s.stage, f"{s.gradients:,}", brief(s.seconds), *map(nbytes, (s.kept_bytes, s.scratch_bytes, s.memory))]
        for s in planned.stages
    ]
    return (
        f"{planned.parameters:,} parameters, {planned.steps} steps over {planned.items} items; {planned.device}{free}\n"
        + "".join(f"{line}\n" for line in _first(planned))
        + "\n"
        + columns([header, *rows])
        + "\n\n"
        + _strategies(planned)
        + "\n".join(planned.notes)
    )


def _strategies(planned: Plan) -> str:
    """What each way of storing scratch costs in all, a row each, with the chosen one marked; nothing where there is one alone."""
    if not planned.strategies:
        return ""
    header = ["storage", "sample drawn", "gradients", "time", "on disk", "scratch", "memory", ""]
    rows = []
    for s in planned.strategies:
        sizes = map(nbytes, (s.kept_bytes, s.scratch_bytes, s.device_bytes or s.host_bytes))
        rows.append([s.storage, s.drawn, f"{s.gradients:,}", brief(s.seconds), *sizes, "chosen" if s.chosen else ""])
    name = planned.strategies[0].preparation
    return f"{name} in all, by {name}.storage and {name}.drawn:\n{columns([header, *rows])}\n\n"


def _first(planned: Plan) -> list[str]:
    """What the default estimator costs before its first answer; nothing where it is left out."""
    stages = planned.of_default
    if not stages:
        return []
    runs = sum(s.gradients for s in stages) / planned["one retraining"].gradients
    count, seconds = sum(s.gradients for s in stages), sum(s.seconds for s in stages)
    kept, peak = sum(s.kept_bytes for s in stages), max(s.memory for s in stages)
    return [
        f"before the first answer by `{planned.default}`, the default estimator (`fut cache`): {count:,} gradients "
        f"(those of {runs:.1f} retrained orders), {brief(seconds)}, {nbytes(kept)} on disk, {nbytes(peak)} of memory"
    ]


def rules(table: Sequence[RuleInfo]) -> str:
    """Every update rule, a line each."""
    rows = [
        [
            rule.name,
            f"{rule.memory:.2f}",
            rule.coupling + ", matrices alone" * rule.matrices,
            "yes" if rule.smooth else "no",
            ", ".join(rule.signals) or "-",
            _taking(rule),
        ]
        for rule in table
    ]
    header = ["rule", "memory", "coupling", "smooth", "needs", "estimators"]
    wide = [max(len(row[c]) for row in [header, *rows]) for c in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in [header, *rows]]
    notes = [
        "memory: numbers kept for every parameter of a large matrix. coupling: what the update of a number reads.",
        "needs: what a step gives beside its mean gradient. *: with all coordinates kept.",
        "`grouped` gives groups of tensors rules of their own; all of this is that of its groups.",
    ]
    return "\n".join([*lines, "", *notes])


def _taking(rule: RuleInfo) -> str:
    """The estimators that take a rule, a star after those under a condition."""
    named = [name + "*" * bool(condition) for name, condition in rule.estimators.items()]
    return ", ".join(name for name in named if not is_baseline(name))


def _noise(about: dict[str, str]) -> list[str]:
    """What the random numbers of forward passes do in another order, of a run of which that was recorded or said."""
    if about == {"of": "content", "stays_with": "item"}:
        return []
    meets = {
        "item": "an item keeps its own in every order; a loop would give it those of its new step",
        "step": "an item that moves meets those of its new step, as in a loop; only an anchor at every step "
        "(adjoint.num_anchors) knows them",
    }
    return [
        f"random numbers of forward passes: {meets[about['stays_with']]}; run.orders.redraw() says what another draw changes"
    ]


def info(facts: dict[str, Any]) -> str:
    schedule, terms = facts["schedule"], facts["term_blocks"]
    lines = [
        f"{facts['path']}: {facts['parameters']:,} parameters, {facts['steps']} steps over {facts['items']} items"
        + (f", {facts['items_per_step']} per step" if facts["items_per_step"] > 1 else ""),
        f"text: {facts['text']}",
        f"rule: {facts['rule']}, {schedule['kind']} schedule from {schedule['rate']:g}",
        f"probe loss: {loss(facts['start_loss'], facts['unit'])} before the window",
        f"            {loss(facts['reference_loss'], facts['unit'])} after it, in the reference order",
        f"on disk: {nbytes(facts['store_bytes'])}; terms: "
        + (f"{terms['done']} of {terms['total']} blocks of pairs" if terms["total"] else "none of pairs")
        + f"; adjoint: {_expanded(facts)}",
        *_noise(facts["noise"]),
        *_truths(facts["retrained_orders"]),
        *_checks(facts),
        *(KnownCalibration(**of).words for of in facts["calibrations"]),
    ]
    rows = [
        [
            n,
            *(_gradients(facts[f"{when}_gradients"][n]) for when in ("precompute", "query")),
            nbytes(facts["term_bytes"][n]),
        ]
        for n in facts["estimators"]
    ]
    header = ["estimator", "gradients before", "gradients per order", "reads"]
    unknown = None in facts["precompute_gradients"].values()
    about = "\n?: the model tells it, which was not given (--model), or may not run (--trust)" if unknown else ""
    return "\n".join(lines) + "\n\n" + columns([header, *rows]) + about


def _gradients(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _truths(count: int) -> list[str]:
    """How many retrained orders the run keeps."""
    return [f"truths: {count} retrained orders are kept; `fut bank RUN` lists them"] if count else []


def _expanded(facts: dict[str, Any]) -> str:
    if facts["adjoint_cached"]:
        return f"cached for {shortened(facts['readouts'])}"
    return (
        "not finished, repeat `fut cache RUN --terms adjoint`"
        if facts["adjoint_begun"]
        else "not cached, run `fut cache RUN --terms adjoint`"
    )


def _checks(facts: dict[str, Any]) -> list[str]:
    """What the expansion says of its own approximations."""
    lines = []
    if (error := facts["adjoint_own_error"]) is not None:
        off, runs = amount(error, facts["unit"], ".2g"), facts["adjoint"]["num_runs"]
        calibrated = any(of["holds"] for of in facts["calibrations"])
        lines.append(
            f"adjoint: off by {off} (standard deviation) on the {runs} runs that it is made of, a common offset aside"
            + ("" if calibrated else "; `fut calibrate` gives intervals")
        )
    if lost := facts["adjoint_left_out"]:
        lines.append(f"adjoint: {lost}")
    if (choice := facts["adjoint_anchor_choice"]) is not None:
        tried = ", ".join(f"{100 * t['error']:.2g} % between {t['anchors']}" for t in choice["tried"])
        lines.append(
            f"anchors: {choice['anchors']} chosen; half-way between two, interpolated gradients err by {tried}, of what items "
            f"differ by; limit: {100 * choice['asked']:.2g} % (adjoint.anchor_error)"
        )
    if (error := facts["adjoint_anchor_error"]) is not None:
        unit = shown_unit(unit_of(facts["readouts"][0], facts["unit"])) or f"in the unit of `{facts['readouts'][0]}`"
        lines.append(f"anchors: leaving one out would move an order's estimate by about {error:.2g} {unit}")
    if steep := facts["steep_items"]:
        named = ", ".join(f"{one['item']} ({one['times']:.0f} times, at step {one['step']})" for one in steep[:NAMED])
        more = f" and {len(steep) - NAMED} more" if len(steep) > NAMED else ""
        lines.append(
            f"steep items: the gradient is far longer than the items' median for {named}{more}; look at what they hold"
        )
    if (few := facts["adjoint_few"]) is not None and few["coordinates"] < facts["parameters"]:
        lines.append(
            f"replayed: {few['coordinates']:,} of {facts['parameters']:,} coordinates; on simulated orders that errs by "
            f"{100 * few['error']:.2g} % of what these differ by (adjoint.replay_error)"
        )
    if (error := facts["adjoint_difference_error"]) is not None:
        coarse = '; inaccurate, set adjoint.products = "exact"' if error > COARSE else ""
        coarse = '; mostly rounding: every answer says so, set adjoint.products = "exact"' if error > NOISE else coarse
        lines.append(f"Hessian-vector products: central difference is {100 * error:.2g} % off an exact one{coarse}")
    return lines


def settings(listed: Sequence[Setting]) -> str:
    """Every setting with its default and its meaning, section by section."""
    lines: list[str] = []
    wide = max(len(setting.key) for setting in listed)
    for section, group in groupby(listed, key=lambda setting: setting.key.partition(".")[0]):
        lines += ["", f"[{section}]"]
        for setting in group:
            head = f"{setting.key.ljust(wide)}  "
            about = f"{json.dumps(setting.default)}  ({setting.values})"
            said = wrap(setting.meaning, WIDTH - len(head), break_on_hyphens=False)
            lines += [head + about, *(" " * len(head) + line for line in said)]
    return "\n".join(lines[1:])


def damages(where: str, damaged: Sequence[Damage]) -> str:
    if not damaged:
        return f"{where}: every checksum is right"
    advice = (
        "run `fut cache` to recompute damaged terms; remove a damaged retrained order's directory to train it again; "
        "anything else needs `fut train` into a new directory"
    )
    return "\n".join([f"{where}: {len(damaged)} damaged", *(f"  {d.path}: {d.reason}" for d in damaged), advice])


def batch(step: int, entries: list[dict[str, Any]]) -> str:
    lines = []
    for entry in entries:
        weight = "" if entry["weight"] == 1 else f", weight {entry['weight']:g}"
        lines.append(f"step {step}, item {entry['item']}{weight}, content hash {entry['hash']}")
        lines += [f"  [{i}] {text!r}" for i, text in enumerate(entry["sequences"])]
    return "\n".join(lines)

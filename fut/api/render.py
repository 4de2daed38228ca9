"""Plans, costs, run information and damage reports as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fut.display.format import COARSE, brief, columns, duration, loss, nbytes
from fut.methods.build import CachePlan
from fut.planning import Plan
from fut.readouts.readout import shortened, unit_of
from storage import Damage


def plan(found: CachePlan, repaired: int) -> str:
    lines = [f"{repaired} damaged blocks are computed again"] if repaired else []
    if not found.blocks:
        return "\n".join([*lines, "nothing to compute: every term is cached"])
    cost = f"{found.gradients} gradients, about {duration(found.seconds)}, {nbytes(found.nbytes)} before compression"
    return "\n".join([*lines, f"{', '.join(found.terms)}: {found.blocks} blocks, {cost}"])


def costs(found: Plan) -> str:
    """Every stage's cost, a row each."""
    free = f", {nbytes(found.available_memory)} of memory available" if found.available_memory is not None else ""
    header = ["stage", "gradients", "time", "on disk", "scratch", "memory"]
    rows = [
        [s.stage, f"{s.gradients:,}", brief(s.seconds), *map(nbytes, (s.bytes_kept, s.bytes_scratch, s.peak_memory))]
        for s in found.stages
    ]
    return (
        f"{found.parameters:,} parameters, {found.steps} steps over {found.items} items; {found.device}{free}\n\n"
        + columns([header, *rows])
        + "\n\n"
        + "\n".join(found.notes)
    )


def info(found: dict[str, Any]) -> str:
    schedule, terms = found["schedule"], found["term_blocks"]
    lines = [
        f"{found['path']}: {found['parameters']:,} parameters, {found['steps']} steps over {found['items']} items"
        + (f", {found['items_per_step']} per step" if found["items_per_step"] > 1 else ""),
        f"text: {found['text']}",
        f"rule: {found['rule']}, {schedule['kind']} schedule from {schedule['rate']:g}",
        f"probe loss: {loss(found['start_loss'])} before the window",
        f"            {loss(found['reference_loss'])} after it, in the reference order",
        f"on disk: {nbytes(found['store_bytes'])}; terms: "
        + (f"{terms['done']} of {terms['total']} blocks of pairs" if terms["total"] else "none of pairs")
        + f"; adjoint: {_expanded(found)}",
        *_checks(found),
    ]
    rows = [
        [n, f"{found['precompute_gradients'][n]:,}", f"{found['query_gradients'][n]:,}", nbytes(found["term_bytes"][n])]
        for n in found["estimators"]
    ]
    header = ["estimator", "gradients before", "gradients per order", "reads"]
    return "\n".join(lines) + "\n\n" + columns([header, *rows])


def _expanded(found: dict[str, Any]) -> str:
    if found["adjoint_cached"]:
        return f"cached for {shortened(found['readouts'])}"
    return "not finished, repeat `fut cache`" if found["adjoint_begun"] else "not cached, run `fut cache`"


def _checks(found: dict[str, Any]) -> list[str]:
    """What the expansion says of its own approximations."""
    lines = []
    if (error := found["adjoint_own_error"]) is not None:
        lines.append(
            f"adjoint: off by {error:.2g} nats/token (standard deviation) on the {found['adjoint']['mixture']} runs that it is "
            "made of, a common offset aside; `fut calibrate` gives intervals"
        )
    if (choice := found["adjoint_anchor_choice"]) is not None:
        tried = ", ".join(f"{100 * t['error']:.2g} % between {t['anchors']}" for t in choice["tried"])
        lines.append(
            f"anchors: {choice['anchors']} chosen; half-way between two, interpolated gradients err by {tried}, of what items "
            f"differ by; at most {100 * choice['asked']:.2g} % was asked"
        )
    if (error := found["adjoint_anchor_error"]) is not None:
        unit = unit_of(found["readouts"][0]) or f"in the unit of `{found['readouts'][0]}`"
        lines.append(f"anchors: leaving one out would move an order's estimate by about {error:.2g} {unit}")
    if (error := found["adjoint_difference_error"]) is not None:
        coarse = '; too coarse, set adjoint.products = "exact"' if error > COARSE else ""
        lines.append(f"Hessian-vector products: central difference is {100 * error:.2g} % off an exact one{coarse}")
    return lines


def damages(path: Path, found: Sequence[Damage]) -> str:
    if not found:
        return f"{path}: every checksum is right"
    advice = (
        "run `fut cache` to recompute damaged terms; remove a damaged retrained order's directory to train it again; "
        "anything else needs `fut train` into a new directory"
    )
    return "\n".join([f"{path}: {len(found)} damaged", *(f"  {d.path}: {d.reason}" for d in found), advice])


def batch(step: int, found: list[dict[str, Any]]) -> str:
    lines = []
    for entry in found:
        weight = "" if entry["weight"] == 1 else f", weight {entry['weight']:g}"
        lines.append(f"step {step}, item {entry['item']}{weight}, content hash {entry['hash']}")
        lines += [f"  [{i}] {text!r}" for i, text in enumerate(entry["sequences"])]
    return "\n".join(lines)

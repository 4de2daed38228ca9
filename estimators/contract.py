"""The contract of update rules: what every method presumes of a rule, as checks that anybody may run on a rule of their own.

A check takes a rule and a layout of parameters, and raises `ContractError` where the rule breaks what it is named after. Numbers
are in float64, drawn from fixed seeds: a check that fails fails again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

import torch
from torch import Tensor

from .errors import RuleError
from .parameters import Coordinates, Coupling, ParameterLayout
from .rules.base import Rule, next_state
from .rules.clipping import global_norm
from .rules.kinds import DecayingRule, MatrixRule
from .rules.signals import NONE, Signals
from .state import State

RATES = (0.1, 0.05, 0.2)
ROUNDING = 1e-12
"""How far numbers may differ where coordinates are updated together, and are summed in another order."""

_MATRICES = ParameterLayout(("a.weight", "a.bias", "b.weight"), ((4, 5), (5,), (8, 4)))
LAYOUTS = {
    "flat": ParameterLayout.flat(_MATRICES.size),
    "matrices": _MATRICES,
    "groups": ParameterLayout(_MATRICES.names, _MATRICES.shapes, ("decayed", "plain", "decayed")),
}
"""Parameters on which rules are checked: one vector; two matrices and a vector; the same, labelled."""
ONLY_MATRICES = {
    "matrices": ParameterLayout(("a.weight", "b.weight"), ((4, 5), (8, 4))),
    "groups": ParameterLayout(("a.weight", "b.weight", "c.weight"), ((4, 5), (8, 4), (1, 5)), ("slow", "fast", "slow")),
}
"""Those of rules that update matrices alone."""
ITEMS = 4
"""Items of a step, for rules that need their gradients."""


class ContractError(AssertionError):
    """A rule that breaks what methods presume of every rule."""


def layouts_of(rule: Rule | type[Rule]) -> dict[str, ParameterLayout]:
    """The layouts on which a rule is checked, by name."""
    kind = rule if isinstance(rule, type) else type(rule)
    return ONLY_MATRICES if issubclass(kind, MatrixRule) else LAYOUTS


def check_rule(rule: Rule, layouts: Iterable[ParameterLayout] | None = None) -> None:
    """Run every check on a rule.

    Args:
        rule: with the constants that it is to be checked with; it is bound to the layouts here.
        layouts: of the parameters to check it on; those of `layouts_of` if None.

    Raises:
        ContractError: at the first check that fails.
    """
    for layout in layouts_of(rule).values() if layouts is None else layouts:
        for check in CHECKS:
            check(rule, layout)


def check_declarations(rule: Rule, layout: ParameterLayout) -> None:
    """The rule has a name, a known coupling, and equals itself: it is a value that can be hashed."""
    _require(rule, bool(getattr(rule, "name", "")), "expected a name")
    known = get_args(Coupling)
    _require(rule, rule.coupling in known, f"expected a coupling among {', '.join(known)}, got {rule.coupling!r}")
    signals = set(Signals._fields)
    _require(
        rule, rule.signals <= signals, f"expected signals among {', '.join(sorted(signals))}, got {set(rule.signals)}"
    )
    try:
        equal = rule.on(layout) == rule.on(layout) and hash(rule.on(layout)) == hash(rule.on(layout))
    except TypeError:
        equal = False
    _require(rule, equal, "expected a frozen dataclass, with constants that hash")


def check_buffers(rule: Rule, layout: ParameterLayout) -> None:
    """`init` keeps theta, and its memory has one leading axis per stack of runs and theta's dtype, at every step."""
    for dtype in (torch.float32, torch.float64):
        for rows in ((), (3,)):
            theta = normal(*rows, layout.size, seed=9).to(dtype)
            fresh = rule.on(layout).init(theta)
            _require(rule, torch.equal(fresh.theta, theta), "expected `init` to keep theta")
            after, moved = stepped(rule.on(layout), fresh, normal(*rows, layout.size, seed=4).to(dtype))
            wanted = {name: (*rows, count) for name, count in rule.buffers(layout).items()}
            for state in (fresh, after):
                actual = {name: tuple(buffer.shape) for name, buffer in state.memory.items()}
                _require(rule, actual == wanted, f"expected memory of shapes {wanted}, got {actual}")
                strange = [str(b.dtype) for b in (moved, state.theta, *state.memory.values()) if b.dtype != dtype]
                _require(rule, not strange, f"expected tensors of {dtype}, got {', '.join(strange)}")


def check_purity(rule: Rule, layout: ParameterLayout) -> None:
    """A step changes nothing that it is given, gives the same bits again, and its clock is floats that count steps."""
    bound = rule.on(layout)
    state, gradient = trained(bound, layout), normal(2, layout.size, seed=4)
    before, clock, given = [b.clone() for b in _bits(state)], dict(state.clock), gradient.clone()
    once, moved = stepped(bound, state, gradient)
    again, _ = stepped(bound, state, gradient)
    kept = _same(_bits(state), before) and state.clock == clock and torch.equal(gradient, given)
    _require(rule, kept, "expected `update` to leave the state and the gradient as they are")
    _require(rule, _same(_bits(once), _bits(again)), "expected the same bits of the same step")
    backwards = State(state.theta, dict(reversed(state.memory.items())), state.clock)  # as a checkpoint may give it
    other, _ = stepped(bound, backwards, gradient)
    kept = _same(_bits(once), [other.theta, *(other.memory[name] for name in once.memory)])
    _require(rule, kept, "expected memory by its names, in whatever order")
    error = _worst((once.theta - state.theta - moved).abs().flatten().tolist())
    _require(rule, error <= ROUNDING, f"expected theta' = theta + displacement, got an error of {error:.3g}")
    alone = next_state(bound, state, gradient, RATES[0], signals=signals_of(bound, gradient))
    _require(rule, _same(_bits(once), _bits(alone)), "expected `next_state` to give the state that `step` gives")
    _require(rule, all(type(c) is float for c in once.clock.values()), "expected a clock of Python floats")
    counted = once.clock.get("step") == clock.get("step", 0.0) + 1.0
    _require(rule, counted, f"expected a clock whose `step` counts, got {clock} and then {once.clock}")


def check_rows(rule: Rule, layout: ParameterLayout) -> None:
    """Every row of a stack of runs has the bits that it has alone."""
    bound = rule.on(layout)
    stack = trained(bound, layout)
    for row in range(2):
        alone = trained(bound, layout, row=row)
        same = _same(_bits(stack.row(row)), _bits(alone))
        _require(rule, same, "expected a run in a stack to have the bits that it has alone; reduce every row by itself")


def check_cuts(rule: Rule, layout: ParameterLayout) -> None:
    """Blocks along the declared coupling, updated apart, give what the whole gives: of several widths, and a sample of them."""
    whole = rule.on(layout)
    expected, smallest = trained(whole, layout), whole.blocks(layout.size, 1)
    parts: list[Coordinates] = [block for width in (1, 7, 30) for block in whole.blocks(layout.size, width)]
    parts.append(torch.cat([torch.arange(layout.size)[block] for block in smallest[::2]]))
    errors = [_difference(trained(whole.restrict(part), layout, part), expected, part) for part in parts]
    _require_small(rule, errors, "expected blocks apart to be updated as in the whole, got an error of")


def check_permutations(rule: Rule, layout: ParameterLayout) -> None:
    """Tensors in another order, along the declared coupling, are updated as before."""
    moved, places = _permuted(layout, rule.coupling)
    expected, bound = trained(rule.on(layout), layout), rule.on(moved)
    errors = [_difference(trained(bound, layout, places), expected, places)]
    _require_small(rule, errors, "expected another order of tensors to change nothing, got")


def check_derivatives_of_blocks(rule: Rule, layout: ParameterLayout) -> None:
    """`tangent` and `pullback` of blocks are those of the whole, where memory is by coordinate, nothing is clipped, and there are
    derivatives."""
    if rule.signals or rule.clip is not None or any(count != layout.size for count in rule.buffers(layout).values()):
        return
    whole, (gradient, along, _) = rule.on(layout), gradients(layout.size)
    state = trained(whole, layout)
    direction = State(normal(2, layout.size, seed=20), {k: b.abs() for k, b in state.memory.items()}, state.clock)
    tangent = whole.tangent(state, gradient, 0.1, direction, along)
    pulled = whole.pullback(state, gradient, 0.1, direction) if rule.smooth else None
    errors = []
    for part in whole.blocks(layout.size, 7):
        restricted, g, d = whole.restrict(part), gradient[:, part], along[:, part]
        here, there = state.restrict(part), direction.restrict(part)
        errors.append(_difference(restricted.tangent(here, g, 0.1, there, d), tangent, part))
        if pulled:
            back, sensitivity = restricted.pullback(here, g, 0.1, there)
            errors += [_difference(back, pulled[0], part), (sensitivity - pulled[1][:, part]).abs().max().item()]
    _require_small(rule, errors, "expected derivatives of blocks to be those of the whole, got")


def check_reads_theta(rule: Rule, layout: ParameterLayout) -> None:
    """`reads_theta` says whether `update` looks at theta; one that looks for the sake of its decay may have none to do."""
    bound = rule.on(layout)
    state, gradient = trained(bound, layout), normal(2, layout.size, seed=4)
    other, signals = State(2 * state.theta, state.memory, state.clock), signals_of(bound, gradient)
    here, there = (bound.update_with(at, gradient, 0.1, signals)[0] for at in (state, other))
    looks = not torch.equal(here, there)
    idle = isinstance(rule, DecayingRule) and not (rule.weight_decay and rule.decay == "decoupled")
    found = "looks" if looks else "does not look"
    fits = looks is rule.reads_theta or (idle and not looks)
    _require(rule, fits, f"`update` {found} at theta, got reads_theta = {rule.reads_theta}")


def check_tangent(rule: Rule, layout: ParameterLayout) -> None:
    """`tangent` is the derivative of `step`, against central differences; refused for a rule that needs signals."""
    bound, width = rule.on(layout), 1e-6
    state, direction, gradient, dgradient = _setting(bound, layout)
    if rule.signals:
        return _require_refused(rule, "tangent", lambda: bound.tangent(state, gradient, 0.1, direction, dgradient))
    derivative = bound.tangent(state, gradient, 0.1, direction, dgradient)

    def ahead(by: float) -> State:
        memory = {k: b + by * direction.memory[k] for k, b in state.memory.items()}
        moved = State(state.theta + by * direction.theta, memory, state.clock)
        return next_state(bound, moved, gradient + by * dgradient, 0.1)

    for ours, up, down in zip(_bits(derivative), _bits(ahead(width)), _bits(ahead(-width)), strict=True):
        expected = (up - down) / (2 * width)
        error = _worst([*(ours - expected).abs().tolist(), 0.0]) / _worst([*expected.abs().tolist(), 1e-3])
        _require(rule, error < 1e-6, f"expected `tangent` to equal central differences, got an error of {error:.3g}")


def check_pullback(rule: Rule, layout: ParameterLayout) -> None:
    """`pullback` is the adjoint of `tangent`: <costate, tangent> = <pullback, direction>; refused if not smooth."""
    bound = rule.on(layout)
    state, direction, gradient, dgradient = _setting(bound, layout)
    costate = State(normal(layout.size, seed=40), _like(state.memory, seed=41), state.clock)
    if rule.signals or not rule.smooth:
        return _require_refused(rule, "pullback", lambda: bound.pullback(state, gradient, 0.1, costate))
    before, sensitivity = bound.pullback(state, gradient, 0.1, costate)
    forward = _inner(costate, bound.tangent(state, gradient, 0.1, direction, dgradient))
    backward = _inner(before, direction) + float(sensitivity @ dgradient)
    error = abs(backward - forward) / max(abs(forward), ROUNDING)
    _require(rule, error < 1e-10, f"expected <costate, tangent> = <pullback, direction> = {forward}, got {backward}")


CHECKS: tuple[Callable[[Rule, ParameterLayout], None], ...] = (
    check_declarations,
    check_buffers,
    check_purity,
    check_rows,
    check_cuts,
    check_permutations,
    check_derivatives_of_blocks,
    check_reads_theta,
    check_tangent,
    check_pullback,
)
"""All of the contract."""


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers of a seed, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signals_of(rule: Rule, gradient: Tensor) -> Signals:
    """The signals that a rule needs, for a mean gradient [..., D]: items whose gradients differ, and their curvature."""
    if not rule.signals:
        return NONE
    lead, size = gradient.shape[:-1], gradient.shape[-1]
    noise = normal(ITEMS, size, seed=50).to(gradient)
    curvature = normal(ITEMS, size, seed=51).abs().to(gradient).expand(*lead, ITEMS, size)
    items = gradient.unsqueeze(-2) + (noise - noise.mean(0))
    return Signals(items, curvature)


def stepped(rule: Rule, state: State, gradient: Tensor, rate: float = RATES[0]) -> tuple[State, Tensor]:
    """A step of a bound rule, with the signals that it needs."""
    return rule.step(state, gradient, rate, signals=signals_of(rule, gradient))


def gradients(size: int) -> list[Tensor]:
    """Gradients [2, D] of two runs, step by step."""
    return [normal(2, size, seed=step) for step in range(len(RATES))]


def trained(rule: Rule, layout: ParameterLayout, part: Coordinates | None = None, row: int | None = None) -> State:
    """Where two runs end that a rule trains on given gradients.

    Args:
        rule: bound to the parameters, or restricted to a part of them.
        layout: of all parameters.
        part: the coordinates that the rule updates; None for all.
        row: one of the two runs, alone; None for both.

    Returns:
        The state of the part, of two runs [2, k] or one [k].
    """
    runs: slice | int = slice(None) if row is None else row
    kept: Coordinates = slice(None) if part is None else part
    state = rule.init(normal(2, layout.size, seed=9)[runs][..., kept])
    for rate, gradient in zip(RATES, gradients(layout.size), strict=True):
        signals = signals_of(rule, gradient).restrict(kept)
        signals = signals if row is None else signals.row(row)
        state = next_state(rule, state, gradient[runs][..., kept], rate, global_norm(gradient)[runs], signals)
    return state


def _permuted(layout: ParameterLayout, coupling: Coupling) -> tuple[ParameterLayout, Tensor]:
    """The tensors in another order, or layers, with coordinates in another order too where these are free; and where each
    coordinate of the new vector stood."""
    units = {"coordinate": layout.slices, "matrix": layout.slices}.get(coupling, tuple(layout.blocks(coupling)))
    tensors = [[i for i, s in enumerate(layout.slices) if u.start <= s.start < u.stop] for u in reversed(units)]
    order = [i for unit in tensors for i in unit]
    places = [torch.arange(layout.size)[layout.slices[i]] for i in order]
    if coupling == "coordinate":
        places = [p[torch.randperm(len(p), generator=torch.Generator().manual_seed(3))] for p in places]
    names, shapes = tuple(layout.names[i] for i in order), tuple(layout.shapes[i] for i in order)
    groups = tuple(layout.groups[i] for i in order) if layout.groups else ()
    return ParameterLayout(names, shapes, groups), torch.cat(places)


def _difference(found: State, expected: State, coordinates: Coordinates) -> float:
    """The largest difference from the expected state on some coordinates, of memory that is by coordinate too."""
    size = expected.theta.shape[-1]
    pairs = [(found.theta, expected.theta)]
    pairs += [(found.memory[k], b) for k, b in expected.memory.items() if b.shape[-1] == size]
    return _worst([(part - whole[..., coordinates]).abs().max().item() for part, whole in pairs])


def _worst(errors: Sequence[float]) -> float:
    """The largest error; not a number where any is none, so that no comparison with a bound holds."""
    return torch.tensor(errors, dtype=torch.float64).max().item()


def _setting(rule: Rule, layout: ParameterLayout) -> tuple[State, State, Tensor, Tensor]:
    """A state after a few steps, a direction in which memory varies in proportion to itself, a gradient and its direction."""
    state = trained(rule, layout, row=0)
    memory = {k: b * d for (k, b), d in zip(state.memory.items(), _like(state.memory, seed=31).values(), strict=True)}
    direction = State(normal(layout.size, seed=30), memory, state.clock)
    return state, direction, normal(layout.size, seed=4), normal(layout.size, seed=5)


def _like(memory: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    return {name: normal(*buffer.shape, seed=seed + i) for i, (name, buffer) in enumerate(memory.items())}


def _inner(a: State, b: State) -> float:
    return float(a.theta @ b.theta + sum(a.memory[k] @ b.memory[k] for k in a.memory))


def _bits(state: State) -> list[Tensor]:
    return [state.theta, *state.memory.values()]


def _same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def _require_refused(rule: Rule, what: str, call: Callable[[], object]) -> None:
    """ContractError unless a derivative that the rule does not have is refused."""
    try:
        call()
    except RuleError:
        return
    why = "that needs signals" if rule.signals else "that is not smooth"
    raise ContractError(f"the rule `{rule.name}`: expected RuleError from `{what}` of a rule {why}")


def _require(rule: Rule, holds: bool, expected: str) -> None:
    if not holds:
        name = getattr(rule, "name", type(rule).__name__)
        raise ContractError(f"the rule `{name}` (coupling `{rule.coupling}`): {expected}")


def _require_small(rule: Rule, errors: Sequence[float], expected: str) -> None:
    """No error at all where coordinates are updated by themselves, else none beyond rounding."""
    error = _worst(errors)
    _require(rule, error <= (0.0 if rule.coupling == "coordinate" else ROUNDING), f"{expected} {error:.3g}")

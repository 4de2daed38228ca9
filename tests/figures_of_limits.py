"""Figures of `docs/limitations.md`, made from their records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from curriculum_table import fresh_gain, ppl
from figures import Row, accuracy, adjoint, demo, draws, of, plain, results, row, runs, signed, spanned

LIMITS = "docs/limitations.md"
GRID = ("grid", "grid-rest", "balanced")


@of(LIMITS)
def limits_by_schedule() -> Iterable[tuple[str, str]]:
    names = " ".join(f"adjoint-accuracy-{name}" for name in GRID)
    every = [one for name in GRID for one in results(f"adjoint-accuracy-{name}")]
    for schedule in ("cosine", "constant"):
        for rate, shown in ((1e-3, "10⁻³"), (3e-3, "3·10⁻³")):
            cells = []
            for steps in (32, 64, 128):
                key = {"schedule": schedule, "rate": rate, "steps": steps}
                pair = [
                    next(r for r in every if (key | {"items": i}).items() <= r.items())
                    for i in ("iid", "heterogeneous")
                ]
                cells.append(", ".join(accuracy(one) for one in pair))
            yield names, f"| {schedule}, {shown} | " + " | ".join(cells) + " |"
    linear = [
        row("adjoint-accuracy", schedule="constant", steps=64, rate=1e-3, items=i) for i in ("iid", "heterogeneous")
    ]
    values = [one["accuracy"]["spearman"] for one in linear]
    yield "adjoint-accuracy", f"{values[0]:.3f} and {values[1]:.3f} at 10⁻³, T = 64, read linearly"
    values = [one["accuracy"]["spearman"] for one in results("adjoint-accuracy-mixture-functionals")]
    yield "adjoint-accuracy-mixture-functionals", signed(f"can do harm there: {values[0]:.3f} and {values[1]:.3f}")


@of(LIMITS)
def limits_by_size() -> Iterable[tuple[str, str]]:
    for label, name, both in (
        ("279k, 10⁻³ | default", "279k-balanced", True),
        ("1.07M, 3·10⁻⁴ | the default before balanced batches", "1m-low-rate", True),
        ("1.07M, 10⁻³ | default", "1m-balanced", True),
        ("1.07M, 10⁻³ | 16 runs, pool 8, batches drawn anew", "1m-control", True),
        ("1.07M, 10⁻³ | 16 runs, pool 4", "1m-balanced-16", False),
        ("1.07M, 10⁻³ | 24 runs, pool 8, 16,384 coordinates", "1m-balanced-24", False),
    ):
        found = {one["steps"]: f"{accuracy(one)} ({runs(one)})" for one in results(f"adjoint-accuracy-{name}")}
        assert (32 in found) == both, name
        yield (
            f"adjoint-accuracy-{name}",
            f"| {label} | {found.get(32, '–')} | {found[64]} | `adjoint-accuracy-{name}` |",
        )
    big = adjoint("2780k-balanced")
    yield (
        "adjoint-accuracy-2780k-balanced",
        f"| 2.78M, 10⁻³ | default | {accuracy(big)} ({runs(big)}) | – | `adjoint-accuracy-2780k-balanced` |",
    )
    drawn = row("draws-1m", variant="mixture=16,pool=4,anchors=5")
    yield "draws-1m", f"have {accuracy(drawn)} at 1.07M, 10⁻³, T = 64"
    yield "adjoint-accuracy-1m-heterogeneous", f"have {accuracy(adjoint('1m-heterogeneous'), interval=True)}"


@of(LIMITS)
def limits_of_absence() -> Iterable[tuple[str, str]]:
    small, large = (results("absence-coverage")[size]["now 8"] for size in ("small", "large"))
    yield (
        "absence-coverage",
        f"they held {small['coverage']:.2f} in small runs and {large['coverage']:.2f} at 84,288 parameters, "
        f"{min(small['worst'], large['worst']):.2f} in the worst run and kind of text. One calibration in ten on 8 orders holds "
        f"less than {small['tenth']:.2f} in small runs",
    )


@of(LIMITS)
def limits_of_wikitext() -> Iterable[tuple[str, str]]:
    for label, name, items in (
        ("T = 32, mixed, after 100 warm-up steps | mixture", "wikitext", "iid"),
        ("T = 32, mixed, after 400 | mixture, 8,192 coordinates", "wikitext-later", "iid"),
        ("T = 32, mixed, after 400 | 16 runs, pool 4, 5 anchors", "wikitext-balanced", "iid"),
        ("T = 32, heterogeneous, after 400 | the same", "wikitext-balanced", "heterogeneous"),
        ("T = 64, heterogeneous, after 400 | the same", "wikitext-balanced-t64", "heterogeneous"),
        ("T = 64, mixed, after 400 | 16 runs, pool 8, 5 anchors, batches drawn anew", "wikitext-t64", "iid"),
        ("T = 32, mixed, after 100, rate 3·10⁻⁴ | mixture, 8,192 coordinates", "wikitext-low-rate", "iid"),
    ):
        found = accuracy(adjoint(name, items=items), 2, interval=True)
        yield f"adjoint-accuracy-{name}", f"| {label} | {found} | `adjoint-accuracy-{name}` |"


@of(LIMITS)
def limits_of_adapters() -> Iterable[tuple[str, str]]:
    warm = [row("pretrained", rate=rate, warmup=20, items="iid", steps=16)["accuracy"] for rate in (2e-4, 1e-3)]
    cold, low = (row("pretrained-unlike", rate=rate, warmup=0)["accuracy"] for rate in (1e-3, 2e-4))
    yield (
        "pretrained-unlike",
        f"{cold['spearman']:.3f} Spearman and {cold['skill']:.2f} calibrated skill at 10⁻³, "
        f"{low['spearman']:.3f} and {low['skill']:.2f} at 2·10⁻⁴",
    )
    more = row("pretrained-cold-runs", rate=1e-3, warmup=0)["accuracy"]
    yield "pretrained-cold-runs", f"they are {more['spearman']:.3f} and {more['skill']:.2f}"
    now, before = (row(name, rate=1e-3, warmup=4) for name in ("pretrained-steep", "pretrained"))
    far = sum(abs(value - before["reference_loss"]) > 1 for value in before["estimated_losses"])
    shown = f"{now['accuracy']['spearman']:.3f} and {now['accuracy']['skill']:.2f}"
    yield "pretrained-steep", f"After 4 warm-up steps at 10⁻³ they are {shown}"
    rank, count = before["accuracy"]["spearman"], before["accuracy"]["orders"]
    yield "pretrained", f"They were {rank:.3f} with {far} of {count} estimates off by hundreds of nats/token"
    first, second = (f"{one['spearman']:.3f} and {one['skill']:.2f}" for one in warm)
    yield "pretrained", f"they are {first} at 2·10⁻⁴, {second} at 10⁻³"


@of(LIMITS)
def limits_by_source() -> Iterable[tuple[str, str]]:
    for steps, schedule, items in (
        (32, "cosine", "iid"),
        (32, "cosine", "heterogeneous"),
        (32, "constant", "iid"),
        (64, "cosine", "iid"),
        (64, "cosine", "heterogeneous"),
        (64, "constant", "iid"),
    ):
        one = row("adjoint-decomposition", steps=steps, schedule=schedule, items=items)
        left = [
            f"{1000 * one['readings'][name]['residual_sd']:.2f}"
            for name in ("adjoint", "true displacement, linear", "true displacement, quadratic")
        ]
        label = f"{steps}, {schedule}, {'mixed' if items == 'iid' else items}"
        yield "adjoint-decomposition", f"| {label} | {1000 * one['true_sd']:.1f} | " + " | ".join(left) + " |"
    rows = [one for one in results("ablations")["rows"] if one["seed"] == 0]
    gains = []
    for setting in ("32-iid", "32-heterogeneous"):
        found = {one["variant"]: one["accuracy"]["spearman"] for one in rows if one["setting"] == setting}
        gains += [found[name] - found["default"] for name in ("c = 8", "pool = 8", "A = T")]
    yield "ablations", f"are worth at most {plain(max(gains), 3)} in Spearman at T = 32"


@of(LIMITS)
def limits_of_draws() -> Iterable[tuple[str, str]]:
    default = [draws("draws", items=items, variant="default") for items in ("heterogeneous", "iid")]
    short = draws("draws-32", variant="default")
    yield "draws", f"Spearman is {spanned(default[0])} over four draws with heterogeneous items, and"
    yield "draws", f"{spanned(default[1])} with mixed ones;"
    yield "draws-32", f"at T = 32 it is {spanned(short)}"
    seven = draws("draws-spent", items="heterogeneous", variant="mixture=7,pool=1")
    yield "draws-spent", f"and has {spanned(seven)} with heterogeneous items"
    high = {
        one["variant"]: one["accuracy"]["spearman"] for one in results("draws-constant-high") if one["items"] == "iid"
    }
    yield "draws-constant-high", f"Spearman {high['rank=4']:.2f} in place of {high['default']:.2f} at T = 64, 3·10⁻³"


@of(LIMITS)
def limits_of_endpoints() -> Iterable[tuple[str, str]]:
    every = {(one["steps"], one["items"]): one["accuracy"] for one in results("endpoints")}
    plainly = [one["curved:refresh=0"]["spearman"] for one in every.values()]
    refreshed = [one["curved:refresh=16"]["spearman"] for one in every.values()]
    yield "endpoints", f"Spearman {spanned(plainly, '.2f')} against {spanned(refreshed, '.2f')}"
    mixed = every[32, "iid"]["curved:refresh=16"]
    yield (
        "endpoints",
        f"skill is {mixed['skill']:.2f} at T = 32 with mixed items although Spearman is {mixed['spearman']:.3f}",
    )
    errors = [one["curved:refresh=16"]["endpoint_error"] for one in every.values()]
    yield "endpoints", f"is still {spanned(errors, '.2f')} of the order's displacement away"
    large = results("endpoints-1m")[0]["accuracy"]
    yield (
        "endpoints-1m",
        f"Spearman {large['curved:refresh=16']['spearman']:.2f} and "
        f"{large['curved:refresh=8']['spearman']:.2f} with refresh 16 and 8",
    )


@of(LIMITS)
def limits_of_reweighting() -> Iterable[tuple[str, str]]:
    rows = [(one, one["readings"]["reweighting:reading=replayed"]) for one in results("leave-out")]
    low = [-found["bias"] for _, found in rows]
    yield "leave-out", f"by a common {plain(min(low), 4)} to {plain(max(low), 4)} nats/token"
    early = results("leave-out-wikitext")[0]["readings"]["reweighting:reading=replayed"]
    yield "leave-out-wikitext", f"LDS {early['spearman']:.3f} after 100 warm-up steps (T = 32, mixed)"
    later = {
        (one["steps"], one["items"]): one["readings"]["reweighting:reading=replayed"]
        for one in results("leave-out-wikitext-later")
    }
    values = [later[steps, items]["spearman"] for steps in (32, 64) for items in ("iid", "heterogeneous")]
    yield (
        "leave-out-wikitext-later",
        "After 400 it is {:.3f} and {:.3f} at T = 32, and {:.3f} and {:.3f} at T = 64".format(*values),
    )
    skill = [found["skill"] for found in later.values()]
    yield "leave-out-wikitext-later", f"with skill of {min(skill):+.2f} to {max(skill):+.2f}"


def against_steps(estimator: str, measure: str = "skill") -> dict[tuple[str, int], float]:
    return {
        (one["schedule"], one["steps"]): one["estimators"][estimator][measure] for one in results("error-against-steps")
    }


@of(LIMITS)
def limits_of_replay_and_taylor() -> Iterable[tuple[str, str]]:
    name, r, e = "error-against-steps", against_steps("replay"), against_steps("replay-exact")
    yield name, f"(T = 8, cosine: skill {r['cosine', 8]:.2f})"
    yield name, signed(f"{r['cosine', 64]:.1f} cosine and {r['constant', 64]:.1f} constant at T = 64")
    yield name, signed(f"{r['constant', 8]:.2f} and {r['constant', 32]:.2f} constant at T = 8 and 32")
    least = min(against_steps("replay-exact", "spearman").values())
    yield name, f"Spearman {least:.3f} or more in all eight settings"
    yield name, f"falls from {max(e.values()):.2f} to {min(e.values()):.2f} (T = 64, constant)"
    t, bare = against_steps("fut"), against_steps("fut, no sketch")
    yield name, f"falls from {t['cosine', 8]:.2f} at T = 8 to {t['cosine', 64]:.2f} at T = 64"
    constant = [value for (schedule, _), value in t.items() if schedule == "constant"]
    yield name, signed(f"it lies between {min(constant):.2f} and {max(constant):.2f}")
    yield name, f"Without any sketch skill is {spanned(list(bare.values()), '.2f')} in the same settings"
    yield name, f"relative error {spanned(list(against_steps('fut', 'endpoint_error').values()), '.2f')}"
    m = against_steps("fut, replayed moments")
    yield name, f"(skill {m['cosine', 8]:.2f} cosine, {m['constant', 8]:.2f} constant)"
    yield name, signed(f"hurt at 64 ({m['cosine', 64]:.2f} and {m['constant', 64]:.2f})")
    assert max(against_steps("fut, secant").values()) < -3


def edits(name: str, kind: str) -> Row:
    return row(f"single-edits-near-{name}", edits=kind)


@of(LIMITS)
def limits_of_intervals() -> Iterable[tuple[str, str]]:
    names = "single-edits-near-32-iid single-edits-near-64-het"
    every = [one["random_orders"]["coverage"] for name in names.split() for one in results(name)]
    yield names, f"the intervals of one to sixteen edits held {spanned(every, '.2f')}"
    short, long = edits("32-iid", "swap"), edits("64-het", "swap")
    near, far = short["random_orders"], long["random_orders"]
    yield (
        names,
        f"For single swaps they were ±{1e5 * near['half_width']:.0f}·10⁻⁵ nats/token "
        f"with an error of {1e5 * near['mae']:.1f}·10⁻⁵ "
        f"(T = 32, mixed items), and ±{1e5 * far['half_width']:.0f} with {1e5 * far['mae']:.0f} (T = 64, heterogeneous)",
    )
    bare = [one["uncalibrated"]["mae"] for one in (short, long)]
    yield names, f"errors of {1e5 * bare[0]:.1f} and {1e5 * bare[1]:.0f} for those swaps"
    repeat = edits("64-het", "repeat")
    yield (
        names,
        f"and {1e5 * repeat['uncalibrated']['mae']:.0f} against {1e5 * repeat['random_orders']['mae']:.0f} "
        "for `repeat` at T = 64",
    )
    own = {
        kind: edits("64-het", kind)["own_edits"]["coverage"]
        for kind in ("swap", "move", "repeat", "without", "replace")
    }
    yield names, f"it held {own['swap']:.2f} of swaps and {own['move']:.2f} of moves"
    yield (
        names,
        f"but {own['repeat']:.2f} of `repeat`, {own['without']:.2f} of `without` and {own['replace']:.2f} of `replace`",
    )


def searched(wikitext: bool, steps: int) -> list[Row]:
    names = ["curriculum-wikitext", "curriculum-wikitext-t64"] if wikitext else ["curriculum"]
    return [one for name in names for one in results(name) if one["steps"] == steps]


def too_good(rows: Sequence[Row], digits: int = 4) -> str:
    """Mean and standard deviation of the uncalibrated estimate minus the truth where the search ended."""
    errors = [one["found"]["history"][-1][1] - one["found"]["finalists"][0]["retrained_loss"] for one in rows]
    return signed(f"{np.mean(errors):.{digits}f} ± {np.std(errors, ddof=1):.{digits}f}")


def gains(rows: Sequence[Row]) -> list[float]:
    return [one["found"]["mean_random_loss"] - one["found"]["retrained_loss"] for one in rows]


@of(LIMITS)
def limits_of_search() -> Iterable[tuple[str, str]]:
    names = "curriculum curriculum-wikitext curriculum-wikitext-t64"
    text, wiki = ([searched(wikitext, steps) for steps in (32, 64)] for wikitext in (False, True))
    kept = []
    for rows in (*text, *wiki):
        shares = [100 * fresh_gain(one) / one["found"]["gain"]["mean_random"]["perplexity"] for one in rows]
        kept.append(f"{min(shares):.0f} to {max(shares):.0f} %")
    assert ppl(0.0) == 1.0
    yield names, f"{kept[0]} of the probe's at T = 32 and {kept[1]} at 64 (CPython's language reference, five seeds)"
    yield names, f"and {kept[2]} and {kept[3]} on WikiText-2"
    inside = [sum(one["inside_interval"] for rows in (a, b) for one in rows) for a, b in zip(text, wiki, strict=True)]
    yield names, f"{too_good(text[0])} on the language reference and {too_good(wiki[0])} on WikiText-2 at T = 32"
    yield names, f"gains of {spanned(gains(text[0]))} and {spanned(gains(wiki[0]))}."
    yield names, f"held the truth in {inside[0]} of 10 runs"
    yield names, f"At T = 64 the error is {too_good(text[1])} and {too_good(wiki[1])}"
    yield (
        names,
        f"against gains of {spanned(gains(text[1]))} and {spanned(gains(wiki[1]))}, and the interval held in {inside[1]} of 10",
    )
    errors = []
    for rows in text:
        at_best = [one for r in rows for one in r.get("away", []) if one["swaps"] == 0]
        errors.append(float(np.mean([one["positions"] - one["retrained"] for one in at_best])))
    yield names, signed(f"{errors[0]:.3f} on the language reference at T = 32, {errors[1]:.3f} at 64")


@of(LIMITS)
def limits_of_maps() -> Iterable[tuple[str, str]]:
    checked = [one["checked"] for one in results("memorization")]

    def errors(*kinds: str) -> list[float]:
        return [one[kind]["heatmap_error"] for one in checked for kind in kinds]

    own, near, probe = errors("own"), errors("near", "far"), errors("probe")
    yield "memorization", f"its error is {own[0]:.2f} and {own[1]:.2f} of the map's own spread"
    yield (
        "memorization",
        f"{spanned(near, '.2f')} on held-out text near it and far from it, and {probe[0]:.2f} and {probe[1]:.2f}",
    )


@of(LIMITS)
def limits_of_the_board() -> Iterable[tuple[str, str]]:
    a, p = demo()["adjoint"], demo()["positions"]
    yield (
        "demo",
        f"Spearman {p['spearman']:.3f} and skill {p['skill']:.2f} before calibration, against {a['spearman']:.3f} and "
        f"{a['skill_uncalibrated']:.2f} of `adjoint`",
    )

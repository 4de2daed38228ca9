"""Studies on the page: what a run keeps of order noise, of branch and hold, and of signal and noise, with its intervals."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from small import ASKED, MakeRun

import fut
from estimators.noise.seed_budget import seed_budget
from fut.api.questions import slopes_window, study_context
from fut.display.scale import minus
from fut.protocols import Answer
from fut.questions.snr.ask import SnrRequest
from fut.questions.snr.result import ModuleSnr
from fut.report.charts.logarithmic import ROW, log_ticks, spread_apart
from fut.report.charts.paired import Pairs, pairs
from fut.report.charts.svg import Axis, Bar, Dot
from fut.report.sections import branch, compare, noise, snr
from fut.studies.branch.ask import BranchRequest
from fut.studies.branch.kept import KeptEffect
from fut.studies.branch.result import BranchEffect
from fut.studies.compare.ask import CompareRequest
from fut.studies.compare.render import SAID
from fut.studies.compare.result import Compared
from fut.studies.noise.result import OrderNoise
from fut.studies.noise.seeds import Seeds, SeedsRequest
from fut.studies.noise.seeds import ask as ask_seeds
from fut.studies.noise.slopes import Slopes, SlopesRequest, noise_slopes
from fut.studies.noise.study import NoiseRequest

LAYOUT = Path(__file__).with_name("layout.js")


@pytest.fixture(scope="module")
def run(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """A run of which every study has been asked."""
    made = make_run("adjoint", data={"items": 8})
    path = Path(shutil.copytree(made.path, tmp_path_factory.mktemp("studies") / "run", ignore=ASKED))
    return fut.open(path, device="cpu")


@pytest.fixture(scope="module")
def measured(run: fut.Run) -> OrderNoise:
    return run.ask(NoiseRequest(8))


@pytest.fixture(scope="module")
def budget(run: fut.Run) -> Seeds:
    return ask_seeds(SeedsRequest(0.01, paired=True, rho=0.9, orders=8), study_context(run.context))


@pytest.fixture(scope="module")
def effect(run: fut.Run) -> BranchEffect:
    run.ask(BranchRequest(at=2, window=3, seeds=1, treatment="reset"))
    return run.ask(BranchRequest(at=2, window=3, seeds=6, source="order", treatment="reverse"))


@pytest.fixture(scope="module")
def ratios(run: fut.Run) -> ModuleSnr:
    return run.ask(SnrRequest(points=4, gradients=6))


@pytest.fixture(scope="module")
def compared(run: fut.Run) -> Compared:
    return run.ask(CompareRequest(("own", "lion:rate=0.0003", "momentum:rate=0.01"), seeds=6, search=False))


@pytest.fixture(scope="module")
def slopes(run: fut.Run) -> Slopes:
    request = SlopesRequest(3, 3, rules=("sgd", "heavy_ball_clock_matched"))
    window, archive = slopes_window(run.context, request)
    return noise_slopes(request, own=window, archive=archive)


@pytest.fixture(scope="module")
def page(
    run: fut.Run,
    measured: OrderNoise,
    budget: Seeds,
    effect: BranchEffect,
    ratios: ModuleSnr,
    compared: Compared,
    slopes: Slopes,
) -> Path:
    return run.report(run.path.parent / "page.html", samples=0).path


def section(page: Path, name: str) -> str:
    """The text of a section of the page."""
    found = re.search(rf'<section id="{name}".*?</section>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    text = re.sub(r"<script\b.*?</script>", " ", found.group(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def plain(answer: Answer) -> Any:
    """As JSON has it: lists in place of tuples."""
    return json.loads(json.dumps(answer.as_dict()))


def test_kept_answers_come_back_as_they_were(
    run: fut.Run, measured: OrderNoise, budget: Seeds, effect: BranchEffect, ratios: ModuleSnr, slopes: Slopes
) -> None:
    def kept(kind: str) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(run.path.glob(f"answers/{kind}-*.json"))]

    for kind in ("noise", "seeds", "branch", "snr"):
        assert {content["question"] for content in kept(kind)} == {kind}
    assert plain(OrderNoise.from_dict(kept("noise")[0])) == plain(measured)
    assert plain(Seeds.from_dict(kept("seeds")[0])) == plain(budget)
    assert plain(Slopes.from_dict(kept("slopes")[0])) == plain(slopes)
    assert plain(ModuleSnr.from_dict(kept("snr")[0])) == plain(ratios)
    found = {KeptEffect.from_dict(content).plan: KeptEffect.from_dict(content) for content in kept("branch")}
    again = found[effect.plan]
    assert again.effects == effect.effects
    assert again.deltas == {name: effect.deltas(name) for name in effect.effects}
    assert (again.steps, again.course) == effect.course()
    assert again.checks == effect.checks
    assert again.estimated is not None
    assert list(again.estimated[1]) == list((effect.estimated or ("", ()))[1])


def test_the_measured_noise_stands_beside_the_closed_form_with_weights_and_budget(
    page: Path, measured: OrderNoise, budget: Seeds
) -> None:
    said = section(page, "noise")
    assert f"{measured.difference:.2g} nats/token (standard deviation, 90 % interval" in said
    assert f"retrained {measured.spread.sd:.3g} 1 1" in said
    for name, row in (("closed form", "impulse weights, closed form"), ("replay", "replay of frozen gradients")):
        own = measured.estimates[name]
        assert f"{row} {own.sd:.3g} {own.ratio:.2f} {minus(f'{own.spearman:.2f}')}" in said
    gap = 2 * measured.spread.sd
    assert f"{gap:.2g} nats/token (2 sd) {seed_budget(2.0, 1.0).runs} {seed_budget(2, 1, 0.9, True).runs}" in said
    assert budget.paired is not None
    assert f"0.01 nats/token {budget.alone.runs} {budget.paired.runs} (ρ = 0.900)" in said
    drawn = noise.shown(measured)
    assert measured.local is not None
    (weights,) = measured.local.weights
    assert [shape.tip.split("\n")[1] for shape in drawn.weights[0][1].shapes if isinstance(shape, Dot)] == [
        minus(f"{weight:+.6g}") for weight in weights.weights
    ]
    assert drawn.budget is not None


def test_exponents_by_learning_rate_are_drawn(page: Path, slopes: Slopes) -> None:
    said = section(page, "noise")
    for name, slope in slopes.slopes.items():
        assert f"{name} {slope.small:.2f}" in said
    _, chart = noise._slopes(slopes)
    dots = [shape for shape in chart.shapes if isinstance(shape, Dot)]
    assert len(dots) == sum(sum(slope.resolved) for slope in slopes.slopes.values())


def test_an_effect_has_a_dot_a_seed_and_its_interval_for_every_readout(
    page: Path, run: fut.Run, effect: BranchEffect
) -> None:
    said = section(page, "branch")
    loss = effect.effects["loss"]
    assert loss.interval is not None
    assert f"order: {effect.plan.treatment}" in said
    row = f"probe loss [nats/token], negative helps {loss.mean:+.2g} {loss.interval[0]:+.2g} … {loss.interval[1]:+.2g}"
    assert minus(row) in minus(said)
    assert "One seed has no interval." in said
    assert "the control trained again has the same bytes" in said
    assert "FAIL" not in said
    (kept,) = [
        content
        for file in run.path.glob("answers/branch-*.json")
        if (content := json.loads(file.read_text()))["plan"]["source"] == "order"
    ]
    shown = branch.shown(KeptEffect.from_dict(kept))
    for (_, chart), name in zip(shown.panels, ("loss", "accuracy", "calibration_error"), strict=True):
        seeds = [s for s in chart.shapes if isinstance(s, Dot) and s.look == "estimate"]
        assert len(seeds) == 6, name
    assert sum(isinstance(s, Dot) and s.look == "chosen" for s in shown.panels[0][1].shapes) == 6


def test_a_check_that_fails_is_loud(effect: BranchEffect) -> None:
    content = json.loads(json.dumps(effect.as_dict()))
    content["checks"]["repeatable"] = False
    assert branch.shown(KeptEffect.from_dict(content)).failed == ["the control trained again has the same bytes"]


def test_ratios_of_modules_are_drawn_over_the_steps(page: Path, ratios: ModuleSnr) -> None:
    said, last = section(page, "snr"), ratios.points[-1]
    for module, one in last.gradients.items():
        assert one.interval is not None
        assert f"{module} {minus(f'{one.ratio:.3g}')}" in said
    shown = snr.shown(ratios)
    assert shown.compared is not None
    assert sum(isinstance(s, Dot) for s in shown.compared.shapes) == len(ratios.sizes) * len(ratios.points)
    assert [name for name, _ in shown.modules] == [row[0] for row in shown.rows]
    single = ModuleSnr(ratios.sizes, ratios.gradients, ratios.power, ratios.points[-1:])
    assert snr.shown(single).compared is None


def test_differences_between_rules_stand_beside_the_noise_of_the_order(page: Path, compared: Compared) -> None:
    said = section(page, "compare")
    for one in compared.differences:
        assert one.noise is not None
        assert one.effect.interval is not None
        low, high = one.effect.interval
        row = f"{one.arm} − {one.against} {one.effect.mean:+.2g} {low:+.2g} … {high:+.2g} ± {one.noise:.2g}"
        assert minus(row) in minus(said)
        assert SAID[one.verdict] in said
    for _, _, chart in compare.shown(compared).panels:
        assert sum(isinstance(s, Dot) and s.look == "estimate" for s in chart.shapes) == 6
        assert any(isinstance(s, Bar) and s.look == "band" for s in chart.shapes)


@pytest.mark.parametrize("name", ["noise", "branch", "snr", "compare"])
def test_a_study_that_was_not_asked_says_its_command(small_run: fut.Run, tmp_path: Path, name: str) -> None:
    own = fut.open(shutil.copytree(small_run.path, tmp_path / "own", ignore=ASKED), device="cpu")
    found = own.report(tmp_path / "page.html", samples=0)
    assert f"Run fut {name} {own.path}" in section(found.path, name)
    assert any(row.startswith(f"fut {name} ") for row in found.missing.values())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_label_of_a_study_is_crossed_or_cut(browser: Browser, page: Path, scheme: str) -> None:
    with browser.open(page, 1280, color_scheme=scheme) as opened:
        assert opened.page.locator("#noise svg, #branch svg, #snr svg, #compare svg").count() >= 16
        assert opened.page.evaluate(LAYOUT.read_text()) == []
    with browser.open(page, 360, 740, is_mobile=True) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 360


def test_names_at_the_ends_of_lines_lie_apart_and_inside() -> None:
    placed = spread_apart([(50.0, "a", ""), (51.0, "b", ""), (120.0, "c", ""), (119.0, "d", "")], 10.0, 122.0)
    places = [place for place, _, _ in placed]
    assert [name for _, name, _ in placed] == ["a", "b", "d", "c"]
    assert all(b - a >= ROW - 0.01 for a, b in itertools.pairwise(places))
    assert min(places) >= 10.0
    assert max(places) <= 122.0


@pytest.mark.parametrize(("low", "high"), [(-3.0, 0.5), (-0.2, 0.3), (0.4, 0.6), (-8.0, 8.0)])
def test_ticks_of_logarithms_differ_and_lie_on_the_axis(low: float, high: float) -> None:
    labels = [tick.label for tick in log_ticks(Axis(low, high, 0.0, 100.0))]
    assert len(set(labels)) == len(labels) >= 2
    plain = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    values = [10.0 ** int(x[2:].translate(plain)) if x[2:3] in "⁻⁰¹²³⁴⁵⁶⁷⁸⁹" and x[2:] else float(x) for x in labels]
    assert all(10**low <= value <= 10**high for value in values)


def test_a_pair_of_one_and_equal_pairs_can_be_drawn() -> None:
    for values in ([0.25], [0.0, 0.0, 0.0], [float("nan"), 1.0]):
        drawn = pairs(Pairs(values, values[-1], None, "", "Δ", noise=0.1))
        assert sum(isinstance(s, Dot) and s.look == "estimate" for s in drawn.shapes) == sum(v == v for v in values)

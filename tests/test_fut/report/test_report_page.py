"""The report in a real browser: the board's numbers are Python's however cards are moved, and the page behaves."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import AT_REST, Browser, Opened
from kept_answers import CLOSE, domains, entry, memorization, page_with, whatif
from small import Cli, MakeRun, small_config

import fut

LAYOUT = Path(__file__).with_name("layout.js")
READOUTS: dict[str, Any] = {"data": {"items": 7}, "adjoint": {"readouts": ["probe", "item:3", "accuracy"]}}


@pytest.fixture(scope="module")
def run(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """Seven batches, three read-outs; the board is calibrated for the probe loss alone, and one order is retrained."""
    made = make_run(cached=False, **READOUTS)
    path = Path(shutil.copytree(made.path, tmp_path_factory.mktemp("report") / "run"))
    found = fut.open(path, device="cpu")
    found.cache(["adjoint"])
    found.calibrate(8, estimator="positions")
    found.retrain("swap:1,5")
    found.verify(3, estimators=["adjoint", "positions"])
    found.search(evaluations=12, verify=2, finalists=1, heuristics=["reverse"])
    return found


@pytest.fixture(scope="module")
def page(run: fut.Run) -> Path:
    return run.report().path


def agree(opened: Opened, run: fut.Run, order: list[int]) -> None:
    """All numbers that the board shows are those of Python, the differences to 1e-4 of themselves and much better."""
    opened.shows(order)
    truth = run.estimate([order], "positions", known=False)[0]
    assert opened.number("predicted") == pytest.approx(truth.value, rel=1e-12)
    assert opened.number("delta") == pytest.approx(truth.delta, rel=1e-7, abs=1e-15)
    raw = run.estimate([order], "positions", known=False, calibrated=False)[0]
    assert opened.number("uncalibrated") == pytest.approx(raw.delta, rel=1e-9, abs=1e-15)
    assert opened.number("perplexity") == pytest.approx(truth.perplexity, rel=1e-12)
    assert truth.interval is not None
    assert [opened.number("low"), opened.number("high")] == pytest.approx(truth.interval, rel=1e-10)
    rows = opened.page.locator("#readouts tbody tr")
    for i, readout in enumerate(["probe", "item:3", "accuracy"]):
        expected = run.estimate([order], "positions", known=False, readout=readout)[0]
        shown = [d.get_attribute("value") for d in rows.nth(i).locator("data").all()]
        assert float(shown[0]) == pytest.approx(expected.value, rel=1e-12)
        assert float(shown[1]) == pytest.approx(expected.delta, rel=1e-7, abs=1e-15)
        assert (shown[2] == "") == (expected.interval is None)


def card(opened: Opened, number: int) -> Any:
    return opened.page.locator(f'.card[data-card="{number}"]')


def centre(opened: Opened, number: int) -> tuple[float, float]:
    box = card(opened, number).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def amid(opened: Opened, number: int) -> None:
    """Scroll a card to the window's middle: near an edge it scrolls for as long as a card is dragged."""
    card(opened, number).evaluate("c => c.scrollIntoView({ block: 'center', behavior: 'instant' })")
    opened.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drag(opened: Opened, number: int, onto: int) -> None:
    amid(opened, number)
    start, end = centre(opened, number), centre(opened, onto)
    mouse = opened.page.mouse
    mouse.move(*start)
    mouse.down()
    mouse.move(*end, steps=6)
    mouse.up()
    opened.page.evaluate(AT_REST)


def test_dragging_by_mouse_predicts_what_python_does(browser: Browser, run: fut.Run, page: Path) -> None:
    with browser.open(page) as opened:
        agree(opened, run, [0, 1, 2, 3, 4, 5, 6])
        drag(opened, 5, 1)
        agree(opened, run, [0, 5, 1, 2, 3, 4, 6])
        drag(opened, 0, 6)
        agree(opened, run, [5, 1, 2, 3, 4, 6, 0])
        assert abs(opened.number("delta")) > 1e-6
        opened.page.locator("#swap-mode").check()
        drag(opened, 6, 1)
        agree(opened, run, [5, 6, 2, 3, 4, 1, 0])
        opened.page.locator("#undo").click()
        agree(opened, run, [5, 1, 2, 3, 4, 6, 0])


def test_a_drag_that_is_given_up_changes_nothing(browser: Browser, run: fut.Run, page: Path) -> None:
    with browser.open(page) as opened:
        amid(opened, 2)
        opened.page.mouse.move(*centre(opened, 2))
        opened.page.mouse.down()
        opened.page.mouse.move(*centre(opened, 6), steps=5)
        opened.shows([0, 1, 3, 4, 5, 6, 2])
        assert opened.number("delta") != 0, "the prediction follows while the card is in the air"
        opened.page.keyboard.press("Escape")
        opened.page.mouse.up()
        agree(opened, run, [0, 1, 2, 3, 4, 5, 6])
        assert opened.page.locator(".ghost, .lifted").count() == 0


def test_keys_move_a_card_and_say_so(browser: Browser, run: fut.Run, page: Path) -> None:
    with browser.open(page) as opened:
        keys = opened.page.keyboard
        assert opened.page.locator('.card[tabindex="0"]').count() == 1, "one stop of the tab key"
        card(opened, 0).focus()
        for key in ("ArrowRight", "ArrowRight", "Enter", "ArrowRight", "End"):
            keys.press(key)
        opened.says("batch 2 at step 6")
        assert card(opened, 2).get_attribute("aria-pressed") == "true"
        keys.press("ArrowLeft")
        keys.press("Enter")
        said = opened.says("batch 2 put down at step 5")
        assert card(opened, 2).evaluate("c => c === document.activeElement")
        agree(opened, run, [0, 1, 3, 4, 5, 2, 6])
        assert "nats/token" in said
        assert ("below" if opened.number("delta") < 0 else "above") in said
        for key in ("Space", "Home", "Escape"):
            keys.press(key)
        opened.says("Put back.")
        agree(opened, run, [0, 1, 3, 4, 5, 2, 6])


@pytest.mark.parametrize("rest", [300, 0])
def test_a_finger_drags_after_resting_and_scrolls_otherwise(
    browser: Browser, run: fut.Run, page: Path, rest: int
) -> None:
    with browser.open(page, 360, 740, is_mobile=True, has_touch=True) as opened:
        amid(opened, 3)
        clock = opened.page.clock  # the page's own time stands still but for the rest, however long the machine takes
        clock.install(time=0)
        clock.pause_at(1)
        send = opened.page.context.new_cdp_session(opened.page).send
        (x, y), (to_x, to_y) = centre(opened, 5), centre(opened, 1)
        send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        clock.run_for(rest)
        assert opened.page.locator(".ghost").count() == (rest > 0)
        for share in (0.2, 0.4, 0.6, 0.8, 1.0):
            at = {"x": x + share * (to_x - x), "y": y + share * (to_y - y)}
            send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
        send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        agree(opened, run, [0, 5, 1, 2, 3, 4, 6] if rest else [0, 1, 2, 3, 4, 5, 6])


def test_taps_move_a_card_without_dragging(browser: Browser, run: fut.Run, page: Path) -> None:
    with browser.open(page, 360, 740, is_mobile=True, has_touch=True) as opened:
        card(opened, 4).tap()
        card(opened, 1).tap()
        agree(opened, run, [0, 4, 1, 2, 3, 5, 6])


def test_buttons_and_text_arrange_the_cards(browser: Browser, run: fut.Run, page: Path) -> None:
    with browser.open(page) as opened:
        at = opened.page.locator
        at("#reverse").click()
        agree(opened, run, [6, 5, 4, 3, 2, 1, 0])
        at("#random").click()
        agree(opened, run, [s[0] for s in run.order("random-steps:0").steps])
        at("#arrange").select_option(label="lowest prediction")
        best = [s[0] for s in run.orders.best().steps]
        agree(opened, run, best)
        at("#arrange").select_option(label="sort:loss")
        agree(opened, run, [s[0] for s in run.order("sort:loss").steps])
        at("#order-text").fill("1 5 2 3 4 0 6")
        at("#order-text").press("Enter")
        agree(opened, run, [1, 5, 2, 3, 4, 0, 6])
        for text, said in [
            ("0,1,2", "expected 7 batches, got 3"),
            ("0,1,2,3,4,5,5", "got batch 5 twice"),
            ("0,1,2,3,4,5,7", "expected batch numbers 0 to 6, got “7”"),
            ("-1,x", "got “-1”"),
        ]:
            at("#order-text").fill(text)
            at("#order-form button").click()
            assert said in at("#order-error").inner_text()
        agree(opened, run, [1, 5, 2, 3, 4, 0, 6])
        assert at("#command").inner_text() == f"fut estimate {run.path} --order 1,5,2,3,4,0,6 --estimator positions"


def test_an_order_that_was_retrained_shows_its_truth(browser: Browser, run: fut.Run, page: Path) -> None:
    truth = run.retrain("swap:1,5").loss
    with browser.open(page) as opened:
        assert opened.number("retrained") == run.reference_loss
        opened.type([6, 0, 1, 2, 3, 4, 5])
        assert opened.page.locator("#truth").is_hidden()
        opened.type([0, 5, 2, 3, 4, 1, 6])
        assert opened.page.locator("#truth").is_visible()
        assert opened.number("retrained") == truth
        assert opened.number("retrained-delta") == pytest.approx(truth - run.reference_loss, rel=1e-9)
        assert opened.number("predicted") != truth


def test_single_edits_have_a_calibration_of_their_own(browser: Browser, run: fut.Run, tmp_path: Path) -> None:
    own = fut.open(shutil.copytree(run.path, tmp_path / "own"), device="cpu")
    own.calibrate(7, estimator="positions", edit="swap")
    with browser.open(own.report().path) as opened:
        shown = opened.page.locator
        for order, a, b in [([0, 1, 6, 3, 4, 5, 2], 2, 6), ([0, 1, 3, 2, 4, 5, 6], 2, 3)]:
            opened.type(order)
            agree(opened, own, order)
            expected = own.whatif(edits=[f"swap:{a},{b}"], estimator="positions", known=False)["probe"]
            assert opened.number("delta") == pytest.approx(expected.delta, rel=1e-7)
            assert [opened.number("low"), opened.number("high")] == pytest.approx(expected.interval, rel=1e-10)
            assert shown("#command").inner_text() == f"fut whatif {own.path} --swap {a},{b} --estimator positions"
            assert "7 retrained orders, each a single swap away" in shown("#basis").inner_text()
            assert shown("#readouts .basis").all_inner_texts() == ["7 single swaps", "–", "–"]
        opened.type([1, 2, 3, 0, 4, 5, 6])
        agree(opened, own, [1, 2, 3, 0, 4, 5, 6])
        assert "8 retrained random orders" in shown("#basis").inner_text()


def test_every_single_edit_is_recognised(browser: Browser, run: fut.Run, page: Path) -> None:
    cards, seen = list(range(7)), dict[Any, set[Any]]()
    for a in cards:
        for b in cards:
            if a != b:
                swap, move = run.reference.swap(a, b), run.reference.move(a, b)
                seen.setdefault(swap, set()).add(("swap", min(a, b), max(a, b)))
                seen.setdefault(move, set()).add(("move", a, b))
    with browser.open(page) as opened:
        ask = "(order) => onlyEdits(order, [0, 1, 2, 3, 4, 5, 6])"
        for order, edits in seen.items():
            found = {tuple(e) for e in opened.page.evaluate(ask, [i for (i,) in order.steps])}
            assert found
            assert found <= edits
            assert {kind for kind, *_ in found} == {kind for kind, *_ in edits}
        assert opened.page.evaluate(ask, [1, 2, 3, 0, 4, 6, 5]) == []
        assert opened.page.evaluate(ask, cards) == []


def test_a_found_order_goes_to_the_board(browser: Browser, run: fut.Run, page: Path) -> None:
    (found,) = (json.loads(f.read_text()) for f in (run.path / "answers").glob("search-*.json"))
    with browser.open(page) as opened:
        opened.page.locator("#search button.to-board").first.click()
        agree(opened, run, found["order"])
        assert opened.number("retrained") == found["retrained_loss"]


def test_hostile_text_is_shown_and_not_obeyed(browser: Browser, tmp_path: Path) -> None:
    source, hostile = tmp_path / "text.txt", "</script><script>window.hacked=1</script><img src=x onerror='hacked=1'> "
    source.write_text(hostile * 120)
    made = fut.train(
        tmp_path / "<i>run", small_config(data={"text": str(source), "context": 70, "probe": 2}), device="cpu"
    )
    made.cache(["adjoint"])
    with browser.open(made.report().path) as opened:
        card(opened, 2).click()
        text = opened.page.locator("#detail-text p").first.text_content()
        assert "</script><script>window.hacked=1" in text + text
        assert opened.page.evaluate("window.hacked") is None
        assert opened.page.locator("main script:not([type]), main img, h1 i").count() == 0
        assert opened.page.locator("h1").inner_text() == "<i>run"


def test_steps_of_several_items_move_whole(browser: Browser, make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(cached=False, data={"items": 12, "per_step": 3, "batch": 1}, schedule={"rate": 1.5e-3})
    made.cache(["adjoint"])
    with browser.open(made.report(tmp_path / "page.html", samples=0).path) as opened:
        drag(opened, 3, 0)
        order = [[9, 10, 11], [0, 1, 2], [3, 4, 5], [6, 7, 8]]
        delta = made.estimate([order], "positions", known=False)[0].delta
        assert opened.number("delta") == pytest.approx(delta, rel=1e-9)
        assert str(order).replace(" ", "") in opened.page.locator("#command").inner_text()


def test_the_parts_on_the_cards_add_up(browser: Browser, run: fut.Run, page: Path) -> None:
    table = run.orders.positions()
    order = [3, 0, 6, 1, 5, 2, 4]
    delta = sum(table[t, i] - table[t, t] for t, i in enumerate(order))
    with browser.open(page) as opened:
        opened.type(order)
        parts = [p.replace("−", "-") for p in opened.page.locator(".card .worth").all_inner_texts()]
        factor = opened.page.evaluate("JSON.parse(document.getElementById('board-data').textContent).factor")
        assert sum(float(p or 0) for p in parts) * factor == pytest.approx(delta, abs=7 * 0.005 * factor)
        assert np.abs(delta) > factor * 0.1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_and_is_legible(browser: Browser, page: Path, scheme: str, width: int) -> None:
    with browser.open(page, width, 740, color_scheme=scheme, is_mobile=width < 500) as opened:
        fits = opened.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth,"
            " Array.from(document.querySelectorAll('main *')).filter(e => e.getBoundingClientRect().right > innerWidth + 1"
            " && !e.closest('.scroll')).map(e => e.outerHTML.slice(0, 80))]"
        )
        assert fits[0] == fits[1] == width
        assert fits[2] == []
        opened.page.locator("#random").click()
        faint = opened.page.evaluate(CONTRAST)
        assert faint == [], faint


CONTRAST = """() => {
  const channels = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? [...found.slice(0, 3).map((c) => 255 * c), found[3] ?? 1]
      : [...found.slice(0, 3), found[3] ?? 1];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0) return colour;
    }
    return channels(getComputedStyle(document.body).backgroundColor);
  };
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = Array.from(e.childNodes).some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || ["SCRIPT", "STYLE", "OPTION", "TITLE", "NOSCRIPT"].includes(e.tagName.toUpperCase()) || e.disabled) continue;
    if (!e.getClientRects().length || e.id === "tip") continue;
    const style = getComputedStyle(e);
    const ink = channels(e.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${e.tagName} ${e.getAttribute("class")} ${e.textContent.slice(0, 30)}`);
  }
  return faint;
}"""


def test_charts_tell_their_values(browser: Browser, run: fut.Run, page: Path) -> None:
    with browser.open(page) as opened:
        tip, found = opened.page.locator("#tip"), run.orders.positions()
        dots = opened.page.locator("#accuracy svg").first
        dots.scroll_into_view_if_needed()
        dots.locator("circle").first.hover()
        assert "retrained" in tip.inner_text()
        assert "estimated" in tip.inner_text()
        opened.page.mouse.move(1, 1)
        cells = opened.page.locator("#positions svg[data-cells]")
        cells.focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
            opened.page.keyboard.press(key)
        centred = found - found.mean(axis=0) - found.mean(axis=1, keepdims=True) + found.mean()
        where, value = tip.inner_text().split("\n")
        assert where == "batch 1 at step 2"
        number, power = value.replace("−", "-").split(" ")[:2]
        exponent = {"nats/token": 1.0, "10⁻³": 1e-3, "10⁻⁶": 1e-6}[power]
        assert float(number) * exponent == pytest.approx(centred[2, 1], abs=0.0006 * exponent)
        opened.page.keyboard.press("Escape")
        assert tip.is_hidden()


def test_no_label_is_crossed_or_cut(browser: Browser, run: fut.Run, tmp_path: Path) -> None:
    """Nor does one lie on another, nor is a table wider than the page; each of an axis's ticks is another one."""
    own = fut.open(shutil.copytree(run.path, tmp_path / "own"), device="cpu")
    long = whatif([f"swap:{i},{i + 1}" for i in range(9)])
    aside = domains() | {"orders": [entry("books>code", 0.004), entry("a name of a domain that is long>code", 0.0001)]}
    close = memorization() | {"similarity": CLOSE}
    page_with(own, tmp_path, close, aside, long)
    with browser.open(tmp_path / "page.html", 1280) as opened:
        assert opened.page.locator("svg.chart").count() > 8
        assert opened.page.evaluate(LAYOUT.read_text()) == []


def test_headings_look_apart_from_captions(browser: Browser, run: fut.Run, tmp_path: Path) -> None:
    own = fut.open(shutil.copytree(run.path, tmp_path / "own"), device="cpu")
    page_with(own, tmp_path, memorization(), domains())
    sizes = "looks => [...document.querySelectorAll(looks)].map(e => parseFloat(getComputedStyle(e).fontSize))"
    with browser.open(tmp_path / "page.html", 1280) as opened:
        headings = opened.page.evaluate(sizes, "h2, main h3")
        captions = opened.page.evaluate(sizes, "figcaption, figcaption *")
    assert min(headings) >= 1.25 * max(captions)


def test_the_command_on_the_page_gives_the_pages_number(browser: Browser, run: fut.Run, page: Path, cli: Cli) -> None:
    with browser.open(page) as opened:
        opened.type([2, 5, 1, 3, 4, 0, 6])
        command = shlex.split(opened.page.locator("#command").inner_text())
        shown = opened.number("predicted")
    said = cli(*command[1:], "--device", "cpu", "--json").json
    assert shown == pytest.approx((said[0] if isinstance(said, list) else said)["value"], rel=1e-12)

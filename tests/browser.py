"""A real browser for tests of pages: found on this machine, or the tests are skipped, which `conftest.py` says loudly.

No test sleeps for a fixed time: each waits for what it then asserts, for as long as a busy machine may need.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import patience
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 1000.0 * patience.PATIENCE
"""Milliseconds that a page has for anything that a test waits for."""
SWITCHES = (
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
)
REQUIRED = "FUT_REQUIRE_BROWSER"
"""Environment variable under which a browser test that is skipped counts as failed."""
UNTESTED = "no browser to test the report's what-if board in: {}"
REMEDY = (
    "To run them: `apt-get install chromium` (or `python -m playwright install chromium`, or name one in FUT_CHROMIUM), then "
    "`make test`, or `python -m pytest -m browser`. With FUT_REQUIRE_BROWSER=1 a test skipped so is a failure."
)
AT_REST = "Promise.all(document.getAnimations().map(a => a.finished.catch(() => null))).then(() => null)"
LIES = "order => [...document.querySelectorAll('#cards .card')].map(c => c.dataset.card).join() === order.join()"


def chromium(own: str) -> str:
    """The Chromium to drive; skips with the reason where there is none. own: where playwright keeps its own, if it has one."""
    named = os.environ.get("FUT_CHROMIUM")
    if named:
        assert Path(named).exists(), f"FUT_CHROMIUM: expected a Chromium, got {named}, which does not exist"
        return named
    found = next((path for name in NAMES if (path := shutil.which(name))), own if Path(own).exists() else None)
    if found is None:
        pytest.skip(UNTESTED.format(f"None of {', '.join(NAMES)} is on PATH."))
    return found


@dataclass
class Opened:
    """A page in the browser, and all that it must not do: errors, messages, requests other than for its own file."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def number(self, name: str) -> float:
        """The full value of a figure on the page."""
        return float(self.page.locator(f"#{name}").get_attribute("value"))

    @property
    def order(self) -> list[int]:
        """The cards in the order in which they are on the page."""
        shown = self.page.eval_on_selector_all(
            "#cards .card",
            "cards => cards.map(c => { const b = c.parentElement.getBoundingClientRect();"
            " return [Math.round(b.top), b.left, Number(c.dataset.card)] })",
        )
        return [card for _, _, card in sorted(shown)]

    def shows(self, order: list[int]) -> None:
        """Wait until the cards come in this order and have slid into their places."""
        self.page.wait_for_function(LIES, arg=order)
        self.page.evaluate(AT_REST)
        assert self.order == order

    def says(self, text: str) -> str:
        """Wait until the page tells readers of the screen something with this text; all of what it tells."""
        found = self.page.locator("#live", has_text=text)
        found.wait_for(state="attached")
        told: str = found.inner_text()
        return told

    def type(self, order: list[int]) -> None:
        """Show an order by its text."""
        self.page.locator("#order-text").fill(" ".join(map(str, order)))
        self.page.locator("#order-text").press("Enter")


class Browser:
    """Opens pages, each in a context of its own."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    @contextmanager
    def open(self, path: Path, width: int = 1100, height: int = 900, **context: Any) -> Iterator[Opened]:
        """A page at a window size; it must neither complain nor ask for anything while it is open."""
        inside = self.driver.new_context(viewport={"width": width, "height": height}, **context)
        inside.set_default_timeout(PATIENCE)
        opened = Opened(inside.new_page())
        heard = opened.complaints.append
        opened.page.on("console", lambda m: heard(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
        opened.page.on("pageerror", lambda e: heard(f"error: {e}"))
        opened.page.on("request", lambda r: heard(f"request: {r.url[:99]}") if _foreign(r.url, path) else None)
        try:
            opened.page.goto(path.as_uri())
            yield opened
        finally:
            inside.close()
        assert opened.complaints == []


def _foreign(url: str, path: Path) -> bool:
    return url != path.as_uri() and not url.startswith("data:")


@contextmanager
def started() -> Iterator[Browser]:
    """The browser, or a skip that says what was not tested."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip(UNTESTED.format("The Python package playwright is missing (`pip install playwright`)."))
    with sync_playwright() as play:
        found = chromium(play.chromium.executable_path)
        switches = [*SWITCHES, *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])]
        driver = play.chromium.launch(executable_path=found, args=switches, timeout=PATIENCE)
        try:
            yield Browser(driver)
        finally:
            driver.close()

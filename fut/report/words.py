"""Numbers as the page writes them."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from fut.display.format import amount
from fut.display.scale import minus


def bare(value: float, unit: str, form: str = "+.5f") -> str:
    """A number without its unit; by default a signed difference with five decimals."""
    return minus(amount(value, unit, form).removesuffix(unit).rstrip())


def with_article(noun: str) -> str:
    """A noun with its article: "a batch", "an item"."""
    return f"an {noun}" if noun == "item" else f"a {noun}"


def difference(value: float, unit: str) -> str:
    """A signed difference with its unit."""
    return minus(amount(value, unit, "+.5f"))


def code(text: str) -> Markup:
    """Text for a page, in which what stands between backticks is set as code; everything is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))

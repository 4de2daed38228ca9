"""Every figure of the README and of `docs/` is one of a record, which is named beside it."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import figures_field  # noqa: F401  # registers its claims
import figures_large_models  # noqa: F401
import figures_studies  # noqa: F401
import pytest
from documents import ROOT, pages
from figures import CLAIMS, claims
from figures_of_limits import LIMITS

UNMEASURED = {
    "README.md": ["[Apache-2.0]"],  # a licence
    "docs/limitations.md": [
        "Spearman 0.95 was not reached",  # a bound, of which the table beside it has the figures
        "With 10 % of the samples left out",  # a setting
    ],
    "docs/studies.md": [
        "reports 4.00 for SGD, 2.00 for momentum and 1.83 for AdamW",  # the paper's
        "finds the gap with 80 % probability at the 5 % level",  # settings
        "Modules of known SNR, from 0.01 to 1,",  # of a test
        "hold the truth in 84 % or more of draws there",  # of a test, test_moment_intervals.py
        "its 95 % Student t interval",  # levels
        "Six orders can reach p = 0.05",  # arithmetic: 2^(1 - 6)
        "95 % of the differences of two single runs",
    ],
    "docs/branch-and-hold.md": [
        "3.2 times with Adam's defaults",  # arithmetic: (1 - 0.9) / sqrt(1 - 0.999)
        "the 95 % Student t interval",  # levels
        "the 95 % percentile bootstrap",
        "it holds 0.83 of the time, not 0.95",  # of a test, test_paired.py
        "So 0.05 needs 6",  # arithmetic: 2^(1 - 6)
    ],
    "docs/large-models.md": [
        "costs 17.7 training runs in gradients",  # arithmetic: fut.methods.adjoint.costs
        "0.9 TB, in the host's memory or on disk",  # arithmetic: the table's row
    ],
    "docs/choosing.md": ["48 random subsets of 10 % of the samples"],  # a setting
    "docs/cli.md": ["a decay as 0.99"],  # an example
    "docs/recording.md": ["the Trainer's default is 1.0"],  # a setting of transformers
    "docs/method.md": [
        "4.5 training runs for m = 8",  # arithmetic: (1 + m) / 2
        "must not exceed `adjoint.anchor_error` (5 %)",  # a setting
        "Above 25 % every answer",  # a bound
        "a half's change has V₁ + 1.5 V₂",  # arithmetic: test_trust.py
    ],
}
"""Figures that are of no record, by document, and why."""
ANYWHERE = (
    r"\barXiv(?: preprint)?[: ]*\d{4}\.\d{5}|\d{4}\.\d{5}",  # papers
    r"\b90 %",  # the level of intervals
    r"\b[123]\.\d\dM\b",  # sizes of models
    r"\bβ = \(0\.9, 0\.95\)",
)
FIGURE = re.compile(r"(?<![\w.])\d*\.\d+(?![\w.]*\d)|\b\d+ (?:%|ms|s|minutes)(?!\w)")
GENERATED = {"docs/settings.md", "docs/rules.md"}
"""Made from what settings and rules declare, or tested against it: their numbers are no measurements."""
DOCUMENTS = [name for page in pages() if (name := str(page.relative_to(ROOT))) not in GENERATED]


def flat(text: str) -> str:
    """In one line, with single spaces; list marks and quotes stay."""
    return re.sub(r"\s+", " ", text)


def sections(document: Path) -> list[str]:
    """A document's text from heading to heading, without fenced blocks."""
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [flat(part) for part in re.split(r"^(?=#+ )", text, flags=re.MULTILINE)]


def named(section: str) -> set[str]:
    """Names of records, or patterns of them, that a section states: in quotes of code or as a link."""
    quoted = re.findall(r"`(?:benchmarks/)?(?:records/)?([\w*-]+)(?:\.json)?`", section)
    return {*quoted, *re.findall(r"records/([\w*-]+)\.json", section)}


def test_every_claim_is_of_a_document_that_is_checked() -> None:
    assert {document for document, _ in CLAIMS} <= {*DOCUMENTS}
    assert sum(len(claims(document)) for document in DOCUMENTS) > 90


@pytest.mark.parametrize("document", sorted({document for document, _ in CLAIMS}))
def test_figures_are_those_of_their_records(document: str) -> None:
    parts, wrong = sections(ROOT / document), []
    for claim in claims(document):
        found = [section for section in parts if flat(claim.text) in section]
        if not found:
            wrong.append(f"expected `{claim.text}`, as {', '.join(claim.records)} has it; correct the text")
        elif missing := [name for name in claim.records if not any(fnmatch(name, one) for one in named(found[0]))]:
            wrong.append(f"expected the names of {', '.join(missing)} in the section of `{claim.text}`; add them")
    assert not wrong, "\n".join([document, *wrong])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_figure_is_without_a_record(document: str) -> None:
    known = [flat(claim.text) for claim in claims(document)] + UNMEASURED.get(document, [])
    left = []
    for section in sections(ROOT / document):
        text = section
        for one in sorted(known, key=len, reverse=True):
            text = text.replace(one, " ")
        for pattern in (r"`[^`]*`|\]\([^)]*\)|https?://\S+", *ANYWHERE):
            text = re.sub(pattern, " ", text)
        left += [text[max(0, found.start() - 50) : found.end() + 30] for found in FIGURE.finditer(text)]
    assert not left, "\n".join([f"{document}: expected figures that tests/figures.py makes from records, got", *left])


def test_a_figure_is_a_decimal_number_a_share_or_a_time() -> None:
    found = FIGURE.findall("Spearman 0.95, worth .002, 25 ms, 12 %; T = 32 at 10⁻³, 84,288 parameters, v0.1.0, 3 times")
    assert found == ["0.95", ".002", "25 ms", "12 %"]


def test_no_statement_that_a_figure_is_unmeasured_is_left_over() -> None:
    for document, known in UNMEASURED.items():
        text = flat((ROOT / document).read_text(encoding="utf-8"))
        assert not [one for one in known if one not in text], document


def test_the_limits_have_figures() -> None:
    """Which are claimed where their module is imported."""
    assert claims(LIMITS)

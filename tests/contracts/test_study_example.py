"""The worked example of a study, as it stands in CONTRIBUTING.md: on a table of truths, and on a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, module_of
from truths import Answers, TableOfTruths, table_context

from fut.api.run import Run
from fut.estimation.service import EstimationService
from fut.progress import silent
from fut.studies.base import Study, StudyContext
from fut.studies.registry import STUDIES


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study[Any, Any]:
    """The example, from a module of its own, registered."""
    module = module_of(ROOT / "CONTRIBUTING.md", "## Add a study", "early_steps", tmp_path, monkeypatch)
    monkeypatch.setattr(STUDIES, "_all", {study.name: study for study in (*STUDIES, module.EARLY)})
    found: Study[Any, Any] = STUDIES["early"]
    return found


def test_the_example_says_what_the_table_says(study: Study[Any, Any]) -> None:
    truths, archive = TableOfTruths(), Answers()
    answer = study.ask(study.request(steps=(3,)), table_context(truths, archive))
    assert [order.steps for order in truths.trained] == [((3,), (0,), (1,), (2,), (4,))]
    assert answer.as_dict() == {"delta": {"3": pytest.approx((0 * 3 + 1 * 0 + 2 * 1 + 3 * 2 + 4 * 4 - 30) / 100)}}
    assert next(archive.read("early"))["steps"] == (3,)


def test_the_example_says_what_retraining_says(study: Study[Any, Any], small_run: Run) -> None:
    truths = EstimationService(small_run.context).truths("probe")
    answer = study.ask(study.request(), StudyContext(small_run.reference, truths, Answers(), silent))
    for step in (1, 2):
        truth = small_run.retrain(small_run.reference.move(step, 0)).loss
        assert answer.delta[str(step)] == truth - small_run.reference_loss

"""Which tier a test is of: the one list. `make quick` runs the fast tier, `make test` all of them."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent

TIERS = {
    "fast": (
        "test_estimators",
        "test_storage",
        "test_accuracy",
        "test_architecture",
        "test_backend_example",
        "test_backends",
        "test_calibration",
        "test_config",
        "test_constraints",
        "test_curriculum",
        "test_data",
        "test_derivatives",
        "test_editing",
        "test_maps",
        "test_models",
        "test_spread",
        "test_quadratic",
        "test_rules",
        "test_runs",
        "test_samples",
        "test_simfluence",
        "test_sketch",
        "test_stacking",
        "test_studies",
        "test_study_example",
        "test_tiers",
    ),
    "durability": ("test_kill", "test_terms_kill", "test_terms_disk", "test_adjoint_durable"),
}
"""Folders and files of tests, without `.py`; the second line goes before the first. All others are of `integration`."""

OF_RUNS = {"make_run", "small_run", "own_run"}
"""Fixtures that train: what asks for one is not fast, wherever it stands."""


def tier_of(path: Path, fixtures: set[str]) -> str:
    """The tier of a test in a file, by the fixtures that it needs; what drives a browser is of `browser`."""
    if "browser" in fixtures:
        return "browser"
    parts = {*path.relative_to(TESTS).with_suffix("").parts}
    found = next((tier for tier, names in reversed(TIERS.items()) if parts & {*names}), "integration")
    return "integration" if found == "fast" and fixtures & OF_RUNS else found

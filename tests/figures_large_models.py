"""Figures of large models and of products, from their records."""

from __future__ import annotations

from collections.abc import Iterable

from figures import of, results


@of("docs/large-models.md")
def on_a_gpu() -> Iterable[tuple[str, str]]:
    """Throughput, and an expansion of four steps."""
    found = results("gpu-smoke")
    ratio, seconds = found["throughput"]["ratio"], found["rows"][0]["expansion"]["seconds"]
    yield "gpu-smoke", f"gradients at {ratio:.2f} of the speed of a plain loop"
    yield "gpu-smoke", f"An expansion of T = 4 took {seconds:.0f} s"


@of("docs/method.md")
def products() -> Iterable[tuple[str, str]]:
    """How far differences, and exact products under autocast, are from exact ones."""
    rows = results("difference-length")
    largest = max(rows, key=lambda row: row["parameters"])["slope"]
    taken, constant = (100 * largest[name] for name in ("taken", "constant"))
    yield "difference-length", f"is {taken:.2f} % off an exact product; with 3·10⁻⁴ it was {constant:.1f} % off"
    off = [100 * row[name]["autocast"] for row in rows for name in ("slope", "scaled slope")]
    yield "difference-length", f"are {min(off):.1f} % to {max(off):.1f} % off"

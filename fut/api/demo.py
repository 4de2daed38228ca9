"""The main job on real text, end to end: train, cache, estimate, verify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fut.api import render
from fut.api.opening import open_run, train
from fut.api.questions import question_context
from fut.artifacts import directory as files
from fut.display import format as present
from fut.estimation import render as estimation_render
from fut.estimation.calibration import read_calibration
from fut.methods.settings import load_config
from fut.progress import Progress
from fut.questions.accuracy import render as accuracy_render
from fut.questions.accuracy.ask import VerifyRequest, kept_verification
from fut.questions.accuracy.result import Verification
from fut.resources.device import describe
from fut.training.problem import unit_of_loss

VERIFICATION_SEED = 0


def run_demo(
    out: Path, text: str | None, orders: int, device: str, progress: Progress, say: Callable[[str], None]
) -> tuple[Verification, Path]:
    """Every stage that is not done yet, then the table and the picture; says before each stage what it will cost."""
    config = load_config(None, (), data={"text": text or ""})
    if (out / files.SUMMARY).exists():
        run = open_run(out, device=device, progress=progress)
        say(f"1. the reference run is in {out} already")
    else:
        say(f"1. training the reference run into {out}: {config.warmup.steps} + {config.steps} steps")
        run = train(out, config, device=device, progress=progress)
    context = run.context
    source, device_name = context.summary["source"], describe(context.problem.device)
    say(f"   {context.parameters:,} parameters on {device_name}; text: {source}")
    say(f"   probe loss {present.loss(run.reference_loss, unit_of_loss(run.context.problem))}")
    repaired = run.methods.repair()
    say(f"2. caching: {render.plan(run.methods.plan_cache('all'), repaired)}")
    run.cache("all")  # of every method, which the picture compares
    reverse = run.estimate(["reverse"], run.methods.default, known=False)[0]
    say(f"3. the reverse order, without training it: {estimation_render.estimate(reverse)}")
    if read_calibration(run.context, run.methods.default) is None:
        say(f"4. calibrating {run.methods.default} on 8 retrained orders")
        run.calibrate()
        result = None
    else:
        result = kept_verification(VerifyRequest(orders, VERIFICATION_SEED), question_context(run.context))
    if result is None:
        say(f"5. verifying: {orders} random orders retrained, {orders * run.steps} steps, and estimated")
        result = run.verify(orders, VERIFICATION_SEED)
    else:
        say(f"5. {orders} random orders have been retrained and compared already")
    return result, accuracy_render.scatter(result, out / files.VERIFICATION / "estimated-against-retrained.png")

"""Freeze what the code computes, and show afterwards which numbers have moved.

    python tests/regression/freeze.py --out FILE.json [--only NAME …] [--demo] [--keep DIR]
    python tests/regression/freeze.py --compare OLD.json NEW.json [--rtol R] [--atol A] [--rename FILE.json]

It trains a few small runs on text that it makes itself, asks them every question, and writes one JSON file: the answers, and
digests of every stored array. It knows fut by its command line (`ENTRY`) and by `import fut` alone, so that it outlives any
moving about of modules. Digests, and last bits of numbers, compare on one machine with the same threads and versions only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script it is no part of a package
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from regression.cases import ASKED, CASES, FREE, IN_PLACE, ORDERS, READOUTS, SCORES, SMALL, Case, write_inputs
from regression.comparing import compare
from regression.digests import cleaned, digest, plain, stored

ROOT = Path(__file__).resolve().parents[2]
"""The checkout whose `fut` is frozen when this runs as a script: what stands on sys.path for `import fut`."""
ENTRY = "from fut.cli.app import main; main()"
"""What `fut` on the command line runs. The one place to change where the module moves."""
CPU = ("--device", "cpu")
# --- asking


def said(*words: object) -> dict[str, Any]:
    """What a command answers with `--json`, run in this process as its entry point runs it."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    argv, path = sys.argv, list(sys.path)
    sys.argv = ["fut", *map(str, words), "--json"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            exec(ENTRY, {})
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        sys.argv, sys.path[:] = argv, path
    return {"status": status, "answer": parsed(out.getvalue())} | ({"error": err.getvalue().strip()} if status else {})


def parsed(text: str) -> Any:
    """One JSON value, or the list of those on lines."""
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def spawned(*words: object) -> dict[str, Any]:
    """The same by a process of its own: whether the entry point works outside of this one."""
    import fut

    here = os.environ | {"PYTHONPATH": str(Path(str(fut.__file__)).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ENTRY, *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
    found = {"status": done.returncode, "answer": parsed(done.stdout)}
    return found | ({"error": done.stderr} if done.returncode else {})


def tried(ask: Callable[[], Any]) -> Any:
    """A value ready for JSON, or the refusal: what is refused, and in which words, is frozen too."""
    import fut

    try:
        return plain(ask())
    except fut.EXPECTED as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def prepare(run: str, case: Case) -> Iterator[tuple[str, Any]]:
    """Train and cache, with what is said on the way."""
    settings = SMALL | case.settings
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    yield "train", said("train", "--text", "text", "--out", run, *given, *CPU)
    yield "plan before", said("plan", run, *CPU)
    yield "cache", said("cache", run, "--terms", "all", "--readouts", READOUTS, *CPU)
    yield "cache lowrank", said("cache", run, "--terms", "lowrank", *CPU)
    yield "cache reweighting", said("cache", run, "--terms", "reweighting", *CPU)
    yield "plan", said("plan", run, *CPU)
    yield "info", said("info", run)
    yield "show-batch", said("show-batch", run, 1, "--order", "reverse")


def basic(run: str) -> Iterator[tuple[str, Any]]:
    """Commands that every run is asked."""
    for name in ("adjoint", "reweighting", "retrain"):
        yield f"estimate {name}", said("estimate", run, "--order", "without:3", "--estimator", name, "--no-known", *CPU)
    yield "calibrate", said("calibrate", run, "--orders", 4, *CPU)
    yield "calibrate swap", said("calibrate", run, "--edit", "swap", "--orders", 3, *CPU)
    yield "estimate calibrated", said("estimate", run, "--order", "random:11", *CPU)
    yield "endpoint", said("endpoint", run, "--order", "reverse", "--out", f"{run}/lowrank.safetensors", *CPU)
    yield "whatif", said("whatif", run, "--swap", "0,3", "--readout", "probe", "--readout", "item:1", "--verify", *CPU)
    yield "verify", said("verify", run, "--orders", 3, "--estimators", "reference,adjoint,positions,lowrank,fut", *CPU)


def commands(run: str) -> Iterator[tuple[str, Any]]:
    """Commands that the main run alone is asked, beside the basic ones."""
    for name in ("replay-exact", "replay", "taylor1"):
        out = f"{run}/{name}.safetensors"
        yield f"endpoint {name}", said("endpoint", run, "--order", "swap:1,3", "--estimator", name, "--out", out, *CPU)
    yield "calibrate item", said("calibrate", run, "--orders", 4, "--readout", "item:1", "--estimator", "adjoint", *CPU)
    edits = ("--move", "0,5", "--without", "2", "--sort", "loss:desc", "--replace", "1,4", "--repeat", "3,6")
    yield "whatif edits", said("whatif", run, *edits, "--estimator", "replay", *CPU)
    yield "whatif drop", said("whatif", run, "--drop", 2, *CPU)
    yield "whatif queries", said("whatif", run, "--queries", "queries.jsonl", "--readout", "probe", *CPU)
    yield "verify item", said("verify", run, "--orders", 3, "--seed", 1, "--readout", "item:1", *CPU)
    yield "estimate list", said("estimate", run, "--order", "7,6,5,4,3,2,1,0", "--readout", "freeze_hook:norm", *CPU)
    yield "estimate partial", said("estimate", run, "--order", "1,2", "--partial", "--estimator", "replay", *CPU)
    few = ("--evaluations", 60, "--verify", 1, "--finalists", 2, "--heuristics", "sort:loss", *CPU)
    yield "search", said("search", run, *few, "--also", "item:1")
    within = ("--prefix", "1", "--block", "2,3", "--before", "5,4", "--verify", 0, "--evaluations", 40, *CPU)
    yield "search constrained", said("search", run, *within, "--method", "genetic", "--seed", 3)
    yield "search assignment", said("search", run, "--method", "assignment", "--verify", 0, "--maximize", *CPU)
    yield "lds", said("lds", run, "--subsets", 3, "--share", 0.25, *CPU)
    maps = ("--items", "0,5", "--groups", 2, "--calibrate", 3, "--verify", 3)
    yield "memorize", said("memorize", run, *maps, *CPU)
    placed = ("--places", 3, "--calibrate", 3, "--verify", 3)
    yield "domains", said("domains", run, "--labels", "loss:3", "--items", 4, *placed, *CPU)
    yield "domains labels", said("domains", run, "--labels", "labels.json", "--orders", "b,a", "--places", 2, *CPU)
    yield "estimate refused", said("estimate", run, "--order", "sort:beauty", *CPU)
    yield "report", {"status": said("report", run, "--samples", 20, *CPU)["status"]}
    yield "spawned info", spawned("info", run)


def answers(run: Any) -> Iterator[tuple[str, Any]]:
    """What an opened run says of itself and of orders, in Python; before anything has been retrained."""
    from fut.methods.pairwise.store import pairwise_config

    context = run.context
    for name in ("steps", "items", "reference_loss", "parameters", "summary", "reference", "config"):
        yield name, tried(partial(getattr, context, name))
    yield "default_estimator", tried(lambda: run.methods.default)
    yield "cache_config", tried(lambda: pairwise_config(context))
    yield "orders", {spec: tried(partial(run.order, spec)) for spec in ORDERS}
    yield "digests", {spec: tried(partial(order_digest, run, spec)) for spec in ORDERS}
    yield "states", [digest(context.state(step).theta.cpu().numpy()) for step in range(run.steps + 1)]
    yield "difficulty", {key: tried(partial(run.orders.difficulty, key)) for key in SCORES}
    yield "named_orders", tried(run.orders.named)
    for readout in ("probe", "item:1", "accuracy", "probe:1of2", "freeze_hook:norm"):
        yield f"positions {readout}", tried(partial(run.orders.positions, readout))
        yield f"best_order {readout}", tried(partial(run.orders.best, readout))
        yield f"estimate {readout}", tried(partial(run.estimate, ["reverse"], readout=readout))
    yield "attributions", tried(run.methods.attributions)
    yield "arranged", tried(lambda: run.orders.arranged([(5 * i) % 7 for i in range(run.items)], "folding", 2, True))
    yield "check", tried(run.check)
    yield "plan_cache", tried(lambda: vars(run.methods.plan_cache("all")))


def order_digest(run: Any, spec: str) -> str:
    return run.order(spec).digest


def estimates(run: Any, specs: Sequence[str]) -> dict[str, Any]:
    """Every estimator's figures, for every order alone and for those that it answers together."""

    def losses(name: str, orders: Sequence[str]) -> Any:
        return tried(lambda: [found.value for found in run.estimate(orders, name, known=False, calibrated=False)])

    def asked(name: str) -> dict[str, Any]:
        return {spec: losses(name, [spec]) for spec in specs} | {"together": losses(name, specs[:4])}

    free = {name: asked(name) for name in FREE}
    return free | {"reweighting": {spec: losses("reweighting", [spec]) for spec in (*IN_PLACE, "reverse")}}


def after(run: Any) -> Iterator[tuple[str, Any]]:
    """What the same methods say once orders have been retrained and estimators calibrated."""
    from fut.questions.whatif.stream import Queries

    yield "estimate", tried(lambda: run.estimate(["identity", "reverse", "random:3", "swap:0,2", "random:7"]))
    yield "retrain", tried(lambda: run.retrain("reverse").loss)
    yield "retrain theta", tried(lambda: digest(run.retrain("reverse").theta.cpu().numpy()))
    yield "endpoint", tried(lambda: run.endpoint("random:7", "lowrank"))
    yield "whatif", tried(lambda: run.whatif("reverse", ["swap:0,1", ("without", 2)], ["probe", "item:1"]))
    yield "whatifs", tried(lambda: list(run.ask(Queries(queries=["random:7", {"id": 1, "edits": [["swap", 1, 2]]}]))))


def library() -> Iterator[tuple[str, Any]]:
    """What `fut` gives without a run."""
    import torch

    import fut

    yield "names", sorted(fut.__all__)
    yield "expected", sorted(error.__name__ for error in fut.EXPECTED)
    yield "default config", tried(fut.load_config)
    yield "steps config", tried(lambda: fut.load_config(None, ["data.per_step=4"], 6).toml())
    module, tokens = fut.Transformer(128, 12, 8, 1, 2), torch.arange(26).reshape(2, 13)
    with torch.no_grad():
        for place, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.linspace(-0.5, 0.7, parameter.numel()).reshape(parameter.shape) * (1 + place) / 9)
        yield "transformer loss", tried(lambda: float(fut.next_token_loss(module, tokens)))
    settings = [f"{key}={json.dumps(value)}" for key, value in SMALL.items()]
    yield "plan", tried(lambda: fut.plan(fut.load_config(None, settings, data={"text": "text"}), device="cpu"))
    order = fut.Order.of([0, 1, [2, 3], {"items": [4, 5], "weights": [1, 0.5]}])
    changed = [order, order.swap(0, 2), order.move(0, 3), order.without([4]), order.replace(1, 5), order.drop(0)]
    yield "order", [{"order": plain(o), "digest": o.digest} for o in changed]


# --- user's own module and data


def own(out: str) -> Iterator[tuple[str, Any]]:
    """A run of a module, a loss, data and a read-out that are given as objects."""
    import torch

    import fut

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(11, 6, 4, generator=draw, dtype=torch.float64)
    items = tuple((row, (row.sum(-1) > 0).long()) for row in x)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()

    def loss(made: Any, inputs: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(made(inputs), labels)

    settings: dict[str, Any] = {
        "data": {"items": 8},
        "warmup": {"steps": 0},
        "rule": {"name": "sgd"},
        "schedule": {"rate": 0.3},
    }
    settings |= {"model": {"dtype": "float64"}, "adjoint": {"readouts": ["probe", "first"]}}
    given: dict[str, Any] = {
        "module": module,
        "loss": loss,
        "readouts": {"first": lambda made: made[0].weight.pow(2).sum()},
    }
    data = fut.Dataset(items[:8], items[8:])
    run = fut.train(out, fut.load_config(None, (), **settings), data=data, device="cpu", **given)
    run.cache(["adjoint"])
    again = fut.open(out, device="cpu", **given)
    for readout in ("probe", "first"):
        yield (
            f"estimate {readout}",
            tried(partial(again.estimate, ["reverse", "random:7"], known=False, readout=readout)),
        )
    yield "verify", tried(lambda: again.verify(3, estimators=["reference", "adjoint", "positions"]))
    yield "info", tried(again.info)


# --- the whole


def freeze_case(name: str, case: Case) -> dict[str, Any]:
    """One run's answers and stores; in the working directory, where `write_inputs` has been."""
    import fut

    frozen: dict[str, Any] = {"prepare": dict(prepare(name, case))}
    run = fut.open(name, device="cpu")
    frozen["python"] = dict(answers(run))
    frozen["estimates"] = estimates(run, ORDERS[:ASKED])
    frozen["basic"] = dict(basic(name))
    if case.whole:
        frozen["commands"] = dict(commands(name))
    frozen["after"] = dict(after(fut.open(name, device="cpu")))
    frozen["check"] = said("check", name)
    frozen["manifest"] = json.loads(Path(name, "manifest.json").read_text(encoding="utf-8"))["identity"]
    frozen["stores"] = stored(Path(name))
    return cleaned(frozen)


def freeze(where: Path, names: Sequence[str], note: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """The named runs (`library` and `own` are such names too), made in a directory."""
    frozen: dict[str, Any] = {}
    sys.path.insert(0, str(where))
    with contextlib.chdir(where):
        write_inputs(where)
        for name in names:
            if name == "library":
                frozen[name] = cleaned(dict(library()))
            elif name == "own":
                frozen[name] = cleaned(dict(own("own")) | {"stores": stored(Path("own"))})
            elif name == "demo":
                frozen[name] = cleaned(said("demo", "--out", "demo", *CPU) | {"stores": stored(Path("demo"))})
            else:
                frozen[name] = freeze_case(name, CASES[name])
            note(name)
    sys.path.remove(str(where))
    return frozen


NAMES = ("library", "own", *CASES)


# --- the script


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--only", action="append", choices=NAMES, help="a run, may be repeated; default: all")
    parser.add_argument("--demo", action="store_true", help="freeze `fut demo` instead, which takes minutes")
    parser.add_argument("--keep", type=Path, help="work in this directory and keep it; default: a temporary one")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="say what differs; status 1 if any"
    )
    parser.add_argument("--rtol", type=float, default=0.0, help="relative tolerance; 0: bitwise")
    parser.add_argument("--atol", type=float, default=0.0, help="absolute tolerance")
    parser.add_argument("--rename", type=Path, help="JSON object: regular expression on old paths -> replacement")
    return parser


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> int:
    """The script; its exit status."""
    given, parser = arguments().parse_args(), arguments()
    if given.compare:
        renamed = read(given.rename) if given.rename else None
        old, new = map(read, given.compare)
        found = compare(old, new, given.rtol, given.atol, renamed)
        print("\n".join(found.lines()))
        return int(bool(found))
    if given.out is None:
        parser.error("expected --out FILE.json or --compare OLD.json NEW.json")
    out = given.out.resolve()
    import_here()
    names = ("demo",) if given.demo else given.only or NAMES
    with contextlib.ExitStack() as opened:
        where = given.keep or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        where.mkdir(parents=True, exist_ok=True)
        frozen = freeze(where.resolve(), names, Timer())
    out.write_text(json.dumps(frozen, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    return 0


class Timer:
    """Says how long a part took, on standard error."""

    def __init__(self) -> None:
        import time

        self._clock = time.perf_counter
        self._began = self._clock()

    def __call__(self, name: str) -> None:
        now = self._clock()
        print(f"{name}: {now - self._began:.1f} s", file=sys.stderr, flush=True)
        self._began = now


def import_here() -> None:
    """Import the `fut` of this checkout, on one thread; SystemExit where another one comes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(ROOT))
    import torch

    import fut

    torch.set_num_threads(1)
    if ROOT not in Path(str(fut.__file__)).resolve().parents:
        raise SystemExit(f"freeze: expected fut below {ROOT}, got {fut.__file__}; correct PYTHONPATH")


if __name__ == "__main__":
    sys.exit(main())

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
import hashlib
import io
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The checkout whose `fut` is frozen when this runs as a script: what stands on sys.path for `import fut`."""
ENTRY = "from fut.cli.app import main; main()"
"""What `fut` on the command line runs. The one place to change where the module moves."""
CPU = ("--device", "cpu")
DIGITS = 20
"""Hexadecimal digits of a digest that are kept."""

VOLATILE = {
    # wall clock
    "seconds": "wall clock, of retraining, searching, or as a plan foresees it",
    "retrain_seconds": "wall clock of a retraining",
    "retraining_seconds": "wall clock of all retraining",
    "precompute_seconds": "training runs times the wall clock of one",
    "seconds_per_order": "wall clock of an estimate",
    "store_bytes": "size of files some of which hold such times, a digit more or less",
    # the machine
    "environment": "versions, machine and threads",
    "available_memory": "memory that is free at the moment",
    "device": "name of the device and its threads",
}
"""Names of fields that are left out wherever they stand, and why."""


# --- what is asked of: small runs


@dataclass(frozen=True)
class Case:
    """A small run: settings over `SMALL`, and whether it is asked everything."""

    settings: dict[str, Any] = field(default_factory=dict)
    whole: bool = False


SMALL: dict[str, Any] = {
    "data.vocabulary": 128,
    "data.items": 8,
    "data.batch": 2,
    "data.context": 12,
    "data.probe": 8,
    "model.width": 8,
    "model.layers": 1,
    "model.heads": 2,
    "warmup.steps": 4,
    "warmup.ramp": 2,
    "cache.size": 96,
    "cache.item_block": 3,
    "lowrank.rank": 4,
    "lowrank.refresh": 3,
}
FOUR = {"data.items": 24, "data.per_step": 4, "data.batch": 1}
FEW = {"adjoint.coordinates": 600, "reweighting.coordinates": 600}
CASES = {
    "main": Case(
        {"model.dtype": "float64"}, whole=True
    ),  # so that another CPU's last bits do not reach the digits compared
    "single": Case({"adjoint.products": "exact", "cache.products": "exact", "reweighting.products": "exact"}),
    "few": Case(FEW | {"adjoint.control": "always", "cache.sketch": "gaussian"}),
    "few-plain": Case(FEW | {"adjoint.control": "never", "data.heterogeneous": True, "cache.coordinates": 500}),
    "four": Case(FOUR | {"lowrank.dtype": "bfloat16", "cache.derivative": "secant", "adjoint.curvature": "items"}),
    "four-few": Case(
        FOUR | FEW | {"data.heterogeneous": True, "adjoint.num_anchors": 0, "adjoint.draw": "independent"}
    ),
    "mixture": Case(
        {
            "data.items": 4,
            "data.epochs": 2,
            "data.heterogeneous": True,
            "rule.name": "momentum",
            "schedule.kind": "linear",
            "schedule.rate": 0.05,
            "adjoint.trajectory": "mixture",
            "adjoint.rank": 3,
            "adjoint.curvatures": 2,
            "adjoint.spacing": "steps",
            "cache.sketch": "rademacher",
        }
    ),
}
"""Runs by name: mixed and heterogeneous items, one and four in a step, all coordinates and few, with and without control."""

READOUTS = "probe,item:1,accuracy,groups:2,freeze_hook:norm"
HOOK = '''"""A read-out of the user's own."""


def norm(module):
    return sum((p**2).sum() for p in module.parameters()).sqrt()
'''
ORDERS = (
    *("reverse", "random:7", "random-steps:3", "swap:1,3", "repeat:1,2", "drop:2", "without:2,3", "folding:loss:2"),
    *("identity", "move:0,2", "replace:2,0", "sort:gradient-norm:desc", "zigzag:loss:2", "segment:loss:2"),
    *("stair:loss:2", "saw:perplexity-drop:2", "sort:length"),
)
ASKED = 8
"""How many of these orders every estimator is asked about."""
FREE = (
    *(
        "reference",
        "taylor1",
        "taylor2",
        "taylor1:moments=replayed",
        "replay",
        "replay-exact",
        "adjoint",
        "positions",
        "lowrank",
    ),
    *("lowrank:refresh=0", "adjoint:sample=first", "adjoint:reading=linear", "retrain"),
)
"""Estimators of orders that move items, with some of their options."""
IN_PLACE = ("without:3", "without:2,3", "without:0")
SCORES = ("length", "loss", "gradient-norm", "perplexity-drop")
QUERIES = (
    "random:7",
    '{"id": "a", "edits": [["swap", 0, 3]], "readouts": ["probe", "accuracy", "item:1"]}',
    '{"id": 2, "order": "reverse", "edits": [["sort", "loss"], ["without", 1]]}',
    '{"id": "wrong", "order": "random:x"}',
)


def write_inputs(where: Path) -> None:
    """The same text every time, in three files of different words, so that zones of it differ; and a read-out's module."""
    draw = random.Random(20)
    (where / "text").mkdir(exist_ok=True)
    for topic in range(3):
        words = [
            "".join(draw.choices("abcdefghijklmnopqrstuvwxyz"[5 * topic : 5 * topic + 12], k=4)) for _ in range(20)
        ]
        lines = [" ".join(draw.choices(words, k=8)).capitalize() + ".\n" for _ in range(100)]
        (where / "text" / f"topic-{topic}.txt").write_text("".join(lines), encoding="utf-8")
    (where / "freeze_hook.py").write_text(HOOK, encoding="utf-8")
    (where / "labels.json").write_text(json.dumps({"a": [0, 3, 5], "b": [1, 2, 4, 6, 7]}), encoding="utf-8")
    (where / "queries.jsonl").write_text("\n".join(QUERIES) + "\n", encoding="utf-8")


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


def plain(value: Any) -> Any:
    """A value as JSON holds it: orders and arrays as lists, answers as they describe themselves, NaN as a string."""
    for name in ("as_dict", "tolist", "model_dump"):
        if hasattr(value, name):
            return plain(getattr(value, name)())
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


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


# --- digests of what is stored


def digest(array: Any) -> str:
    """SHA-256 of dtype, shape and bytes."""
    import numpy as np

    whole = np.ascontiguousarray(array)
    head = f"{whole.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + whole.tobytes()).hexdigest()[:DIGITS]


def stored(where: Path) -> dict[str, Any]:
    """Every file below a directory: arrays of HDF5, Zarr and safetensors by digest; JSON and TOML by content."""
    found: dict[str, Any] = {}
    for file in sorted(p for p in where.rglob("*") if p.is_file()):
        name = str(file.relative_to(where))
        if file.suffix == ".h5":
            found |= {f"{name}:{inner}": value for inner, value in hdf5(file)}
        elif file.suffix == ".safetensors":
            found |= {f"{name}:{inner}": digest(array) for inner, array in safetensors(file)}
        elif file.name == "zarr.json":
            found |= zarr_array(file.parent, str(file.parent.relative_to(where)))
        elif file.suffix in (".json", ".toml") and "ledger" not in file.parts:
            found[name] = small(file)
    return found


def hdf5(file: Path) -> Iterator[tuple[str, Any]]:
    """Arrays of a file by digest; its attributes as they are, or by digest where they are long."""
    import h5py

    with h5py.File(file) as opened:
        names: list[str] = []
        opened.visit(names.append)
        for name in ("/", *sorted(names)):
            if isinstance(opened[name], h5py.Dataset):
                yield name, content(opened[name][()])
            for key, value in sorted(opened[name].attrs.items()):
                if key not in VOLATILE:
                    yield f"{name}@{key}", plain(value) if len(str(value)) < 40 else sha(str(value))


def content(array: Any) -> str:
    """The digest of an array; of JSON that is kept as bytes, without what is volatile in it."""
    if array.dtype.str == "|u1" and array.tobytes()[:1] == b"{":
        return sha(json.dumps(cleaned(json.loads(array.tobytes())), sort_keys=True))
    return digest(array)


def safetensors(file: Path) -> Iterator[tuple[str, Any]]:
    from safetensors.numpy import load_file

    yield from sorted(load_file(file).items())


def zarr_array(where: Path, name: str) -> dict[str, str]:
    """The digest of one Zarr array; of a group there is none."""
    import zarr

    if json.loads((where / "zarr.json").read_text())["node_type"] != "array":
        return {}
    return {name: digest(zarr.open_array(where, mode="r")[...])}


def small(file: Path) -> str:
    """A digest of a small file's content, of JSON without what is volatile and the digest over that."""
    if file.suffix != ".json":
        return sha(file.read_text(encoding="utf-8"))
    content = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(content, dict) and "environment" in content:
        content.pop("digest", None)
    return sha(json.dumps(cleaned(content), sort_keys=True))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def cleaned(value: Any) -> Any:
    """The value without volatile fields."""
    if isinstance(value, dict):
        return {key: cleaned(inner) for key, inner in value.items() if key not in VOLATILE}
    return [cleaned(inner) for inner in value] if isinstance(value, list) else value


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


# --- comparing


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf by its path; empty lists and objects are leaves."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    pairs = list(inner)
    if not pairs:
        yield path, value
    for key, part in pairs:
        yield from flat(part, f"{path}/{key}" if path else str(key))


@dataclass(frozen=True)
class Difference:
    """What two frozen files differ in, by path."""

    added: dict[str, Any]
    removed: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def lines(self) -> Iterator[str]:
        """A line per difference, removed and added keys before changed values."""
        for title, part in (("removed", self.removed), ("added", self.added)):
            yield f"{title}: {len(part)}"
            yield from (f"  {path} = {value!r}" for path, value in part.items())
        yield f"changed: {len(self.changed)}"
        for path, (old, new) in self.changed.items():
            relative = f" (relative {apart(old, new):.3g})" if number(old) and number(new) else ""
            yield f"  {path}: {old!r} -> {new!r}{relative}"


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def apart(old: float, new: float) -> float:
    """Relative difference, of the greater one."""
    greater = max(abs(old), abs(new))
    return abs(old - new) / greater if greater else 0.0


def same(old: Any, new: Any, rtol: float, atol: float) -> bool:
    if number(old) and number(new):
        return old == new or abs(old - new) <= max(rtol * max(abs(old), abs(new)), atol)
    return type(old) is type(new) and old == new


def new_path(path: str, rename: dict[str, str]) -> str:
    """An old path as it is named now."""
    for pattern, replacement in rename.items():
        path = re.sub(pattern, replacement, path)
    return path


def compare(
    old: Any, new: Any, rtol: float = 0.0, atol: float = 0.0, rename: dict[str, str] | None = None
) -> Difference:
    """Differences of two frozen values. rename: regular expressions in old paths, and what stands there in the new ones."""
    before: dict[str, Any] = {}
    now = dict(flat(new))
    for old_path, value in flat(old):
        path = new_path(old_path, rename or {})
        if path in before:
            raise ValueError(f"rename: two old paths become `{path}`; make the pattern narrower")
        before[path] = value
    changed = {p: (v, now[p]) for p, v in before.items() if p in now and not same(v, now[p], rtol, atol)}
    added = {path: value for path, value in now.items() if path not in before}
    return Difference(added, {path: value for path, value in before.items() if path not in now}, changed)


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

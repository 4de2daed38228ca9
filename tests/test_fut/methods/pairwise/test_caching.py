"""The cacher: every term against a slow definition, and a store that is resumed, refused and repaired."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import ASKED, Cli, MakeRun, contents, flip, small_config, term_contents
from torch import Tensor

import fut
from fut.data.dataset import Dataset
from fut.data.text import build_dataset
from fut.methods.build import requested_terms
from fut.methods.pairwise.pipeline import PAIRWISE_TERMS
from fut.methods.pairwise.store import pairwise_config, term_layout
from fut.models.transformer import Transformer, next_token_loss
from storage import DamagedError, DiskFullError, IdentityError

CONSTANTS: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-3}
EXACT = {
    "model": {"dtype": "float64"},
    "rule": {"name": "adamw", "options": {"betas": [0.9, 0.95], "eps": 1e-3}},
    "cache": {"sketch": "identity", "products": "exact"},
    "schedule": {"kind": "constant", "rate": 1e-3},
}
CPU = ("--device", "cpu")
PAIRS = [(0, 0), (2, 3), (4, 4)]


@pytest.fixture(scope="module")
def exact_run(make_run: MakeRun) -> fut.Run:
    return make_run(**EXACT)


def slow_gradient(run: fut.Run, theta: Tensor, item: int) -> Tensor:
    """Plain backward on a module of its own."""
    c = run.context.config
    module = Transformer(c.data.vocabulary, c.data.context, c.model.width, c.model.layers, c.model.heads).double()
    torch.nn.utils.vector_to_parameters(theta.clone(), module.parameters())
    next_token_loss(module, run.context.problem.data.items[item][0]).backward()
    return torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])


def slow_update(run: fut.Run, step: int, theta: Tensor, item: int) -> Tensor:
    """AdamW's displacement at theta, with the moments of checkpoint `step`, written out."""
    memory, count = run.context.state(step).memory, run.context.config.warmup.steps + step + 1
    (b1, b2), eps, g = CONSTANTS["betas"], CONSTANTS["eps"], slow_gradient(run, theta, item)
    m, v = b1 * memory["m"] + (1 - b1) * g, b2 * memory["v"] + (1 - b2) * g**2
    return -1e-3 * (m / (1 - b1**count)) / ((v / (1 - b2**count)).sqrt() + eps)


def stored(run: fut.Run, name: str, step: int, item: int) -> Tensor:
    return torch.from_numpy(PAIRWISE_TERMS.open(run.context).open_terms().read(name, step)[item])


def close(found: Tensor, expected: Tensor, relative: float) -> bool:
    return bool((found - expected).norm() <= relative * expected.norm()) and bool(expected.norm() > 0)


@pytest.mark.parametrize(("step", "item"), PAIRS)
def test_gradient_norm_and_update_equal_their_slow_definitions(exact_run: fut.Run, step: int, item: int) -> None:
    theta = exact_run.context.state(step).theta
    gradient = slow_gradient(exact_run, theta, item)
    assert close(stored(exact_run, "gradient", step, item), gradient, 1e-10)
    assert close(stored(exact_run, "norm", step, item), gradient.norm()[None], 1e-10)
    assert close(stored(exact_run, "update", step, item), slow_update(exact_run, step, theta, item), 1e-9)


@pytest.mark.parametrize(("step", "item"), PAIRS)
def test_products_equal_finite_differences_of_the_update(exact_run: fut.Run, step: int, item: int) -> None:
    """jvp and second concern the update of the reference step, along what the item's own update is."""
    theta, reference = exact_run.context.state(step).theta, exact_run.reference.steps[step][0]
    u = slow_update(exact_run, step, theta, item)
    h = 1e-3
    up, down = (slow_update(exact_run, step, theta + s * h * u, reference) for s in (1, -1))
    assert close(stored(exact_run, "jvp", step, item), (up - down) / (2 * h), 1e-4)
    there, here, back = (slow_update(exact_run, step, theta + s * u, reference) for s in (1, 0, -1))
    assert close(stored(exact_run, "second", step, item), there - 2 * here + back, 1e-6)


def test_products_by_difference_agree_with_exact_ones(exact_run: fut.Run, make_run: MakeRun) -> None:
    by_difference = make_run(**(EXACT | {"cache": {"sketch": "identity", "products": "difference"}}))
    for step, item in PAIRS:
        found, exact = (stored(r, "jvp", step, item) for r in (by_difference, exact_run))
        assert close(found, exact, 1e-3)
        assert not torch.equal(found, exact), "equal to the bit: one of them is not what it says"


def test_sketched_terms_are_the_sketches_of_the_whole_ones(make_run: MakeRun, exact_run: fut.Run) -> None:
    sketched = make_run(**(EXACT | {"cache": {"sketch": "rademacher", "products": "exact", "coordinates": 50}}))
    sample = term_layout(sketched.context).sample.indices
    for name in ("update", "jvp", "second"):
        whole = torch.from_numpy(PAIRWISE_TERMS.open(exact_run.context).open_terms().read(name, 2))
        found = torch.from_numpy(PAIRWISE_TERMS.open(sketched.context).open_terms().read(name, 2))
        assert close(found, term_layout(sketched.context).sketch.project(whole), 1e-9), name
    whole = torch.from_numpy(PAIRWISE_TERMS.open(exact_run.context).open_terms().read("gradient", 2))
    assert torch.equal(
        torch.from_numpy(PAIRWISE_TERMS.open(sketched.context).open_terms().read("gradient", 2)), whole[:, sample]
    )


def test_equal_items_have_bitwise_equal_terms_in_whatever_block(tmp_path: Path) -> None:
    data = build_dataset(small_config())
    twins = Dataset((*data.items[:4], data.items[0]), data.probe, data.warmup)  # blocks of two: 0 1 | 2 3 | 4
    run = fut.train(tmp_path / "run", small_config(), data=twins, device="cpu")
    run.cache("all")
    for spec in PAIRWISE_TERMS.open(run.context).open_terms().specs:
        for step in range(run.steps):
            table = PAIRWISE_TERMS.open(run.context).open_terms().read(spec.name, step)
            assert table[0].tobytes() == table[4].tobytes(), (spec.name, step)
            assert table[0].tobytes() != table[1].tobytes(), (spec.name, step)


# resuming


def chunk(run: Path, name: str, step: int, block: int) -> Path:
    return run / f"terms/arrays/{name}/c/{step}/{block}/0"


def test_a_resumed_cache_leaves_complete_blocks_alone(own_run: Path, small_run: fut.Run) -> None:
    store = PAIRWISE_TERMS.open(fut.open(own_run).context).open_terms()
    gone = [b for b in store.blocks("update") if b.step >= 3]
    for block in gone:
        store.discard(block)
    kept = [p for p in (own_run / "terms").rglob("*") if p.is_file()]
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in kept}
    fut.open(own_run, device="cpu").cache("all")
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in kept} == before
    assert contents(own_run) == contents(small_run.path)


@pytest.mark.parametrize("left", ["nothing", "manifest part", "manifest only", "half the metadata"])
def test_a_cache_killed_while_its_store_was_laid_down_is_resumed(
    own_run: Path, small_run: fut.Run, cli: Cli, left: str
) -> None:
    terms = own_run / "terms"
    manifest = (terms / "manifest.json").read_bytes()
    metadata = (terms / "arrays/jvp/zarr.json").read_bytes()
    shutil.rmtree(terms)
    terms.mkdir()
    if left == "manifest part":
        (terms / "manifest.json.1-abc-0.part").write_bytes(manifest[:30])
    elif left != "nothing":
        (terms / "manifest.json").write_bytes(manifest)
    if left == "half the metadata":
        (terms / "arrays/jvp").mkdir(parents=True)
        (terms / "arrays/jvp/zarr.json").write_bytes(metadata)
    said = cli("cache", own_run, "--terms", "all", "--device", "cpu", "--json")
    assert said.status == 0, said.err
    assert contents(own_run) == contents(small_run.path)


@pytest.mark.parametrize("left", ["no manifest", "no metadata of a term"])
def test_an_expansion_killed_while_its_store_was_laid_down_is_finished_by_python(
    make_run: MakeRun, tmp_path: Path, left: str
) -> None:
    whole = make_run().path
    path = Path(shutil.copytree(whole, tmp_path / "run", ignore=ASKED))
    terms = path / "adjoint" / "terms"
    shutil.rmtree(terms / "ledger")
    if left == "no manifest":
        (terms / "manifest.json").unlink()
        shutil.rmtree(terms / "arrays")
    else:
        shutil.rmtree(terms / "arrays" / "centre")
    run = fut.open(path, device="cpu")
    with pytest.raises(fut.NotCachedError, match="repeat `fut cache RUN --terms adjoint`"):
        run.estimate(["reverse"], "adjoint", known=False)
    run.cache(["adjoint"])
    assert contents(path) == contents(whole)
    assert [run.estimate([o], "adjoint", known=False)[0].value for o in ("reverse", "random:3")] == [
        fut.open(whole, device="cpu").estimate([o], "adjoint", known=False)[0].value for o in ("reverse", "random:3")
    ]


def test_what_a_kill_left_half_written_is_removed_by_python_too(own_run: Path, small_run: fut.Run) -> None:
    (own_run / "terms" / "manifest.json.1-abc-0.part").write_text("{")
    fut.open(own_run, device="cpu").cache(["gradient"])
    assert sorted(p.name for p in (own_run / "terms").iterdir()) == sorted(
        p.name for p in (small_run.path / "terms").iterdir()
    )


def test_a_partly_cached_run_says_what_to_run(own_run: Path) -> None:
    store = PAIRWISE_TERMS.open(fut.open(own_run).context).open_terms()
    store.discard(store.blocks("jvp")[-1], ["jvp"])
    run = fut.open(own_run, device="cpu")
    with pytest.raises(fut.NotCachedError, match=r"unfinished: jvp\); run `fut cache RUN --terms jvp`"):
        run.estimate(["reverse"], "taylor1", known=False)
    assert run.estimate(["reverse"], "replay", known=False)[0].value > 0, "replay needs none of what is missing"


def test_an_uncached_run_says_what_to_run(make_run: MakeRun) -> None:
    with pytest.raises(fut.NotCachedError, match="run `fut cache RUN --terms gradient,norm`"):
        make_run(cached=False).estimate(["reverse"], "replay", known=False)


def test_another_cache_configuration_names_the_field_and_both_values(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    with pytest.raises(IdentityError) as caught:
        run.cache(config=pairwise_config(run.context).model_copy(update={"size": 77}))
    for part in ("cache.size", "77", "96", "remove"):
        assert part in str(caught.value), part


def test_unknown_terms_are_refused_with_the_known_ones(own_run: Path) -> None:
    with pytest.raises(
        fut.UsageError,
        match="expected some of all, gradient, norm, update, jvp, second, adjoint, lowrank, reweighting, got hessian",
    ):
        fut.open(own_run, device="cpu").cache(["hessian"])


def test_a_full_disk_is_refused_before_anything_is_computed(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(own_run / "terms")
    run = fut.open(own_run, device="cpu")
    needed = term_layout(run.context).nbytes(term_layout(run.context).names)
    monkeypatch.setattr("storage.atomic._free_bytes", lambda directory: 50_000)
    with pytest.raises(DiskFullError, match=rf"expected {needed} bytes free.*has 50000 bytes free"):
        run.cache("all")
    with pytest.raises(DiskFullError, match=r"bytes free for the checkpoints.*has 50000 bytes free"):
        fut.train(own_run.parent / "another", small_config(), device="cpu")
    assert not (own_run.parent / "another").exists()


# what is asked for


def made(run: fut.Run) -> set[str]:
    return {p.name for p in run.path.iterdir() if p.name in ("terms", "adjoint", "lowrank", "reweighting")}


def test_without_names_what_the_default_estimator_reads_is_computed(
    make_run: MakeRun, tmp_path: Path, cli: Cli
) -> None:
    path = Path(shutil.copytree(make_run(cached=False).path, tmp_path / "run"))
    said = cli("cache", path, *CPU, "--json").json
    run = fut.open(path, device="cpu")
    assert (made(run), said["plan"]["terms"], said["adjoint_cached"]) == ({"adjoint"}, ["adjoint"], True)
    assert said["plan"]["gradients"] == said["precompute_gradients"]["adjoint"]
    assert run.estimate(["reverse"])[0].estimator == "adjoint"
    with pytest.raises(fut.NotCachedError, match=r"run `fut cache RUN --terms update,jvp` .* first"):
        run.estimate(["reverse"], "taylor1")
    run.cache("all")
    assert made(run) == {"adjoint", "terms"}
    assert run.estimate(["reverse"], "taylor2", known=False)[0].value > 0


def test_without_names_what_was_begun_is_gone_on_with(make_run: MakeRun, tmp_path: Path) -> None:
    run = fut.open(shutil.copytree(make_run(cached=False).path, tmp_path / "run"), device="cpu")
    run.cache("gradient")
    terms = PAIRWISE_TERMS.open(run.context).open_terms()
    terms.discard(terms.blocks("gradient")[0], ["gradient"])
    run.cache()
    assert (made(run), terms.missing(["gradient"])) == ({"adjoint", "terms"}, [])
    assert terms.missing(["update"]) == terms.blocks("update"), "nobody has asked for it"


def test_a_rule_without_a_derivative_gets_what_its_default_estimator_reads(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_run(cached=False).context
    assert requested_terms(context, None) == ["adjoint"]
    monkeypatch.setattr(type(context.problem.rule), "smooth", False)
    assert requested_terms(context, None) == ["gradient", "norm"], "those of replay"
    assert requested_terms(context, ["all"]) == ["gradient", "norm", "update", "jvp", "second"]


def test_settings_of_what_is_not_computed_are_refused(make_run: MakeRun, tmp_path: Path, cli: Cli) -> None:
    path = Path(shutil.copytree(make_run(cached=False).path, tmp_path / "run"))
    said = cli("cache", path, "--set", "cache.size=77", *CPU)
    assert said.status == 2
    assert "section `cache`; name its terms too: gradient" in said.err
    assert made(fut.open(path)) == set()


# damage


@pytest.mark.parametrize(
    ("name", "estimator"),
    [("gradient", "replay"), ("update", "taylor1"), ("jvp", "taylor1"), ("second", "taylor2"), ("norm", None)],
)
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_flipped_byte_in_a_chunk_is_named_never_used_and_recomputed(
    own_run: Path, small_run: fut.Run, cli: Cli, name: str, estimator: str | None, place: str
) -> None:
    file, other = chunk(own_run, name, 2, 1), chunk(own_run, name, 2, 0)
    before = other.stat()
    size = file.stat().st_size
    flip(file, {"start": 0, "middle": size // 2, "end": size - 1}[place])
    said = cli("check", own_run, "--json")
    assert said.status == 1
    assert [d["path"] for d in said.json["damaged"]] == [str(file)]
    if estimator:
        with pytest.raises(DamagedError, match=str(file)):
            fut.open(own_run, device="cpu").estimate(["reverse"], estimator, known=False)
    said = cli("cache", own_run, "--device", "cpu", "--json")
    assert (said.status, said.json["repaired"], said.json["plan"]["blocks"]) == (0, 1, 1)
    assert (other.stat().st_ino, other.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert term_contents(own_run) == term_contents(small_run.path)
    assert cli("check", own_run).status == 0


@pytest.mark.parametrize("position", [0, 40, 200])
def test_a_flipped_byte_in_an_arrays_description_is_named_and_mended(
    own_run: Path, small_run: fut.Run, cli: Cli, position: int
) -> None:
    file = own_run / "terms/arrays/update/zarr.json"
    flip(file, position)
    said = cli("check", own_run, "--json")
    assert said.status == 1
    assert str(file) in said.out
    said = cli("cache", own_run, "--device", "cpu", "--json")
    assert said.status == 0, said.err
    assert cli("check", own_run).status == 0
    assert term_contents(own_run) == term_contents(small_run.path)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_a_flipped_byte_in_a_checkpoint_is_named_and_never_used(
    own_run: Path, cli: Cli, step: int, share: float
) -> None:
    file = own_run / f"checkpoints/step-{step:06d}.h5"
    flip(file, int(share * file.stat().st_size))
    said = cli("check", own_run, "--json")
    assert said.status == 1
    assert [d["path"] for d in said.json["damaged"]] == [str(file)]
    said = cli(
        "estimate", own_run, "--order", "reverse", "--estimator", "replay-exact", "--no-known", "--device", "cpu"
    )
    assert (said.status, said.out) == (1, "")
    assert str(file) in said.err


def test_an_absent_checkpoint_is_named(own_run: Path, cli: Cli) -> None:
    (own_run / "checkpoints/step-000002.h5").unlink()
    said = cli("check", own_run, "--json")
    assert said.status == 1
    assert "step-000002.h5" in said.json["damaged"][0]["path"]

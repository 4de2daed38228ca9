"""Random histories: the store on disk behaves as its twin in memory, across reopening."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_terms import MemoryTerms

from storage import MissingError, TermSpec, TermStore

SPECS = [TermSpec("a", (2, 5, 3), "float32"), TermSpec("b", (1, 5, 2), "bfloat16"), TermSpec("c", (2, 3, 1), "float64")]
NAMES = st.sampled_from([spec.name for spec in SPECS])


def outcome(ask):
    """What `ask` returns or refuses, in a form that can be compared."""
    try:
        array = ask()
    except MissingError as error:
        return str(error)
    return array.dtype.str, array.shape, array.tobytes()


class StoreAgainstTwin(RuleBasedStateMachine):
    @initialize(item_block=st.integers(1, 6))
    def create(self, item_block):
        self.path = Path(tempfile.mkdtemp())
        self.item_block = item_block
        self.twin = MemoryTerms(SPECS, {"seed": 1}, item_block)
        self.reopen()

    @rule()
    def reopen(self):
        self.store = TermStore.create_or_open(self.path, SPECS, {"seed": 1}, self.item_block)

    @rule(data=st.data(), seed=st.integers(0, 2**16))
    def write(self, data, seed):
        block = data.draw(st.sampled_from(self.twin.blocks(data.draw(NAMES))))
        rng = np.random.default_rng(seed)
        specs = [spec for spec in SPECS if block in self.twin.blocks(spec.name) and rng.random() < 0.7]
        rows = block.last - block.first
        arrays = {spec.name: rng.normal(size=(rows, spec.shape[2])).astype(spec.read_dtype) for spec in specs}
        self.store.write(block, arrays)
        self.twin.write(block, arrays)

    @precondition(lambda self: self.twin.progress()[0] > 0)
    @rule(data=st.data(), name=NAMES)
    def discard(self, data, name):
        block = data.draw(st.sampled_from(self.twin.blocks(name)))
        names = data.draw(st.sampled_from([None, [name]]))
        self.store.discard(block, names)
        self.twin.discard(block, names)

    @rule(name=NAMES, step=st.integers(0, 1), seed=st.integers(0, 99))
    def read(self, name, step, seed):
        spec = next(spec for spec in SPECS if spec.name == name)
        step %= spec.shape[0]
        items = np.random.default_rng(seed).integers(0, spec.shape[1], seed % 4)
        assert outcome(lambda: self.store.read(name, step)) == outcome(lambda: self.twin.read(name, step))
        from_store = outcome(lambda: self.store.read_items(name, step, items))
        assert from_store == outcome(lambda: self.twin.read_items(name, step, items))

    @invariant()
    def same_ledger(self):
        assert self.store.missing() == self.twin.missing()
        assert self.store.progress() == self.twin.progress()
        for block in self.twin.missing():
            assert self.store.missing_names(block) == self.twin.missing_names(block)

    def teardown(self):
        if hasattr(self, "store"):
            damages = self.store.check()
            shutil.rmtree(self.path)
            assert damages == []


TestStoreAgainstTwin = StoreAgainstTwin.TestCase
TestStoreAgainstTwin.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)

"""Records which random keys are used, by a generator with the numbers of threefry.

    with recorded_keys.recorded() as record:
        draw(jax.random.key(0))
    record.drawn      # Counter of the keys whose bits were taken
    record.parents    # the keys that were split or folded

Within the block, `jax.random.key` makes keys of this generator. So all draws of the library are recorded, also those in
programs, scans and maps over keys. NumPy's generators draw data: `recorded_generators` records the initial state of
each.
"""

import collections
import contextlib
import math

import jax
import numpy as np
import pytest
from jax.extend import random as generators

THREEFRY = generators.threefry_prng_impl


class Record:
    """The keys that were used, as tuples of their numbers: `drawn` counts draws, `parents` were split or folded."""

    def __init__(self):
        self.drawn, self.parents = collections.Counter(), set()


_records: list[Record] = []


def _note(take):
    """A function of a key that calls `take` with the record and the key, also when a program runs."""

    def note(key):
        if _records:
            take(_records[-1], tuple(np.asarray(key).tolist()))

    return lambda key: jax.debug.callback(note, key)


_drawn = _note(lambda record, key: record.drawn.update([key]))
_parent = _note(lambda record, key: record.parents.add(key))


def _bits(key, width, shape):
    if math.prod(shape):
        _drawn(key)
    return THREEFRY.random_bits(key, width, shape)


def _split(key, shape):
    _parent(key)
    return THREEFRY.split(key, shape)


def _fold_in(key, number):
    _parent(key)
    return THREEFRY.fold_in(key, number)


RECORDED = generators.define_prng_impl(
    key_shape=THREEFRY.key_shape, seed=THREEFRY.seed, split=_split, random_bits=_bits, fold_in=_fold_in,
    name="recorded", tag="rec",
)  # fmt: skip


@contextlib.contextmanager
def recorded():
    """Records the keys of JAX that are used within the block; their numbers are those of the usual generator."""
    record = Record()
    key = jax.random.key
    _records.append(record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "key", lambda seed: key(seed, impl=RECORDED))
        try:
            yield record
            jax.effects_barrier()
        finally:
            _records.pop()


@contextlib.contextmanager
def recorded_generators():
    """Records the initial state of each generator of NumPy, as if it were the key of a draw."""
    record = Record()
    generator = np.random.default_rng

    def begun(seed):
        record.drawn.update([tuple(np.random.SeedSequence(seed).generate_state(4).tolist())])
        return generator(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", begun)
        yield record

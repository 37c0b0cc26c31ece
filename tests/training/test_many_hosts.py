"""The bookkeeping of a job of 1,024 hosts, all of it in one process: who reads, draws, keeps and writes what.

The devices are only described. What a host does is decided by pure functions of its index, which are called for every
host in turn: they must share the work without gap or overlap, in an order that the number of hosts does not change.
"""

import sys
import tracemalloc

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from diffusion.data import pipeline
from diffusion.experiments.sampling import batches_on_disk
from diffusion.training import sharding, step

SEED, RECORDS = 3, 1_281_167  # ImageNet's
HOSTS, EACH = 1024, 4  # devices of each


class Device:
    """A described device: nothing can be put on it."""

    platform = device_kind = "described"

    def __init__(self, number: int, process_index: int):
        self.id = number
        self.process_index = process_index
        self.client = self

    def __repr__(self):
        return f"device {self.id} of process {self.process_index}"


def mesh_of(hosts, each, fsdp=1):
    devices = np.array([Device(i, i // each) for i in range(hosts * each)])
    return Mesh(devices.reshape(-1, fsdp, 1, 1), sharding.AXES)


def batch_of(hosts, each):
    """Two rows a device."""
    return 2 * hosts * each


@pytest.mark.extended
@pytest.mark.parametrize("fsdp", [1, 8])
def test_hosts_share_a_batch_without_gap_or_overlap(fsdp):
    mesh = mesh_of(HOSTS, EACH, fsdp)
    size = batch_of(HOSTS, EACH)
    held = np.concatenate([sharding.positions(size, mesh, host) for host in range(HOSTS)])
    assert len(held) == size  # none twice
    np.testing.assert_array_equal(np.sort(held), np.arange(size))


@pytest.mark.extended
def test_records_and_draws_are_the_same_after_a_restart_with_fewer_hosts():
    """A run that is saved after some steps goes on with a quarter of the hosts, across the end of an epoch."""
    size = batch_of(HOSTS, EACH)
    saved = RECORDS // size - 1  # steps; the second batch from here spans two epochs
    key = step.training_key(SEED)
    draws = jax.jit(step.example_keys)
    everything = {}
    for count in (HOSTS, HOSTS // 4):
        mesh = mesh_of(count, EACH)
        records = np.full((3, size), -1)
        keys = np.zeros((size, 2), np.uint32)
        for host in range(count):
            mine = sharding.positions(size, mesh, host)
            for k in range(3):
                index = (saved + k) * size + mine
                records[k, mine] = pipeline.records_at(index, RECORDS, SEED)
            keys[mine] = jax.random.key_data(draws(key, saved, mine))
        everything[count] = records, keys
    (records, keys), (fewer, fewer_keys) = everything.values()
    np.testing.assert_array_equal(records, fewer)
    np.testing.assert_array_equal(keys, fewer_keys)
    whole = pipeline.records_at(np.arange(saved * size, (saved + 3) * size), RECORDS, SEED)
    np.testing.assert_array_equal(records.reshape(-1), whole)
    assert len(np.unique(keys, axis=0)) == size
    end = RECORDS - saved * size
    assert 0 < end < 3 * size and len(np.unique(whole[:end])) == end and len(np.unique(whole[end:])) == 3 * size - end


def test_shards_of_a_checkpoint_cover_every_leaf_once_and_equally():
    mesh = mesh_of(HOSTS, EACH, HOSTS * EACH)
    width = HOSTS * EACH
    shapes = {
        "params": {"kernel": jax.ShapeDtypeStruct((width, width), np.float32)},
        "opt_state": {"mu": {"kernel": jax.ShapeDtypeStruct((3, width, 16), np.float32)}},
        "step": jax.ShapeDtypeStruct((), np.int32),
    }
    where = sharding.shardings(shapes, mesh)
    bytes_of = np.zeros(HOSTS, np.int64)
    for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(where)):
        written = np.zeros(leaf.shape, np.int8)
        owners = {}  # of several copies the first device writes
        for device, index in place.devices_indices_map(leaf.shape).items():
            owners.setdefault(tuple(part.indices(n) for part, n in zip(index, leaf.shape)), (device, index))
        for device, index in owners.values():
            written[index] += 1
            bytes_of[device.process_index] += written[index].size * leaf.dtype.itemsize
        assert np.all(written == 1)
    total = sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    assert bytes_of.sum() == total
    assert bytes_of.max() <= 1.1 * total / HOSTS


@pytest.mark.parametrize("hosts", [16, pytest.param(1024, marks=pytest.mark.slow)])
def test_each_batch_of_samples_is_made_by_one_host_in_a_file_of_its_own(hosts, tmp_path):
    number, size = 4 * hosts + 3, 2
    made = []

    def make(params, labels, seeds):
        made.extend(seeds.tolist())
        return np.zeros((len(seeds), 1), np.uint8)

    seeds = np.arange(number, dtype=np.uint32)
    for host in range(hosts):
        batches_on_disk.images(make, None, seeds, seeds, size, tmp_path, lambda done: None, (host, hosts))
    assert sorted(made) == list(range(number))
    assert len(list(tmp_path.iterdir())) == -(-number // size)


def cost_of_a_host(hosts, each=EACH):
    """(calls of Python, bytes at most) of what one host decides for a step, its mesh included."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    def bookkeeping():
        mesh = mesh_of(hosts, each)
        size = batch_of(hosts, each)
        mine = sharding.positions(size, mesh, hosts - 1)
        return pipeline.records_at(7 * size + mine, 10**9, SEED)

    bookkeeping()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        bookkeeping()
    finally:
        sys.setprofile(before)
    tracemalloc.start()
    try:
        bookkeeping()
        return calls, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_bookkeeping_of_a_host_grows_at_most_with_the_number_of_hosts():
    """Of a billion records too: their order needs no table."""
    (calls, _), (more_calls, memory) = (cost_of_a_host(hosts) for hosts in (256, 1024))
    assert more_calls <= 4 * calls
    assert memory <= 512 * EACH * 1024  # bytes a device

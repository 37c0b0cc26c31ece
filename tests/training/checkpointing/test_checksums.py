import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.training.checkpointing import checksums as module
from diffusion.training.checkpointing.checksums import checksum, checksums, later
from diffusion.training.runtime import agreement


def reference(values):
    """The definition, element by element in Python's integers."""

    def mix(x):
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    size = values.dtype.itemsize
    data = values.tobytes()
    width = min(size, 4)
    words = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
    return sum(mix(mix((i + 0x9E3779B9) % 2**32) ^ word) for i, word in enumerate(words)) % 2**32


@pytest.mark.parametrize("dtype", ["float32", "int32", "float16", "int8", "uint8", "bool", "float64", "int64"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 5)])
def test_follows_its_definition(dtype, shape):
    values = (np.random.default_rng(0).normal(size=shape) * 100).astype(dtype)
    assert checksum(np.asarray(values)) == reference(np.asarray(values))


@pytest.mark.parametrize("chunk", [8, 2**16])
def test_parts_add_up(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)  # 8 words are fewer than a row of a part
    values = np.random.default_rng(0).normal(size=(6, 4, 10))
    for dtype in ("float32", "float64"):
        whole = values.astype(dtype)
        total = 0
        for i in range(0, 6, 3):
            for j in range(0, 10, 5):
                total += checksum(whole[i : i + 3, :, j : j + 5], (i, 0, j), whole.shape)
        assert total % 2**32 == checksum(whole)


def test_large_shards_are_hashed_row_by_row_at_their_place(monkeypatch):
    """Two shards of 3 and 5 rows, in parts of two rows; a copy of the first one counts nothing."""
    values = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    shard = lambda first, last, replica: types.SimpleNamespace(
        replica_id=replica, index=(slice(first, last), slice(None)), data=values[first:last]
    )
    leaf = types.SimpleNamespace(
        dtype=values.dtype, shape=(8, 4), addressable_shards=[shard(0, 3, 0), shard(3, 8, 0), shard(0, 3, 1)]
    )
    monkeypatch.setattr(module, "PART", 8)
    monkeypatch.setattr(module.jax, "Array", types.SimpleNamespace)
    parts = list(module._own_parts(leaf))
    assert [len(part) for part, _, _ in parts] == [2, 1, 2, 2, 1]
    assert sum(checksum(*part) for part in parts) % 2**32 == reference(values)


def test_long_arrays_are_cut_into_chunks():
    values = np.random.default_rng(0).integers(0, 2**31, (700_001,), np.int32)
    parts = sum(checksum(values[a : a + 100_000], (a,), values.shape) for a in range(0, 700_001, 100_000))
    assert checksum(values) == parts % 2**32


def test_every_change_is_seen():
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    seen = {checksum(values)}
    for i in range(5):
        for bit in (0, 13, 31):
            changed = values.copy()
            changed.view(np.uint32)[i, 2] ^= np.uint32(1 << bit)
            seen.add(checksum(changed))
    seen.add(checksum(values[::-1].copy()))  # the same values elsewhere
    assert len(seen) == 17


def test_tree_by_path():
    tree = {"a": {"b": jnp.arange(3)}, "c": [jnp.ones(2, jnp.bfloat16), jax.random.key(0), np.zeros(0)]}
    sums = checksums(tree)
    assert list(sums) == ["a/b", "c/0", "c/1", "c/2"]
    assert sums["a/b"] == f"{reference(np.arange(3, dtype=np.int32)):08x}"
    assert sums["c/0"] == f"{reference(np.full(2, 0x3F80, np.uint16)):08x}"  # 1 in bfloat16


def test_parts_of_several_processes_add_up_and_an_array_of_one_stays_its_own(monkeypatch):
    """This is the first of two processes; the other has the part 2^32 - 1 of each leaf that both hold."""
    shared = np.arange(3, dtype=np.int32)
    own = jnp.arange(4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    other = np.array([2**32 - 1, 2**32 - 1], np.uint32)
    monkeypatch.setattr(agreement, "gather", lambda subject, text: [text, other.tobytes().hex()])
    sums = checksums({"own": own, "shared": shared})
    assert sums["shared"] == f"{(reference(shared) - 1) % 2**32:08x}"
    assert sums["own"] == f"{reference(np.asarray(own)):08x}"


def test_a_process_without_checksums_is_named_and_the_others_do_not_wait(monkeypatch):
    said = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement, "gather", lambda subject, text="": [*(said.append(text) or []), text, ""])
    with pytest.raises(RuntimeError, match=r"process 1 of this run has no checksums"):
        checksums({"a": np.arange(3)})
    monkeypatch.setattr(module, "_summed", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checksums({"a": np.arange(3)})
    assert [len(text) for text in said] == [8, 0]


def test_later_ones_are_those_of_the_moment():
    """The buffers of a donated state hold the next state when its checksums are computed."""
    change = jax.jit(lambda x: -x, donate_argnums=0)
    state = jnp.arange(100.0).reshape(10, 10)
    expected = checksums({"a": np.arange(100, dtype=np.float32).reshape(10, 10)})
    sums = later({"a": state})
    changed = change(state)
    assert state.is_deleted() and float(changed[0, 1]) == -1
    assert sums() == expected


def test_a_host_array_counts_on_one_process(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert checksums({"a": np.arange(3)}) == {"a": "00000000"}


@pytest.mark.parametrize("shape", [(), (0,), (5,), (7, 3), (2, 3, 5)])
def test_threads_take_parts_of_an_array(shape, monkeypatch):
    monkeypatch.setattr(module, "PART", 4)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert checksums({"a": jnp.asarray(values)}) == {"a": f"{reference(values):08x}"}


def test_rows_longer_than_a_chunk_are_taken_one_by_one(monkeypatch):
    values = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    whole = checksum(values)
    monkeypatch.setattr(module, "CHUNK", 5)
    assert checksum(values) == whole == reference(values)


SPLIT = """
import json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from diffusion.training.checkpointing import checksums

checksums.PART = 4  # a thread takes one row of a part
mesh = jax.make_mesh((2, 2), ("a", "b"))
values = np.arange(48, dtype=np.float32).reshape(8, 6)
plans = {"copies": (), "rows": ("a",), "columns": (None, "b"), "both": ("a", "b"), "rows of both": (("a", "b"),)}
split = {name: jax.device_put(values, NamedSharding(mesh, PartitionSpec(*plan))) for name, plan in plans.items()}
print(json.dumps(checksums.checksums(split)))
"""


@pytest.mark.extended
def test_the_split_over_devices_does_not_matter():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    root = pathlib.Path(__file__).parents[3]
    child = [sys.executable, "-c", SPLIT]
    printed = subprocess.run(child, env=os.environ | flags, cwd=root, text=True, capture_output=True, check=True).stdout
    expected = f"{reference(np.arange(48, dtype=np.float32).reshape(8, 6)):08x}"
    assert json.loads(printed) == dict.fromkeys(["copies", "rows", "columns", "both", "rows of both"], expected)

"""The two engines on one device, with a step by hand; many devices are in test_meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from diffusion.training import parallel, sharding


def make(axis=None, shards=1):
    def step(state, batch, seed):
        mean = batch["x"].mean(0) if axis is None else jax.lax.pmean(batch["x"].mean(0), axis)
        return {"w": state["w"] + mean, "step": state["step"] + 1}, {"mean": mean, "seed": seed}

    return step


@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_a_step_by_hand_on_one_device(kind):
    """Twice, with the state in the target's sharding; the old state is donated."""
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    whole = NamedSharding(mesh, PartitionSpec())
    state = {"w": jnp.asarray([1.0, 2.0]), "step": jnp.int32(0)}
    state = jax.tree.map(lambda leaf: jax.device_put(leaf, whole), state)
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), state)
    asked = []
    step = parallel.KINDS[kind](lambda **options: (asked.append(options), make(**options))[1], target, mesh)
    assert asked == [{"axis": "data"} if kind == "pmap" else {"shards": 1}]
    first = state["w"]
    for k in (1, 2):
        batch = sharding.to_devices({"x": np.arange(8, dtype=np.float32).reshape(4, 2)}, mesh, 4)
        state, metrics = step(state, batch, jnp.int32(5))
        np.testing.assert_allclose(state["w"], [1 + 3 * k, 2 + 4 * k])
        np.testing.assert_allclose(metrics["mean"], [3, 4])
        assert int(state["step"]) == k and int(metrics["seed"]) == 5
        assert all(leaf.sharding == whole for leaf in jax.tree.leaves(state))
    assert first.is_deleted()

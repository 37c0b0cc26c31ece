"""Stacks of layers as one scan."""

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.models.dit import DiT
from diffusion.models.layers.scan import scanned
from diffusion.training import ema, optimizers, state
from diffusion.training.step import make_train_step

TRACED = []


class Layer(nn.Module):
    """A layer that notes each time it is traced."""

    @nn.compact
    def __call__(self, h, shared, own):
        TRACED.append(self.name)
        return jnp.tanh(nn.Dense(h.shape[-1])(h) + shared + own), None


class Stack(nn.Module):
    check: bool = False

    @nn.compact
    def __call__(self, h):
        layers = scanned(Layer, 3, "none", self.check or self.is_initializing(), (nn.broadcast, 0))
        return layers(name="layers")(h, h.sum(), jnp.arange(3.0))[0]


@pytest.mark.extended
def test_an_application_is_not_traced_for_a_check_and_is_the_same_program():
    h = jnp.ones((2, 4))
    params = Stack().init(jax.random.key(0), h)
    texts, counts = [], []
    for check in (False, True):
        TRACED.clear()
        texts.append(jax.jit(Stack(check).apply).lower(params, h).as_text())
        counts.append(len(TRACED))
    assert texts[0] == texts[1]
    assert counts[1] == counts[0] + 1


def _unrolled(jaxpr):
    """The number of layers in one turn of each scan of a program, those of programs within it too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["unroll"]
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _unrolled(inner)


@pytest.mark.extended
@pytest.mark.parametrize("remat", ["none", "elementwise"])
def test_on_a_gpu_a_stack_is_one_turn_in_the_train_step_and_is_scanned_in_sampling(monkeypatch, remat):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    model = DiT(patch=2, width=8, depth=3, heads=1, num_classes=2, attention="xla", remat=remat)
    x, t, labels = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2), jnp.zeros(2, jnp.int32)
    params = model.init(jax.random.key(0), x, t, labels)
    applied = list(_unrolled(jax.make_jaxpr(model.apply)(params, x, t, labels).jaxpr))
    assert applied == [1 if remat == "none" else 3]
    schedule = schedules.rectified_flow()
    objective = objectives.flow_matching(timesteps.uniform_density(schedule))
    optimizer, average = optimizers.adamw(1e-3, steps=10), ema.exponential_moving_average()
    step = make_train_step(objective, model.apply, schedule, optimizer, average)
    batch = {"x": x, "condition": labels, "index": jnp.arange(2)}
    first = state.create(params, optimizer, average)
    trained = list(_unrolled(jax.make_jaxpr(step)(first, batch, jax.random.key(0)).jaxpr))
    assert trained
    assert set(trained) == {3}

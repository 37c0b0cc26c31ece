"""benchmarks.sampling and benchmarks.samplers: what they count and compute, and that they run."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import samplers, sampling
from diffusion.models.budget.flops import flops
from diffusion.models.dit import DiT
from diffusion.models.unet import UNet

DIT = DiT(patch=2, width=32, depth=3, heads=2, num_classes=5)


def test_operations_of_a_transformer_are_the_formulas():
    """Twice, since guidance calls it on twice as many; the formula is tested against XLA's own count."""
    case = sampling.Case("", DIT, (8, 8, 4), (1,))
    x = jnp.zeros((3, 8, 8, 4))
    labels = jnp.zeros(3, jnp.int32)
    params = jax.eval_shape(lambda: DIT.init(jax.random.key(0), x, jnp.zeros(3), labels))["params"]
    assert sampling.operations(sampling.one_call(case), params, x, labels) == 2 * 3 * flops(DIT, (8, 8, 4))


def test_operations_of_a_convolution_in_a_loop():
    def twice(x, kernel):
        once = lambda x, _: (jax.lax.conv(x, kernel, (1, 1), "SAME"), None)
        return jax.lax.scan(once, x, None, length=2)[0]

    x = jnp.zeros((2, 6, 8, 8))
    kernel = jnp.zeros((6, 6, 3, 3))
    assert sampling.operations(twice, x, kernel) == 2 * (2 * (2 * 6 * 8 * 8) * 6 * 9)


def test_the_limit_of_a_loop_is_its_calls_at_the_rate_of_the_product():
    case = sampling.Case("net", DIT, (8, 8, 4), (20,))
    found = {"product": (0.5,), "ours 20": (40.0,), "compiled 20": (80.0,), "eager 20": (120.0,)}
    compiled, eager = sampling.table(case, 2, found, 2 * (2 * sampling.SIDE**3), "torch")
    assert (compiled.limit, compiled.ratio[0], compiled.share, compiled.peer) == ((20.0,), 2.0, 0.5, "torch, compiled")
    assert (eager.limit, eager.ratio[0], eager.peer) == ((20.0,), 3.0, "torch, eager")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        sampling.Case("DiT", DIT, (8, 8, 4), (2, 3)),
        sampling.Case("U-Net", UNet(widths=(8,), blocks=1, groups=4), (8, 8, 3), (2,)),
    ],
)
def test_a_case_is_measured_without_a_peer(case, monkeypatch):
    monkeypatch.setattr(sampling, "SIDE", 8)
    rows = sampling.measured(case, batch_size=2, rounds=1, torch_python=None)
    assert [row.unit for row in rows] == ["s"] * len(case.steps)
    assert all(len(row.ours) == len(row.limit) == 1 and min(*row.ours, *row.limit) > 0 for row in rows)


@pytest.mark.slow
def test_samplers_are_measured():
    rows = samplers.measured(["euler", "heun"], steps=3, batch_size=1, width=16, depth=1, rounds=1)
    assert [row.what for row in rows] == ["euler, 3 calls", "heun, 5 calls"]
    assert all(row.ours[0] > 0 and row.limit[0] > 0 for row in rows)

"""Splash attention, its kernels emulated, beside the plain product; and where "auto" takes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers import attention as attentions
from diffusion.models.layers.attention_splash import _block, splash


def arrays(n, m, dtype, heads=1, size=24, batch=1):
    shapes = [(batch, length, heads, size) for length in (n, m, m, n)]
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes)]


def with_gradients(attend, q, k, v, cotangent):
    out, backward = jax.vjp(attend, q, k, v)
    return [np.asarray(a, np.float64) for a in (out, *backward(cotangent))]


@pytest.mark.extended
@pytest.mark.parametrize(
    ("n", "m", "options"),
    [
        (100, 120, {}),  # both padded
        pytest.param(130, 140, {}, marks=pytest.mark.slow),
        pytest.param(256, 384, {"heads": 3, "batch": 2, "size": 72}, marks=pytest.mark.slow),
        pytest.param(1, 640, {"size": 128}, marks=pytest.mark.slow),
        pytest.param(410, 410, {"heads": 2, "size": 64}, marks=pytest.mark.slow),
    ],
)
def test_value_and_gradients_are_those_of_the_product(n, m, options):
    exact = [a.astype(jnp.float32) for a in arrays(n, m, jnp.bfloat16, **options)]
    expected = with_gradients(attentions.xla, *exact)
    for ours, plain in zip(with_gradients(lambda *of: splash(*of, interpret=True), *exact), expected):
        np.testing.assert_allclose(ours, plain, atol=2e-6 * max(1, np.abs(plain).max()))


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_the_product():
    short = arrays(200, 300, jnp.bfloat16, heads=2, size=64)
    exact = with_gradients(attentions.xla, *(a.astype(jnp.float32) for a in short))
    error = lambda attend: [
        np.sqrt(np.mean((a - b) ** 2)) / np.abs(b).max() for a, b in zip(with_gradients(attend, *short), exact)
    ]
    ours = error(lambda *of: splash(*of, interpret=True))
    assert max(ours) < 2e-3
    assert all(a < 1.5 * b for a, b in zip(ours, error(attentions.xla)))


def test_a_block_divides_the_length():
    assert [_block(n) for n in (128, 256, 384, 512, 640, 1024, 1152)] == [128, 256, 384, 512, 128, 512, 384]


def test_a_tpu_takes_it_where_the_scores_are_large(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    shape = lambda n: jax.ShapeDtypeStruct((2, n, 3, 64), jnp.bfloat16)
    assert [attentions.choice(shape(n), keys=n) for n in (256, 1023, 1024, 4096)] == ["xla", "xla", "splash", "splash"]
    assert attentions.choice(shape(4096), keys=77) == "xla"
    assert attentions.choice(shape(4096), jvp=True, keys=4096) == "xla"  # the kernels have no forward mode


def test_other_devices_and_biases_are_refused(monkeypatch):
    q, k, v, _ = arrays(130, 140, jnp.float32)
    with pytest.raises(ValueError, match=r"attention='splash' runs only on TPUs,.*on 'cpu'"):
        attentions.attention(q, k, v, "splash")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match=r"attention='splash' takes no bias.*\(1, 1, 1, 140\)"):
        attentions.attention(q, k, v, "splash", jnp.zeros((1, 1, 1, 140)))

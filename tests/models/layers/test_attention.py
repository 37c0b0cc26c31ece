"""Attention: every implementation against its definition in float64, in value, forward and reverse mode."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers.attention import attention, mask_bias

PORTABLE = ["matmul", "xla", "auto", "auto_jvp"]


def definition(q, k, v, bias=None):
    """softmax(q k^T / sqrt(D) + bias) v, query by query, in float64."""
    out = np.zeros(q.shape)
    bias = np.zeros((q.shape[0], q.shape[2], q.shape[1], k.shape[1])) if bias is None else bias
    for b, n, h in np.ndindex(q.shape[:3]):
        weights = np.exp(k[b, :, h] @ q[b, n, h] / np.sqrt(q.shape[-1]) + bias[b, h, n])
        out[b, n, h] = weights @ v[b, :, h] / weights.sum()
    return out


@pytest.fixture
def arrays():
    """q [2, 5, 3, 4]; k, v [2, 7, 3, 4]; a direction for each; a cotangent. All float64."""
    rng = np.random.default_rng(0)
    shapes = [(2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 4)]
    return ([2 * rng.normal(size=s) for s in shapes], [rng.normal(size=s) for s in shapes], rng.normal(size=shapes[0]))


def single(arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def derivative(primals, tangents, h=1e-5):
    """Of the definition along the tangents, by central differences."""
    forward, backward = ([p + s * h * t for p, t in zip(primals, tangents)] for s in (1, -1))
    return (definition(*forward) - definition(*backward)) / (2 * h)


@pytest.mark.parametrize("name", PORTABLE)
def test_value(name, arrays):
    primals, _, _ = arrays
    out = attention(*single(primals), name)
    np.testing.assert_allclose(out, definition(*primals), atol=2e-6)


@pytest.mark.extended
@pytest.mark.parametrize("name", PORTABLE)
def test_bias_and_its_gradient(name, arrays):
    primals, _, cotangent = arrays
    rng = np.random.default_rng(1)
    bias, direction = rng.normal(size=(2, 2, 3, 5, 7))
    value, gradient = jax.value_and_grad(
        lambda b: jnp.sum(attention(*single(primals), name, b) * cotangent.astype(np.float32))
    )(jnp.asarray(bias, jnp.float32))
    exact = lambda step: np.sum(definition(*primals, bias + step * direction) * cotangent)
    np.testing.assert_allclose(value, exact(0), rtol=1e-5)
    np.testing.assert_allclose(np.sum(gradient * direction), (exact(1e-5) - exact(-1e-5)) / 2e-5, rtol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("name", PORTABLE)
def test_a_masked_key_has_no_effect(name, arrays):
    q, k, v = single(arrays[0])
    mask = jnp.arange(7) < jnp.array([[3], [7]])
    out = attention(q, k, v, name, mask_bias(mask))
    np.testing.assert_allclose(out[:1], attention(q[:1], k[:1, :3], v[:1, :3], name), atol=1e-6)
    np.testing.assert_allclose(out[1:], attention(q[1:], k[1:], v[1:], name), atol=1e-6)
    nothing = attention(q, k, v, name, mask_bias(jnp.zeros((2, 7), bool)))
    np.testing.assert_allclose(nothing, jnp.broadcast_to(v.mean(1, keepdims=True), q.shape), atol=1e-6)


@pytest.mark.parametrize("name", PORTABLE)
def test_forward_mode(name, arrays):
    primals, tangents, _ = arrays
    _, out = jax.jit(lambda p, t: jax.jvp(lambda *a: attention(*a, name), p, t))(single(primals), single(tangents))
    np.testing.assert_allclose(out, derivative(primals, tangents), atol=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("name", PORTABLE)
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_gradient(name, argument, arrays):
    primals, _, cotangent = arrays
    weighted = lambda *a: jnp.sum(attention(*a, name) * cotangent.astype(np.float32))
    gradient = jax.jit(jax.grad(weighted, argument))(*single(primals))[:, 0]
    expected = np.zeros(gradient.shape)
    for head, feature in np.ndindex(expected.shape[1:]):
        tangents = [np.zeros_like(p) for p in primals]
        tangents[argument][:, 0, head, feature] = 1  # both examples at once: they are independent
        expected[:, head, feature] = (derivative(primals, tangents) * cotangent).sum((1, 2, 3))
    np.testing.assert_allclose(gradient, expected, atol=2e-5)


@pytest.mark.extended
def test_second_order(arrays):
    primals, tangents, _ = arrays
    energy = lambda name: lambda *a: jnp.sum(attention(*a, name) ** 2)
    product = jax.jit(lambda p, t, name: jax.jvp(jax.grad(energy(name)), p, t)[1], static_argnums=2)
    hessians = [product(single(primals), single(tangents), name) for name in ("matmul", "xla")]
    np.testing.assert_allclose(*hessians, atol=2e-4)


@pytest.mark.extended
@pytest.mark.parametrize("name", PORTABLE)
def test_bfloat16_keeps_a_float32_softmax(name):
    # Scores 96 and 96.25 from exact arguments: one number in bfloat16, whose softmax would be (1/2, 1/2).
    q = jnp.array([16, 1, 0, 0], jnp.bfloat16).reshape(1, 1, 1, 4)
    k = jnp.array([[12, 0, 0, 0], [12, 0.5, 0, 0]], jnp.bfloat16).reshape(1, 2, 1, 4)
    v = jnp.array([0, 1], jnp.bfloat16).reshape(1, 2, 1, 1) * jnp.ones(4, jnp.bfloat16)
    out = attention(q, k, v, name)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 1 / (1 + np.exp(-0.25)), atol=2**-8)


@pytest.mark.extended
@pytest.mark.parametrize("name", PORTABLE)
def test_bfloat16_gradient(name, arrays):
    primals, _, cotangent = arrays
    loss = lambda *a: jnp.sum(attention(*a, name).astype(jnp.float32) * cotangent.astype(np.float32))
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    exact = gradient(*single(primals))
    rounded = gradient(*(a.astype(jnp.bfloat16) for a in single(primals)))
    for a, b in zip(exact, rounded):
        assert b.dtype == jnp.bfloat16
        assert jnp.linalg.norm(a - b.astype(jnp.float32)) < 0.02 * jnp.linalg.norm(a)


@pytest.mark.parametrize(
    ("backend", "dtype", "head_size", "expected", "with_jvp"),
    [
        ("cpu", "float32", 64, "matmul", "matmul"),
        ("cpu", "bfloat16", 64, "matmul", "matmul"),
        ("gpu", "bfloat16", 64, "cudnn", "cudnn_jvp"),
        ("gpu", "float16", 128, "cudnn", "cudnn_jvp"),
        ("gpu", "float32", 64, "xla", "xla"),
        ("gpu", "bfloat16", 60, "xla", "xla"),
        ("gpu", "bfloat16", 136, "xla", "xla"),
        ("tpu", "bfloat16", 64, "xla", "xla"),
    ],
)
def test_auto(monkeypatch, backend, dtype, head_size, expected, with_jvp):
    module = importlib.import_module("diffusion.models.layers.attention")
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    named = {n: lambda *_, n=n: n for n in module.IMPLEMENTATIONS}
    monkeypatch.setattr(module, "IMPLEMENTATIONS", named | {"auto_jvp": module.auto_jvp})
    x = jnp.zeros((1, 2, 1, head_size), dtype)
    assert attention(x, x, x) == expected
    assert attention(x, x, x, "auto_jvp") == with_jvp
    assert attention(x, x, x, "auto_jvp", jnp.zeros((1, 1, 1, 2))) == with_jvp.replace("cudnn_jvp", "xla")


def test_the_kernel_with_a_tangent_takes_no_bias(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = jnp.zeros((1, 2, 1, 8), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"takes no bias,.*Choose 'matmul', 'xla' or 'auto_jvp'"):
        attention(x, x, x, "cudnn_jvp", jnp.zeros((1, 1, 1, 2)))


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="the error is for machines without an NVIDIA GPU")
@pytest.mark.parametrize("name", ["cudnn", "cudnn_jvp"])
def test_cudnn_elsewhere(name):
    x = jnp.zeros((1, 2, 1, 8), jnp.bfloat16)
    with pytest.raises(ValueError, match=rf"'{name}' runs only on NVIDIA GPUs.*'cpu'.*choose 'matmul', 'xla'"):
        attention(x, x, x, name)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
def test_cudnn(arrays):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 64, 3, 64)), jnp.bfloat16) for _ in range(3))
    loss = lambda name: lambda *a: jnp.sum(attention(*a, name).astype(jnp.float32) ** 2)
    for a, b in zip(*(jax.grad(loss(name), (0, 1, 2))(q, k, v) for name in ("cudnn", "xla"))):
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), atol=0.05)


def test_bad_arguments():
    x = jnp.zeros((1, 2, 1, 8))
    with pytest.raises(ValueError, match=r"'matmull'.*Valid: 'auto', 'matmul', 'xla', 'cudnn'.*mean 'matmul'"):
        attention(x, x, x, "matmull")
    with pytest.raises(ValueError, match=r"k \(1, 2, 2, 4\)"):
        attention(x, x.reshape(1, 2, 2, 4), x)
    with pytest.raises(ValueError, match=r"one dtype.*bfloat16"):
        attention(x, x, x.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match=r"must broadcast to .*\(1, 1, 2, 2\); got \(2, 2\)"):
        attention(x, x, x, bias=jnp.zeros((2, 2)))

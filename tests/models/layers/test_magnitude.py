"""EDM2's layers: magnitudes stay, weights are normalised as said, and forcing them changes nothing but their length."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.models.edm2_unet import ClassWeights, EDM2Block, EDM2UNet
from diffusion.models.layers import magnitude
from diffusion.models.layers.magnitude import MPConv, MPFourier, forced, mp_cat, mp_silu, mp_sum

N = 200_000  # numbers of mean 0 and magnitude 1: their magnitude is 1 to 0.5 %


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))


def test_sums_and_activations_keep_the_magnitude():
    a = draw(0, N, 1)
    b = draw(1, N, 1)
    assert rms(mp_silu(a)) == pytest.approx(1, abs=0.01)
    for t in (0.0, 0.3, 1.0):
        assert rms(mp_sum(a, b, t)) == pytest.approx(1, abs=0.01)
    fourier = MPFourier(64)
    params = {"frequencies": 6 * draw(2, 64), "phases": 2 * np.pi * np.random.default_rng(3).random(64)}
    assert rms(fourier.apply({"params": params}, draw(4, 2000))) == pytest.approx(1, abs=0.02)


def test_fourier_features_are_drawn_over_whole_turns():
    """Frequencies N(0, (2 pi)^2), phases U(0, 2 pi): means and deviations within 5 standard errors."""
    params = MPFourier(4000).init(jax.random.key(0), np.ones(1, np.float32))["params"]
    assert np.std(params["frequencies"]) == pytest.approx(2 * np.pi, rel=5 / np.sqrt(2 * 4000))
    assert np.mean(params["phases"]) == pytest.approx(np.pi, abs=5 * 2 * np.pi / np.sqrt(12 * 4000))
    assert 0 <= np.min(params["phases"]) < 0.05 and 2 * np.pi - 0.05 < np.max(params["phases"]) <= 2 * np.pi


def test_the_row_of_a_class_is_what_a_layer_makes_of_its_unit_vector():
    kernel = draw(0, 3, 5)
    rows = ClassWeights(3, 5).apply({"params": {"kernel": kernel}})
    np.testing.assert_allclose(rows, kernel / np.sqrt(np.square(kernel).mean(0)), rtol=1e-3)
    np.testing.assert_allclose(MPConv(5).apply({"params": {"kernel": kernel}}, np.sqrt(3) * np.eye(3)), rows, rtol=1e-5)


def test_concatenation_keeps_the_magnitude_and_gives_each_its_share():
    a = draw(0, N // 4, 1)
    b = draw(1, N // 4, 3)
    for t in (0.3, 0.5):
        joined = np.asarray(mp_cat(a, b, t))
        assert rms(joined) == pytest.approx(1, abs=0.02)
        # the sums of squares, not their means, are as (1 - t)^2 to t^2
        shares = np.square(joined[:, :1]).sum(), np.square(joined[:, 1:]).sum()
        assert shares[1] / shares[0] == pytest.approx((t / (1 - t)) ** 2, rel=0.03)


@pytest.mark.slow
def test_a_layer_uses_its_weights_at_magnitude_one():
    """So it does not see their length, keeps its input's magnitude, and its gradient is at right angles to them."""
    x = draw(0, 64, 100)
    kernel = 3 * draw(1, 100, 50)
    layer = MPConv(50)
    out = layer.apply({"params": {"kernel": kernel}}, x)
    lengths = np.sqrt(np.square(kernel).mean(0))
    np.testing.assert_allclose(out, x @ (kernel / (lengths + 1e-4)) / 10, rtol=1e-4, atol=1e-4)
    assert rms(out) == pytest.approx(1, abs=0.05)
    gradient = jax.grad(lambda kernel: jnp.sum(layer.apply({"params": {"kernel": kernel}}, x) ** 3))(kernel)
    along = np.abs((gradient * kernel).sum(0)) / (np.linalg.norm(gradient, axis=0) * np.linalg.norm(kernel, axis=0))
    assert along.max() < 1e-3
    assert np.isfinite(jax.grad(lambda x: magnitude.unit(x, (-1,)).sum())(jnp.zeros((2, 3)))).all()


def test_forced_weights_have_magnitude_one_and_all_else_stays():
    params = {
        "conv": {"kernel": 5 * draw(0, 3, 3, 8, 4)},
        "dense": {"kernel": 0.5 * draw(1, 16, 4)},
        "fourier": {"frequencies": draw(2, 4)},
        "gain": np.float32(0.3),
    }
    once = forced(params)
    for name in ("conv", "dense"):
        weights = params[name]["kernel"]
        kernel = np.asarray(once[name]["kernel"])
        lengths = np.sqrt(np.square(weights).mean(tuple(range(weights.ndim - 1))))
        np.testing.assert_allclose(kernel, weights / lengths, rtol=4e-4)
        np.testing.assert_allclose(forced(once)[name]["kernel"], kernel, rtol=4e-4)
    np.testing.assert_array_equal(once["fourier"]["frequencies"], params["fourier"]["frequencies"])
    assert once["gain"] == params["gain"]


def test_an_optimizer_that_forces_leads_to_forced_weights():
    params = {"conv": {"kernel": jnp.asarray(draw(0, 3, 3, 8, 4))}, "gain": jnp.float32(0.5)}
    gradient = jax.tree.map(jnp.ones_like, params)
    plain = optax.sgd(0.1)
    optimizer = magnitude.forcing(optax.sgd(0.1))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    reached = optax.apply_updates(params, updates)
    expected = forced(optax.apply_updates(params, plain.update(gradient, plain.init(params))[0]))
    for a, b in zip(jax.tree.leaves(reached), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert reached["gain"] == pytest.approx(0.4)


@pytest.mark.slow
def test_the_network_keeps_magnitudes_at_the_start_and_does_not_see_the_weights_length():
    """Each box of an untrained network puts out magnitude 1 to within a quarter; its output, with a gain of 1, too.

    Attention averages its values, so that what it adds is smaller.
    """
    model = EDM2UNet(16, 64, (1, 2), 2, (8,), num_classes=4)
    x = draw(0, 4, 16, 16, 3)
    t = np.array([-1.0, -0.3, 0.2, 1.0], np.float32)
    labels = np.array([0, 1, 2, 4])
    params = dict(jax.jit(model.init)(jax.random.key(0), x, t, labels)["params"])
    np.testing.assert_array_equal(jax.jit(model.apply)({"params": params}, x, t, labels), 0)
    params["gain"] = jnp.float32(1)

    box = lambda module, method: type(module) is EDM2Block and method == "__call__"

    @jax.jit
    def run(params):
        return model.apply({"params": params}, x, t, labels, capture_intermediates=box)

    output, seen = run(params)
    boxes = jax.tree_util.tree_leaves_with_path(seen)
    assert len(boxes) == 2 * 2 + 1 + 2 + 2 * 3 + 1  # down, halving, middle, up, doubling
    for path, value in boxes:
        assert rms(value) == pytest.approx(1, abs=0.25), jax.tree_util.keystr(path)
    assert rms(output) == pytest.approx(1, abs=0.25)

    longer = jax.tree_util.tree_map_with_path(lambda path, a: 7 * a if path[-1].key == "kernel" else a, params)
    for other in (longer, forced(longer)):
        np.testing.assert_allclose(run(other)[0], output, atol=4e-3 * np.abs(output).max())

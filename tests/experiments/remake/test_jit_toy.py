"""The spiral and its plane, the claims from values by hand, and the nine combinations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.remake import jit_toy
from diffusion.experiments.remake.point_training import squared_transport


def test_the_spiral_is_of_unit_scale_and_winds_outwards():
    points = np.asarray(jit_toy.spiral(jax.random.key(0), 20000), np.float64)
    assert abs(np.mean(points**2) - 1) < 0.02
    radius = np.linalg.norm(points, axis=1)
    angle = radius * 3 * np.pi * np.sqrt(1.05 / 4)  # r = angle, on the scale of the spiral
    np.testing.assert_allclose(points, radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1), atol=1e-5)
    assert angle.max() < 3 * np.pi and angle.min() > 3 * np.pi * np.sqrt(0.05)


def test_the_plane_is_orthonormal():
    axes = jit_toy.plane(16)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-6)


@pytest.mark.extended
def test_the_network_has_five_layers_of_256():
    network = jit_toy.ReLUNet(16)
    params = network.init(jax.random.key(0), jnp.zeros((1, 16)), jnp.zeros(1))["params"]
    shapes = [params[f"Dense_{i}"]["kernel"].shape for i in range(5)]
    assert shapes == [(17, 256), (256, 256), (256, 256), (256, 256), (256, 16)]


def test_the_combinations_are_those_of_the_figure_and_nine_at_512():
    assert len(jit_toy.COMBINATIONS) == len(set(jit_toy.COMBINATIONS)) == 18
    assert sum("D = 512" in part for part in jit_toy.COMBINATIONS) == 9


def test_claims_by_hand():
    values = {f"{part}: W2": 0.1 for part in jit_toy.COMBINATIONS}
    values["D = 16, eps-prediction, v-loss: W2"] = 0.2
    values["D = 512, v-prediction, v-loss: W2"] = 1.5
    values["D = 8, x-prediction, v-loss: W2"] = 0.3
    assert {name for name, holds in jit_toy.conclude(values).items() if holds} == {
        *(jit_toy.X_WORKS.format(dims) for dims in (2, 16, 512)),
        jit_toy.STRUGGLES.format("eps"),
        jit_toy.FAILS.format("v"),
    }


@pytest.mark.extended
@pytest.mark.parametrize("cloud, distance", [(0.0, 2**0.5), (np.nan, 1e6), (5e6, 1e6)])
def test_a_part_has_the_distance_of_its_samples_to_the_spiral(monkeypatch, cloud, distance):
    """From the plane's origin to a spiral of unit scale it is sqrt(2)."""
    seen = []

    def train(objective, schedule, apply, params, optimizer, batch, steps, key):
        points = np.asarray(batch(key)["x"])
        assert points.shape == (jit_toy.BATCH, 8) and np.linalg.matrix_rank(points, tol=1e-3) == 2
        seen.append((objective.reads.parameterization, steps))
        return jax.tree.map(jnp.zeros_like, params)

    def drawn(network, predicts, axes, keys):
        assert predicts == "eps" and axes.shape == (8, 2) and not network(np.ones((3, 8)), np.ones(3), None).any()
        return np.full((jit_toy.POINTS, 2), cloud)

    monkeypatch.setattr(jit_toy, "train", train)
    monkeypatch.setattr(jit_toy, "drawn", drawn)
    values = jit_toy.measure("D = 8, eps-prediction, x-loss", False)
    assert seen == [(jit_toy.PREDICTIONS["eps"], jit_toy.STEPS)]
    assert values["D = 8, eps-prediction, x-loss: W2"] == pytest.approx(distance, rel=0.05)
    assert np.abs(values["points"]).max() == (1e6 if cloud > 1e6 else 0)


def test_a_velocity_of_zero_leaves_the_noise_in_the_plane():
    axes, keys = jit_toy.plane(16), jax.random.split(jax.random.key(0), 2)
    points = jit_toy.drawn(lambda x, clock, condition: jnp.zeros_like(x), "v", axes, keys)
    noise = jax.random.normal(keys[0], (jit_toy.POINTS, 16)) @ axes
    np.testing.assert_allclose(points, noise, atol=1e-4)


def test_the_picture_has_the_samples_by_prediction_and_dimensions():
    rng = np.random.default_rng(0)
    parts = {part: {"points": rng.uniform(-2, 2, (5, 2)), f"{part}: W2": 0.5} for part in jit_toy.COMBINATIONS}
    panels = np.reshape(jit_toy.draw(parts).axes, (3, 4))
    for row, predicts in zip(panels, ("x", "eps", "v"), strict=True):
        for axes, dims in zip(row, (2, 8, 16, 512), strict=True):
            points = parts[f"D = {dims}, {predicts}-prediction, v-loss"]["points"]
            assert not len(axes.get_xticks()) and not len(axes.get_yticks())
            np.testing.assert_array_equal(axes.collections[0].get_offsets(), points)
            assert axes.get_title() == f"{predicts}, D = {dims}: W2 0.5"
            assert axes.get_xlim() == axes.get_ylim() == (-3, 3)  # the spiral's radius is at most 2


@pytest.mark.slow
@pytest.mark.parametrize("predicts", ["x", "eps", "v"])
def test_the_exact_denoiser_is_reasonable_whatever_it_predicts(predicts):
    """The mean of the spiral's points under the posterior; two draws of 1,000 points alone are 0.07 apart."""
    axes, keys = jit_toy.plane(2), jax.random.split(jax.random.key(0), 5)
    spiral = jit_toy.spiral(jax.random.key(7), 2000) @ axes.T

    def network(x, clock, condition):
        t = (1 - jnp.broadcast_to(clock, x.shape[:1]))[:, None]
        away = jnp.sum((x[:, None] - (1 - t[..., None]) * spiral) ** 2, -1)
        x0 = jax.nn.softmax(-away / (2 * jnp.maximum(t, 1e-4) ** 2), -1) @ spiral
        noise = (x - (1 - t) * x0) / jnp.maximum(t, 1e-4)
        return {"x": x0, "eps": noise, "v": noise - x0}[predicts]

    points = jit_toy.drawn(network, predicts, axes, keys[2:4])
    assert squared_transport(points, np.asarray(jit_toy.spiral(keys[4], jit_toy.POINTS))) ** 0.5 < jit_toy.REASONABLE

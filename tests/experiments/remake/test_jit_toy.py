"""The spiral and its plane, the claims from values by hand, and the nine combinations."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.experiments.remake import jit_toy


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

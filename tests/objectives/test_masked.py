"""Objectives that leave out patches: which are drawn, and both losses by hand from the network's output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps, weightings
from diffusion.models.layers import kept_patches
from diffusion.models.mask_dit import MaskDiT
from diffusion.models.mdt import MDT
from diffusion.objectives import masked

SCHEDULE = schedules.rectified_flow()
X = np.random.default_rng(0).normal(size=(3, 4, 6, 2)).astype(np.float32)  # 2 x 3 patches of a side of 2
KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.mark.extended
def test_the_patches_that_are_kept():
    keys = jax.random.split(jax.random.key(1), 2000)
    half = np.asarray(masked.visible_patches(keys, 6, 0.5, 0.5))
    assert half.shape == (2000, 3) and half.min() == 0
    assert all(len(set(row)) == 3 for row in half.tolist())
    np.testing.assert_allclose(np.bincount(half.ravel(), minlength=6) / 2000, 0.5, atol=0.05)  # 4.5 deviations

    between = np.asarray(masked.visible_patches(keys, 20, 0.3, 0.5))
    sizes = (between >= 0).sum(1)
    assert between.shape == (2000, 14) and set(sizes) == {10, 11, 12, 13}
    assert (np.diff((between < 0).astype(int), axis=1) >= 0).all()  # the empty places are the last
    np.testing.assert_array_equal(masked.visible_patches(keys[3:5], 20, 0.3, 0.5), between[3:5])  # each by its own key


@pytest.mark.parametrize(
    "number, share, seen", [(20, 0.9, 2), (100, 0.9, 10), (400, 0.8, 80), (10, 0.75, 2), (1, 0.5, 1)]
)
def test_the_number_of_seen_patches_is_rounded_down(number, share, seen):
    """floor(N (1 - share)), at least 1; 1 - 0.9 in binary is a little less than a tenth."""
    assert jax.eval_shape(lambda: masked.visible_patches(KEYS, number, share, share)).shape == (3, seen)


def test_masked_denoising_is_its_two_means():
    """Both under the importance of a density that is drawn from in place of another."""
    seen = {}
    plain = timesteps.uniform_density(SCHEDULE)

    def thrice(state, keys, index):
        t, importance = plain.sample(state, keys, index)
        return t, 3 * importance

    def network(x, clock, condition):
        seen.update(x=x, t=clock, **condition)
        return jnp.sin(x)

    density = plain._replace(sample=thrice)
    weighting = weightings.constant(parameterizations.x0())
    loss = objectives.masked_denoising(parameterizations.x0(), weighting, density, ratio=0.5, reconstruction=0.25)
    batch = {"x": X, "condition": np.arange(3)}
    losses, metrics = loss({"model": network}, SCHEDULE, KEYS, batch, 0)

    assert loss.condition.masks == 2 and set(seen) == {"x", "t", "label", "keep"} and seen["keep"].shape == (3, 3)
    patches = lambda a: np.asarray(a).reshape(3, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 6, 8)
    x_t = patches(seen["x"])
    for i in range(3):
        keep = np.asarray(seen["keep"][i])
        rest = np.setdiff1d(np.arange(6), keep)
        denoised = np.square(patches(jnp.sin(seen["x"]))[i, keep] - patches(X)[i, keep]).mean()
        norm = (x_t[i] - x_t[i].mean(1, keepdims=True)) / x_t[i].std(1, keepdims=True, ddof=1)
        filled = np.square(np.sin(x_t[i, rest]) - norm[rest]).mean()
        np.testing.assert_allclose(losses[i], 3 * (denoised + 0.25 * filled), rtol=1e-4)
        parts = [metrics["seen"][i], metrics["reconstruction"][i]]
        np.testing.assert_allclose(parts, [3 * denoised, filled], rtol=1e-4)


def test_a_masked_copy_adds_the_same_loss_of_a_part():
    calls = []

    def network(x, clock, condition):
        calls.append(condition)
        return jnp.zeros_like(x) + clock[:, None, None, None] + isinstance(condition, dict)

    plain = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))
    both = objectives.with_masked_copy(plain, patch=2, least=0.3, most=0.5)
    batch = {"x": X, "condition": np.arange(3)}
    losses, metrics = both({"model": network}, SCHEDULE, KEYS, batch, 0)
    first, _ = plain({"model": network}, SCHEDULE, KEYS, batch, 0)
    np.testing.assert_allclose(losses - metrics["masked"], first, rtol=1e-5)
    assert (np.abs(metrics["masked"] - first) > 1e-3).all()
    assert not isinstance(calls[0], dict) and calls[1]["keep"].shape == (3, 4) and both.condition.masks == 2


def test_a_masked_copy_draws_by_keys_that_its_objective_does_not_split():
    """The first loss splits its keys twice at most: into those of a coupling, of the times and of the noise."""
    received = []

    def loss(networks, schedule, keys, batch, step):
        received.append(jax.random.key_data(keys))
        return jnp.zeros(3), {"t": jnp.zeros(3)}

    both = objectives.with_masked_copy(objectives.Objective(loss), patch=2, least=0.5, most=0.5)
    both({"model": None}, SCHEDULE, KEYS, {"x": X}, 0)
    once = jax.vmap(lambda key: jax.random.split(key, 4))(KEYS)
    twice = jax.vmap(jax.vmap(lambda key: jax.random.split(key, 4)))(once).reshape(3, 16)
    used = jax.random.key_data(jnp.concatenate([KEYS[:, None], once, twice], axis=1))
    np.testing.assert_array_equal(received[0], jax.random.key_data(KEYS))
    assert (received[1][:, None] != used).any(-1).all()


def test_tokens_go_back_where_they_were():
    tokens = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
    keep = np.array([[4, 0, -1]])
    found = kept_patches.completed(kept_patches.picked(tokens, keep), keep, jnp.float32([-1, -2]), 6)
    expected = np.tile(np.float32([-1, -2]), (6, 1))
    expected[[0, 4]] = tokens[0, [0, 4]]
    np.testing.assert_array_equal(found[0], expected)


def test_what_does_not_fit_is_refused():
    x0 = (parameterizations.x0(), weightings.snr(), timesteps.uniform_density(SCHEDULE))
    for arguments, message in (
        ({"ratio": 1.0}, r"ratio = 1\.0 must be shares of the patches in \(0, 1\)"),
        ({"patch": 0}, "patch = 0 must be the side of the network's patches, a positive"),
        ({"reconstruction": -1.0}, "reconstruction = -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            objectives.masked_denoising(*x0, **arguments)
    loss = objectives.masked_denoising(*x0, patch=4)
    with pytest.raises(ValueError, match=r"whose sides are multiples of patch = 4; got \(3, 4, 6, 2"):
        loss({"model": lambda x, t, c: x}, SCHEDULE, KEYS, {"x": X}, 0)
    with pytest.raises(ValueError, match=r"least = 0.6, most = 0.5"):
        objectives.with_masked_copy(loss, 2, 0.6, 0.5)

    module = MaskDiT(2, 24, 2, 2, 3, 16, 2, 2)
    with pytest.raises(ValueError, match=r"patches of 4 x 4 pixels.*patch = 4"):
        loss.check_network(module)
    plain = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))
    mdt = MDT((4, 4, 1), 2, 8, 3, 2, 0, 1)
    for network, least in ((mdt, 0.3), (mdt, 0.5), (module, 0.5)):
        objectives.with_masked_copy(plain, 2, least, 0.5).check_network(network)
    with pytest.raises(ValueError, match=r"patches in different examples,.*\. mdt, or least = most"):
        objectives.with_masked_copy(plain, 2, 0.3, 0.5).check_network(module)
    for keep in (np.zeros((2, 7), int), np.zeros((3, 2), int), np.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"'keep' must be int \[.*of the 6 patches, with B = 2"):
            kept_patches.check_keep(keep, 2, 6)

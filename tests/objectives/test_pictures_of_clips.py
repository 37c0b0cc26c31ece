"""Clips and pictures in one batch: of a network that sees each frame alone the losses are what they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.objectives.pictures_of_clips import frame_by_frame

SCHEDULE = schedules.rectified_flow()
B, F = 8, 3
X = jnp.asarray(np.random.default_rng(0).normal(size=(B, F, 2)), jnp.float32)
BATCH = {"x": X, "condition": jnp.arange(B) / B, "index": jnp.arange(B) + 40}
KEYS = jax.random.split(jax.random.key(0), B)
UNIFORM = timesteps.uniform_density(SCHEDULE, strata=B)


def each(x, clock, condition):
    """What a frame becomes by itself, at its time and condition."""
    clock = jnp.broadcast_to(clock.reshape(len(x), -1), x.shape[:2])
    return jnp.sin(x + condition[:, None, None]) * clock[..., None]


def together(x, clock, condition):
    return each(x, clock, condition) + 10 * (x - x.mean(axis=1, keepdims=True))


@pytest.mark.extended
@pytest.mark.parametrize(
    "density",
    [
        pytest.param(UNIFORM, marks=pytest.mark.slow),
        pytest.param(timesteps.per_frame(UNIFORM, F), marks=pytest.mark.slow),
        timesteps.given_frames(SCHEDULE, timesteps.per_frame(UNIFORM, F), ("1..", "...")),
    ],
    ids=["one time", "one a frame", "given frames"],
)
def test_some_examples_are_pictures_and_all_have_draws_of_their_own(density):
    """What chooses the pictures has the first half of each key; losses are those of the objective by the second."""
    plain = objectives.flow_matching(density)
    own = jax.vmap(jax.random.split, out_axes=1)(KEYS)[1]
    mixed = objectives.with_pictures(plain, share=0.25)
    of = lambda objective, network: jax.jit(lambda keys: objective({"model": network}, SCHEDULE, keys, BATCH, 0))
    losses, metrics = of(plain, each)(own)
    found, of_mixed = of(mixed, each)(KEYS)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    np.testing.assert_allclose(of_mixed["t"], metrics["t"])
    clips, _ = of(plain, together)(own)  # a frame alone is its own mean: as a picture it has the loss of `each`
    some, _ = of(mixed, together)(KEYS)
    pictures = np.isclose(some, losses, rtol=1e-4)
    np.testing.assert_allclose(some[~pictures], clips[~pictures], rtol=1e-5)
    assert pictures.sum() == 2


def test_what_cannot_be_pictures_is_refused():
    plain = objectives.flow_matching(UNIFORM)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"share = {share}. Valid"):
            objectives.with_pictures(plain, share)
    with pytest.raises(ValueError, match="a batch of one example"):
        one = jax.tree.map(lambda leaf: leaf[:1], BATCH)
        objectives.with_pictures(plain)({"model": each}, SCHEDULE, KEYS[:1], one, 0)
    with pytest.raises(ValueError, match="heads or a teacher"):
        objectives.with_pictures(objectives.autoencoding.kl_autoencoder())


def test_a_frame_alone_has_both_times_and_the_dropout_keys_of_its_clip():
    """The output of a frame is a function of its numbers, so that it can be told from any other."""
    x, t, s = X[:2], jnp.array([0.3, 0.8]), jnp.array([0.1, 0.4])
    keys = KEYS[:2]

    def network(x, clocks, condition, dropout_keys):
        assert x.shape == (2 * F, 1, 2)
        drawn = jax.vmap(jax.random.uniform)(dropout_keys)
        return x * (clocks[0] + 10 * clocks[1] + 100 * drawn)[:, None, None] + condition[:, None, None]

    found = frame_by_frame(network)(x, (t, s), jnp.array([3.0, 7.0]), dropout_keys=keys)
    factor = np.asarray(t + 10 * s + 100 * jnp.stack([jax.random.uniform(key) for key in keys]))
    np.testing.assert_allclose(found, x * factor[:, None, None] + np.array([3.0, 7.0])[:, None, None], rtol=1e-6)


def test_facts_of_captions_stay_with_their_clips():
    """The number in the metadata of an example is its x; the loss of every example compares both."""

    def loss(networks, schedule, keys, batch, step):
        return jnp.abs(batch["metadata"]["number"] - batch["x"][:, 0, 0]), {"t": jnp.zeros(len(keys))}

    mixed = objectives.with_pictures(objectives.Objective(loss))
    batch = {**BATCH, "metadata": {"number": X[:, 0, 0]}}
    np.testing.assert_array_equal(mixed({"model": each}, SCHEDULE, KEYS, batch, 0)[0], 0)


@pytest.mark.parametrize("share, number", [(1e-3, 1), (0.5, 4), (0.999, B - 1)])
def test_at_least_one_example_is_a_picture_and_one_a_clip(share, number):
    plain = objectives.flow_matching(UNIFORM)
    seen = []

    def network(x, clock, condition):
        seen.append(x.shape)
        return 0 * x

    jax.eval_shape(lambda: objectives.with_pictures(plain, share)({"model": network}, SCHEDULE, KEYS, BATCH, 0))
    assert sorted(seen) == sorted([(number * F, 1, 2), (B - number, F, 2)])

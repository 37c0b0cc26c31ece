"""A causal network of videos hears no later frame, and makes with what it keeps what it makes by all frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, samplers, schedules, timesteps, videos
from diffusion.models import VideoDiT, frame_memory
from diffusion.models.layers import key_value_memory
from tests.models import backbones

SCHEDULE = schedules.rectified_flow()
V = parameterizations.velocity()
CHUNK, FRAMES, STEPS = 2, 6, 3
SHAPE = (FRAMES, 8, 8, 3)
NETWORK = VideoDiT(patch=4, width=16, depth=2, heads=2, causal=CHUNK, num_classes=3)
X, T, LABELS = backbones.drawn(2, *SHAPE), np.float32([[0.1] * 4 + [0.9] * 2] * 2), np.array([0, 2])


@pytest.fixture(scope="module")
def variables():
    labels = lambda batch: np.zeros(batch, int)
    return {"params": backbones.parameters(backbones.Backbone(NETWORK, SHAPE, labels))}


@pytest.mark.extended
def test_a_chunk_hears_itself_and_earlier_ones(variables):
    apply = jax.jit(NETWORK.apply)
    before = apply(variables, X, T, LABELS)
    for frame in (1, 3, 4):
        x, t = X.copy(), T.copy()
        x[:, frame] *= -1
        t[:, frame] = 0.5
        heard = np.abs(apply(variables, x, t, LABELS) - before).max(axis=(0, 2, 3, 4)) > 1e-5
        np.testing.assert_array_equal(heard, np.arange(FRAMES) >= frame // CHUNK * CHUNK)


@pytest.mark.extended
def test_a_rollout_by_what_is_kept_is_that_by_all_frames(variables):
    """The same clips from the same noise; a chunk costs less than half of the clip of three."""
    keys = jax.random.split(jax.random.key(0), 2)
    grid = timesteps.uniform(SCHEDULE, STEPS)
    denoiser = lambda network: parameterizations.denoiser(network, SCHEDULE, V, LABELS)

    @jax.jit
    def by_all(variables, x):
        whole = denoiser(lambda *inputs: NETWORK.apply(variables, *inputs))
        plan = timesteps.staggered(grid, FRAMES, STEPS, CHUNK)
        return samplers.sample(samplers.per_frame(samplers.ddim()), whole, SCHEDULE, x, plan, keys)

    def by_memory(variables, x):
        remember = lambda made, kept: frame_memory.remembered(NETWORK, variables, SCHEDULE, V, made, LABELS, kept)
        denoise = lambda kept: denoiser(key_value_memory.reading(NETWORK, variables, kept))
        memory = frame_memory.empty(NETWORK, X.shape)
        way = (SCHEDULE, x, timesteps.plan(grid), keys, memory, CHUNK)
        return videos.rollout_from_memory(samplers.ddim(), denoise, remember, *way)

    expected = by_all(variables, X)
    np.testing.assert_allclose(jax.jit(by_memory)(variables, X), expected, atol=1e-5)
    assert np.abs(expected - X).max() > 0.1

    memory = frame_memory.empty(NETWORK, X.shape)
    flops = lambda f, *inputs: jax.jit(f).lower(*inputs).compile().cost_analysis()["flops"]
    part = flops(
        lambda v, x, t: key_value_memory.reading(NETWORK, v, memory)(x, t, LABELS), variables, X[:, :2], T[:, :2]
    )
    whole = flops(lambda v, x, t: NETWORK.apply(v, x, t, LABELS), variables, X, T)
    assert part < 0.5 * whole, (part, whole)


@pytest.mark.extended
def test_frames_without_room_and_parts_of_a_chunk_do_not_pass_in_silence(variables):
    """A memory that is full would else lay new frames over its last ones."""
    memory = frame_memory.empty(NETWORK, (2, CHUNK, *SHAPE[1:]))
    remember = lambda x, memory: frame_memory.remembered(NETWORK, variables, SCHEDULE, V, x, LABELS, memory)
    evaluate = lambda memory: key_value_memory.reading(NETWORK, variables, memory)(X[:, :CHUNK], T[:, :CHUNK], LABELS)
    made, beyond = jax.jit(lambda x: (evaluate(memory), evaluate(remember(x, memory))))(X[:, :CHUNK])
    assert np.isfinite(made).all() and np.isnan(beyond).all()
    for frames, message in (
        (1, "1 frames or positions for a memory of 2"),
        (4, "4 frames or positions for a memory of 2 in chunks of"),
    ):
        with pytest.raises(ValueError, match=message):
            remember(X[:, :frames], memory)


def test_networks_that_keep_nothing_are_refused(variables):
    plain = NETWORK.clone(causal=0)
    with pytest.raises(ValueError, match=r"causal=0: a memory needs a network in which nothing sees what comes later"):
        frame_memory.empty(plain, X.shape)
    with pytest.raises(ValueError, match="needs a network with causal"):
        jax.eval_shape(lambda: plain.apply(variables, X, T, LABELS, memory=frame_memory.empty(NETWORK, X.shape)))
    with pytest.raises(ValueError, match="frames can see only earlier ones if mixing='factorised'"):
        VideoDiT(patch=4, width=16, depth=2, heads=2, causal=1, mixing="full")
    with pytest.raises(ValueError, match="chunk = 4 does not divide 6 frames"):
        videos.rollout_from_memory(samplers.ddim(), None, None, SCHEDULE, jnp.asarray(X), None, None, None, 4)

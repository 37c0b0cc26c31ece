"""Videos with given frames: exact laws of Gaussian frames, of which each depends on the one before it.

x_0 is an AR(1) process of F frames, so that E[x_0 | x_t] for times of single frames, the law of some frames under the
condition of others, and that of any longer video are closed forms. The flow from noise is linear: its value at 0 is the
mean, and its Jacobian J has J J^T = the covariance.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, objectives, parameterizations, samplers, schedules, timesteps, videos, weightings
from diffusion.parameterizations import Prediction

SCHEDULE = schedules.rectified_flow()
RHO = 0.8
F = 4


def covariance(frames):
    at = np.arange(frames)
    return RHO ** np.abs(at[:, None] - at)


def denoise(x, t):
    """E[x_0 | x_t] and E[eps | x_t] of [B, F, 1] at times [B, F], from the definition."""
    t = jnp.broadcast_to(t if jnp.ndim(t) == 2 else jnp.reshape(t, (-1, 1)), x.shape[:2])
    alpha, sigma = 1 - t, t
    s = jnp.asarray(covariance(x.shape[1]), x.dtype)
    whole = alpha[:, :, None] * s * alpha[:, None] + jnp.eye(x.shape[1]) * sigma[:, None] ** 2
    solved = jnp.linalg.solve(whole, x)
    return Prediction(s @ (alpha[..., None] * solved), sigma[..., None] * solved)


def law(sample, frames):
    """(mean, covariance) of what a linear function of noise [B, frames, 1] makes."""
    noise = np.concatenate([np.zeros((1, frames)), np.eye(frames)])[..., None]
    made = np.asarray(jax.jit(sample)(jnp.asarray(noise, jnp.float32)))[..., 0].astype(np.float64)
    jacobian = made[1:] - made[0]
    return made[0], jacobian.T @ jacobian


PLAN = timesteps.plan(timesteps.uniform(SCHEDULE, 100))
KEYS = lambda n: jax.random.split(jax.random.key(0), n)
CLIP = np.array([1.0, -0.5, 2.0, 0.7], np.float32)[None, :, None]


@pytest.mark.parametrize("pattern, delay", [("1..1", 0), (".1..", 0), ("11..", 30)])
def test_frames_follow_their_law_under_the_given_ones(pattern, delay):
    """First and last frame, one within, and an extension in a pyramid; what is made is N(S_rg S_gg^-1 g, ...)."""
    given = timesteps.given_pattern(pattern)
    plan = timesteps.staggered(PLAN.grid, F, delay) if delay else PLAN

    def sample(noise):
        clips = jnp.broadcast_to(CLIP, noise.shape)
        return videos.fill(samplers.ddim(), denoise, SCHEDULE, noise, plan, KEYS(len(noise)), clips, given)

    mean, found = law(sample, F)
    np.testing.assert_array_equal(mean[given], CLIP[0, given, 0])
    s, rest = covariance(F), ~given
    gain = s[np.ix_(rest, given)] @ np.linalg.inv(s[np.ix_(given, given)])
    np.testing.assert_allclose(mean[rest], gain @ CLIP[0, given, 0], atol=0.02)
    exact = s[np.ix_(rest, rest)] - gain @ s[np.ix_(given, rest)]
    np.testing.assert_allclose(found[np.ix_(rest, rest)], exact, atol=0.02)
    assert not found[given].any()


def test_a_denoiser_of_the_other_frames_serves_every_sampler():
    """The same law by Heun's method, of the frames that are made alone."""
    given = timesteps.given_pattern("1..1")
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 20))

    def sample(noise):
        others = videos.completing(denoise, SCHEDULE, jnp.broadcast_to(CLIP, (len(noise), F, 1)), given)
        return samplers.sample(samplers.heun(), others, SCHEDULE, noise, plan, KEYS(len(noise)))

    mean, found = law(sample, 2)
    s = covariance(F)
    gain = s[1:3, ::3] @ np.linalg.inv(s[::3, ::3])
    np.testing.assert_allclose(mean, gain @ CLIP[0, ::3, 0], atol=0.01)
    np.testing.assert_allclose(found, s[1:3, 1:3] - gain @ s[::3, 1:3], atol=0.01)


@pytest.mark.parametrize("at, rest", [(None, 0.0), (0.25, 0.25)])
def test_each_clip_has_its_own_time_at_the_frames_that_are_made(at, rest):
    seen = []

    def recorded(x, t):
        seen.append(np.asarray(t))
        return Prediction(x, x)

    clips = jnp.zeros((2, F, 1))
    completed = videos.completing(recorded, SCHEDULE, clips, timesteps.given_pattern("1..."), at)
    completed(jnp.zeros((2, F - 1, 1)), jnp.array([0.4, 0.9]))
    np.testing.assert_allclose(seen[-1], [[rest, 0.4, 0.4, 0.4], [rest, 0.9, 0.9, 0.9]], atol=1e-6)


def test_given_frames_of_a_clip_that_is_filled_rest_at_the_time_that_is_said():
    """What is made is the last prediction, here the sum of all frames' times: that of the given one beside three."""
    times = lambda x, t: Prediction(jnp.broadcast_to(t.sum(1)[:, None, None], x.shape), x)
    given, zero = timesteps.given_pattern("1..."), jnp.zeros((1, F, 1))
    plan = timesteps.plan(np.array([1.0, 0.5, 0.0]))
    way = (samplers.ddim(), times, SCHEDULE, zero, plan, KEYS(1), zero, given)
    clean, later = (videos.fill(*way, at)[0, 1:, 0] for at in (None, 0.25))
    np.testing.assert_allclose([clean, later], [[1.5] * 3, [1.75] * 3], rtol=1e-6)


def test_a_rollout_follows_the_law_of_the_long_video():
    """Of a process in which a frame depends on the last one alone, 6 frames behind one, in windows of 3."""

    def sample(noise):
        first = jnp.full((len(noise), 1, 1), 1.5)
        return videos.rollout(samplers.ddim(), denoise, SCHEDULE, noise, PLAN, KEYS(len(noise)), first, window=3)[:, 1:]

    mean, found = law(sample, 6)
    steps = np.arange(1, 7)
    np.testing.assert_allclose(mean, 1.5 * RHO**steps, atol=0.03)
    np.testing.assert_allclose(found, covariance(6) - np.outer(RHO**steps, RHO**steps), atol=0.03)


@pytest.mark.extended
def test_a_rollout_on_latents_codes_the_last_frames_anew():
    """Of a coding by a factor, frames are those without one, by that factor; given frames stay to the bit."""
    x, first = jax.random.normal(jax.random.key(0), (2, 6, 1)), jnp.float32([[[0.3]], [[-0.7]]])
    denoise = lambda x, t: Prediction(0.5 * jnp.roll(x, 1, axis=1), 0.1 * x)
    way = (samplers.ddim(), denoise, SCHEDULE, x, PLAN, KEYS(2))
    plain = videos.rollout(*way, 4 * first, window=3)
    coded = videos.rollout(*way, first, window=3, coding=(lambda frames: 4 * frames, lambda x: x / 4))
    np.testing.assert_allclose(4 * coded, plain, rtol=1e-5)
    np.testing.assert_array_equal(coded[:, :1], first)
    pairs = videos.rollout(
        *way, first, window=3, coding=(lambda frames: 4 * frames, lambda x: jnp.repeat(x, 2, 1)[:, 1:])
    )
    assert pairs.shape == (2, 1 + 2 * 6, 1)
    # Three given frames are two latents; each of the four that are made is two frames, alike by this decoder.
    three = jnp.concatenate([first, 2 * first, 3 * first], axis=1)
    of_three = (lambda frames: frames[:, ::2], lambda x: jnp.repeat(x, 2, 1)[:, 1:])
    longer = videos.rollout(
        samplers.ddim(), denoise, SCHEDULE, x[:, :4], PLAN, KEYS(2), three, window=4, coding=of_three
    )
    assert longer.shape == (2, 3 + 8, 1)
    np.testing.assert_array_equal(longer[:, :3], three)
    np.testing.assert_array_equal(longer[:, 3::2], longer[:, 4::2])


@pytest.mark.extended
@pytest.mark.parametrize("make", ["rollout", "fill"])
def test_gradients_go_through_given_frames(make):
    """Of a network of x0, whose noise (x - alpha x0) / sigma has no derivative at sigma = 0: as in forward mode."""
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 3))
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 1)), jnp.float32)

    def loss(weight):
        network = lambda x, t, condition: weight * x + weight**2 * jnp.roll(x, 1, axis=1)
        own = parameterizations.denoiser(network, SCHEDULE, parameterizations.x0())
        way = (samplers.ddim(), own, SCHEDULE, noise, plan, KEYS(2))
        if make == "rollout":
            return jnp.sum(jnp.square(videos.rollout(*way, jnp.ones((2, 1, 1)), window=3)))
        return jnp.sum(jnp.square(videos.fill(*way, jnp.ones((2, 4, 1)), [True, False, False, True])))

    forward, back = jax.jit(lambda weight: (jax.jvp(loss, (weight,), (1.0,))[1], jax.grad(loss)(weight)))(0.4)
    assert abs(back) > 1
    np.testing.assert_allclose(back, forward, rtol=1e-4)


def test_a_branch_without_the_given_frames_knows_nothing_of_them():
    """It is the denoiser of the other frames alone; guidance by frames lies on the line through both."""
    given = timesteps.given_pattern("1..")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 1)), jnp.float32)
    t = jnp.asarray([[0.0, 0.4, 0.4], [0.0, 0.7, 0.2]])
    neither = videos.without_frames(denoise, SCHEDULE, given, jnp.full(x.shape, 3.0))
    alone = denoise(x[:, 1:], t[:, 1:])  # stationary: two frames of the process
    np.testing.assert_allclose(neither(x, t).x0[:, 1:], alone.x0, rtol=1e-4, atol=1e-5)
    branches = guidance.separately(denoise, denoise, neither)
    both = guidance.text_and_picture(branches, 4.0, 2.0)(x, t)
    expected = 2 * denoise(x, t).x0[:, 1:] - alone.x0
    np.testing.assert_allclose(both.x0[:, 1:], expected, rtol=1e-4, atol=1e-4)


def test_windows_take_a_time_for_each_frame():
    """Frames that do not depend on each other: windows are the whole."""
    single = lambda x, t: Prediction((1 - t)[..., None] * x, t[..., None] * x)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, 1)), jnp.float32)
    t = jnp.asarray(np.random.default_rng(2).uniform(size=(2, 7)), jnp.float32)
    np.testing.assert_allclose(guidance.windows(single, (3,), (2,))(x, t).x0, single(x, t).x0, rtol=1e-6)


@pytest.mark.extended
def test_training_leaves_given_frames_clean_and_without_a_loss():
    """An error in given frames is not seen, although its weight is 1 / t^2; what is learned weighs as much anywhere."""
    uniform = timesteps.uniform_density(SCHEDULE)
    density = timesteps.given_frames(SCHEDULE, uniform, ("...", "1..", "1.1"), shares=(0.5, 0.25, 0.25))
    t, importance = map(np.asarray, jax.jit(density.sample)((), KEYS(400), jnp.arange(400)))
    clean = t == np.float32(2.0**-24)
    np.testing.assert_array_equal(importance == 0, clean)
    kinds, counts = np.unique(clean, axis=0, return_counts=True)
    np.testing.assert_array_equal(kinds, [[0, 0, 0], [1, 0, 0], [1, 0, 1]])
    np.testing.assert_allclose(counts, [200, 100, 100], atol=40)
    np.testing.assert_allclose(importance.sum(axis=1), 3, rtol=1e-6)
    assert (np.ptp(t[~clean[:, 0]], axis=1) == 0).all()  # one time an example
    each = timesteps.given_frames(SCHEDULE, timesteps.per_frame(uniform, 3), ("1..",))
    assert (np.diff(np.asarray(jax.jit(each.sample)((), KEYS(4), jnp.arange(4))[0])[:, 1:]) != 0).all()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 1)), jnp.float32)
    weighting = weightings.constant(parameterizations.velocity())
    objective = objectives.denoising(parameterizations.x0(), weighting, each)
    wrong = lambda frame: {"model": lambda x_t, t, condition: x.at[:, frame].add(1.0)}
    loss = jax.jit(lambda keys, frame: objective(wrong(frame), SCHEDULE, keys, {"x": x}, 0)[0])
    losses = [loss(KEYS(2), frame) for frame in (0, 1)]
    np.testing.assert_allclose(losses[0], 0, atol=1e-6)
    assert (losses[1] > 0.1).all()


def test_motion_is_the_change_of_a_second():
    clips = jnp.asarray([[0.0, 2, 4], [0, 0, 0]])[..., None]
    np.testing.assert_allclose(videos.motion(clips, rate=8.0), [16, 0])
    # The differences of these bytes, -20, and their squares would wrap.
    np.testing.assert_allclose(videos.motion(10 * clips[:, ::-1].astype(jnp.uint8), rate=8.0), [160, 0])
    np.testing.assert_array_equal(jax.grad(lambda clips: videos.motion(clips).sum())(clips)[1], 0)
    with pytest.raises(ValueError, match=r"motion: clips have the shape \(2, 1, 1\)\. Valid: .* at least 2 frames"):
        videos.motion(clips[:, :1])


def test_bytes_are_no_clips():
    bytes_ = jnp.full((1, 3, 1), 255, jnp.uint8)
    for call in (
        lambda: videos.completing(denoise, SCHEDULE, bytes_, [True, False, False]),
        lambda: videos.rollout(samplers.ddim(), denoise, SCHEDULE, jnp.zeros((1, 2, 1)), PLAN, KEYS(1), bytes_, 4),
    ):
        with pytest.raises(TypeError, match="scaled to"):
            call()


def test_bad_frames_are_refused():
    x = jnp.zeros((2, 3, 1))
    call = lambda given, plan=PLAN, x=x: videos.fill(
        samplers.ddim(), denoise, SCHEDULE, x, plan, KEYS(2), jnp.zeros((2, 3, 1)), given
    )
    up = timesteps.plan(np.array([1.0, 0.5, 1.0]), renoise=[False, True])
    density = timesteps.uniform_density(SCHEDULE)
    for make, message in (
        (
            lambda: call([True, False]),
            r"given must be Bool \[F\], one for each frame of clips \(2, 3, 1\); got shape \(2",
        ),
        (lambda: call([True, False, False], up), "no step of the plan may renoise"),
        (lambda: call([True, False, False], x=x[:, :2]), "with the same shape"),
        (lambda: timesteps.given_pattern("1x."), r"the pattern '1x\.' must have '1' for each"),
        (lambda: timesteps.given_pattern("111"), "at least one"),
        (lambda: timesteps.given_frames(SCHEDULE, density, ("1..", "1.")), "patterns of one length"),
        (lambda: timesteps.given_frames(SCHEDULE, density, ("1..",), (0.5, 0.5)), r"shares = \(0.5, 0.5\)"),
        (
            lambda: videos.rollout(samplers.ddim(), denoise, SCHEDULE, x, PLAN, KEYS(2), x[:, :1], 3),
            "1 makes 2 new frames",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.slow
def test_the_lines_of_the_page_run():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "video.md").read_text()
    part = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]  # the next one needs a published model
    exec(part, {})


def test_a_rollout_of_two_frames_of_several_values_begins_with_them_and_follows_them():
    """The clean estimate is the mean of the given frames, so that every new frame is; there are as many as of noise."""

    def denoise(x, t):
        mean = jnp.broadcast_to(x[:, :2].mean(1, keepdims=True), x.shape)
        return Prediction(mean, jnp.zeros_like(x))

    first = jax.random.normal(jax.random.key(0), (2, 2, 3, 5))
    noise = jax.random.normal(jax.random.key(1), (2, 6, 3, 5))
    clip = videos.rollout(samplers.ddim(), denoise, SCHEDULE, noise, PLAN, KEYS(2), first, window=4)
    assert clip.shape == (2, 8, 3, 5)
    np.testing.assert_array_equal(clip[:, :2], first)
    np.testing.assert_allclose(
        clip[:, 2:], np.repeat(np.mean(first, 1, keepdims=True), 6, axis=1), rtol=1e-4, atol=1e-5
    )


def test_a_rollout_from_memory_hands_each_chunk_to_the_next():
    """Frame k is clean at k above what was there before, whatever the noise."""

    def denoise(last):
        def perfect(x, t):
            x0 = last[:, None] + jnp.arange(1.0, 3.0)[:, None]
            return Prediction(x0, (x - (1 - t) * x0) / t)

        return perfect

    first = jnp.arange(6.0).reshape(2, 3)
    noise = jax.random.normal(jax.random.key(1), (2, 6, 3))
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 2))
    remember = lambda clean, last: clean[:, -1]
    clip = videos.rollout_from_memory(samplers.ddim(), denoise, remember, SCHEDULE, noise, plan, KEYS(2), first, 2)
    np.testing.assert_allclose(clip, first[:, None] + np.arange(1.0, 7.0)[:, None], rtol=1e-5, atol=1e-5)

"""Editing on exact Gaussians: what is known stays exact, what is not comes to follow its conditional law."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import editing, guidance, samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import SCHEDULES, exact_denoiser, level, slow_but

SCHEDULE = SCHEDULES["cosine"]
S = np.array([[1.0, 0.8], [0.8, 1.0]])
DATA = oracles.gaussian([0.3, -0.5], S)
KNOWN = 1.2
# p(b | a = KNOWN) of the two values (a, b).
CONDITIONAL = (-0.5 + 0.8 * (KNOWN - 0.3), 1.0 - 0.8**2)
MASK = jnp.array([True, False])


def _grid(steps):
    """Uniform in log-SNR between sigma / alpha = 20 and 0.02, then 0."""
    return timesteps.uniform_log_snr(SCHEDULE, steps, 0.02, 20.0)


@pytest.mark.parametrize("schedule_name", slow_but([("cosine",)], [("cosine",), ("edm",)]))
def test_what_is_known_has_its_exact_law_at_every_time(schedule_name):
    """q(x_s | x_0) after each step but those that renoise, the data itself at the end; nothing else is touched."""
    schedule = SCHEDULES[schedule_name]
    count = 3000
    plan = timesteps.plan(np.array([0.9, 0.5, 0.7, 0.0]), np.array([False, True, False]))
    known = jnp.full((count, 2), KNOWN)
    x = jnp.full((count, 2), 7.0)
    hook = editing.replacement(schedule, plan, known, MASK)
    alpha, sigma = level(schedule, 0.5)
    out = hook(x, plan.s[0], 0, jax.random.split(jax.random.key(0), count))
    assert scipy.stats.kstest((np.asarray(out[:, 0]) - alpha * KNOWN) / sigma, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(out[:, 1], 7.0)
    np.testing.assert_array_equal(hook(x, plan.s[1], 1, jax.random.split(jax.random.key(0), count)), x)
    end = hook(x, plan.s[2], 2, jax.random.split(jax.random.key(1), count))
    np.testing.assert_array_equal(end, np.tile(np.float32([KNOWN, 7.0]), (count, 1)))


def test_what_is_known_moves_along_the_line_from_one_noise():
    """At the time at which the next step starts, also where a plan leaves a step out; the data itself at the end."""
    plan = timesteps.Plan(np.array([0.9, 0.5, 0.6, 0.2]), np.array([0.7, 0.6, 0.3, 0.1]), np.arange(4) == 1)
    known, noise = jnp.array([[0.3, 0.4]]), jnp.array([[-1.5, 2.0]])
    x = jnp.full((1, 2), 7.0)
    hook = editing.replacement_along(SCHEDULE, plan, known, MASK, noise)
    keys = jax.random.split(jax.random.key(0), 1)
    for i, t in ((0, 0.5), (2, 0.2)):
        alpha, sigma = level(SCHEDULE, t)
        np.testing.assert_allclose(hook(x, plan.s[i], i, keys), [[alpha * 0.3 - sigma * 1.5, 7.0]], rtol=1e-6)
    np.testing.assert_array_equal(hook(x, plan.s[1], 1, keys), x)  # it renoises
    np.testing.assert_array_equal(hook(x, plan.s[3], 3, keys), np.float32([[0.3, 7.0]]))


def _authors_times(steps, jump, resamplings):
    """Levels steps - 1 .. 0, then -1, one level at a time, in the order of the authors' schedule."""
    left = {j: resamplings - 1 for j in range(0, steps - jump, jump)}
    t, times = steps, []
    while t >= 1:
        t -= 1
        times.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            for _ in range(jump):
                t += 1
                times.append(t)
    return [*times, -1]


@pytest.mark.parametrize("steps, jump, resamplings", [(20, 5, 3), (23, 4, 2), (7, 1, 4), (6, 10, 5), (1, 1, 2)])
def test_the_plan_of_repaint_is_the_authors(steps, jump, resamplings):
    grid = np.linspace(1.0, 0.0, steps + 1)
    plan = editing.repaint(grid, jump, resamplings)
    levels = [steps - 1]
    for t, s, renoise in zip(*plan):
        start, end = (steps - 1 - int(np.argmin(np.abs(grid - time))) for time in (t, s))
        assert levels[-1] == start
        levels += range(start + 1, end + 1) if renoise else [end]
        assert end - start == (jump if renoise else -1)
    assert levels == _authors_times(steps, jump, resamplings)
    jumps = max(-(-(steps - jump) // jump), 0)
    assert len(plan.t) == steps + (resamplings - 1) * (jump + 1) * jumps
    assert np.sum(plan.renoise) == (resamplings - 1) * jumps


def test_a_jump_that_no_level_allows_is_said():
    """Of the default jump of 10 levels, for a grid of 10 steps or fewer."""
    grid = np.linspace(1.0, 0.0, 11)
    words = (
        r"repaint: a jump of 10 levels in 10 steps is never made, so resamplings = 4 has no effect\. Valid: .*below 10"
    )
    with pytest.warns(UserWarning, match=words):
        plan = editing.repaint(grid, resamplings=4)
    assert not plan.renoise.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert editing.repaint(grid, 9, resamplings=4).renoise.any()
        editing.repaint(grid, resamplings=1)


def _inpainted(plan, denoise=None, count=4000):
    """The mean and the variance of the value that is not known, over many samples; the other one's deviation."""
    keys = jax.vmap(jax.random.split, out_axes=1)(jax.random.split(jax.random.key(3), count))
    x = samplers.prior(SCHEDULE, keys[0], (2,))
    hook = editing.replacement(SCHEDULE, plan, jnp.full((count, 2), KNOWN), MASK)
    denoise = denoise or exact_denoiser(DATA, SCHEDULE)
    out = samplers.sample(samplers.ddpm(), denoise, SCHEDULE, x, plan, keys[1], after_step=hook)
    return float(out[:, 1].mean()), float(out[:, 1].var()), float(jnp.abs(out[:, 0] - KNOWN).max())


def _errors(*inpainted):
    """Of the mean and the variance; what is known is exact."""
    mean, variance, off = inpainted
    assert off == 0
    return abs(mean - CONDITIONAL[0]), abs(variance - CONDITIONAL[1])


@pytest.mark.slow
def test_repaint_converges_to_the_conditional_law():
    """Replacement alone misses the mean of p(b | a) by 0.27; what is left falls to the chance of 4000 samples, 0.01."""
    errors = [sum(_errors(*_inpainted(editing.repaint(_grid(80), 4, n)))) for n in (1, 4, 16)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.04


def _measured(name, count=4000):
    """Guidance by the value that is known."""
    denoise = exact_denoiser(DATA, SCHEDULE)
    if name == "pseudoinverse":
        measurement = guidance.measurements.masked(MASK)
        return guidance.pseudoinverse(denoise, SCHEDULE, measurement, jnp.full((count, 2), KNOWN), 0.05)
    log_likelihood = guidance.gaussian_likelihood(lambda x0: x0[:, :1], jnp.full((count, 1), KNOWN), 0.7)
    return guidance.posterior_sampling(denoise, SCHEDULE, log_likelihood)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pseudoinverse", "posterior_sampling"])
def test_reconstruction_guidance_mends_replacement(name):
    """With the gradient beside it (MCG), what is not known follows what is: the mean was off by 0.26."""
    plan = timesteps.plan(_grid(60))
    assert _errors(*_inpainted(plan, _measured(name)))[0] < 0.05 < 0.2 < _errors(*_inpainted(plan))[0]


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("ddim",)], [("ddim",), ("ddpm",)]))
def test_sdedit_forgets_the_image_at_one_end_and_returns_it_at_the_other(name):
    schedule = schedules.rectified_flow()
    keys = jax.random.split(jax.random.key(0), 3)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 2)), jnp.float32)
    grid = np.append(timesteps.uniform(schedule, 8)[:-1], [1e-4, 0.0])
    denoise = exact_denoiser(DATA, schedule)
    sampler = getattr(samplers, name)()
    edit = lambda image, t_0: editing.sdedit(sampler, denoise, schedule, image, grid, t_0, keys)
    both = lambda t_0: jax.jit(jax.vmap(lambda image: edit(image, t_0)))(images)
    one, other = both(1.0)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(both(1e-3)[0], images[0], atol=5e-3)
    for t_0 in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"t_0 = {t_0}"):
            edit(images[0], t_0)


def test_sdedit_takes_a_time_of_the_grid_that_is_t_0_but_for_rounding_as_no_step():
    """A step of no length has no second-order term: 1 - 0.8 is 0.2 less one rounding, and gave NaN."""
    images = jnp.ones((2, 2))
    keys = jax.random.split(jax.random.key(0), 2)
    edit = lambda grid: editing.sdedit(
        samplers.dpmpp_2m(), exact_denoiser(DATA, SCHEDULE), SCHEDULE, images, np.array(grid), 0.2, keys
    )
    assert 1 - 0.8 < 0.2
    np.testing.assert_array_equal(edit([1.0, 1 - 0.8, 0.1, 0.05]), edit([1.0, 0.2, 0.1, 0.05]))


def test_sdedit_takes_a_grid_of_integers():
    """One step from t_0 to the data, which is the denoiser's x0: t_0 was rounded to the type of the grid."""
    images, keys = jnp.ones((2, 2)), jax.random.split(jax.random.key(0), 2)
    denoise = lambda x, t: Prediction(jnp.full_like(x, 3.0), x)
    edited = editing.sdedit(samplers.ddim(), denoise, SCHEDULE, images, np.array([1, 0]), 0.5, keys)
    np.testing.assert_allclose(edited, np.full((2, 2), 3.0), rtol=1e-6)


@pytest.mark.extended
def test_sdedit_calls_its_hook_after_each_step():
    """Of three steps below t_0; a denoiser of zeros leaves what the hook adds last."""
    keys, images = jax.random.split(jax.random.key(0), 2), jnp.ones((2, 2))
    hook = lambda x, s, i, keys: x + i + 1
    denoise = lambda x, t: Prediction(0 * x, x)
    edit = lambda hook: editing.sdedit(
        samplers.ddim(), denoise, SCHEDULE, images, np.array([0.9, 0.4, 0.2, 0.0]), 0.6, keys, hook
    )
    np.testing.assert_allclose(edit(hook), 3, atol=1e-6)
    plan = timesteps.plan(np.array([0.4, 0.2, 0.0]))
    x, _ = samplers.sample_with_memory(samplers.ddim(), denoise, SCHEDULE, images, plan, keys, after_step=hook)
    np.testing.assert_allclose(x, 2, atol=1e-6)
    np.testing.assert_allclose(edit(None), 0, atol=1e-6)


@pytest.mark.slow
def test_sdedit_follows_the_flow_from_the_noised_image():
    """The mean over the noise of a Gaussian's flow is the flow of alpha x, which is affine."""
    count, t_0 = 4000, 0.4
    keys = jax.random.split(jax.random.key(0), count)
    image = jnp.tile(jnp.array([1.5, 0.2]), (count, 1))
    grid = np.linspace(1.0, 0.05, 40)
    out = editing.sdedit(samplers.heun(), exact_denoiser(DATA, SCHEDULE), SCHEDULE, image, grid, t_0, keys)
    ends = level(SCHEDULE, t_0), level(SCHEDULE, 0.05)
    exact = oracles.flow(DATA, *ends, ends[0][0] * np.asarray(image[:1]))
    np.testing.assert_allclose(out.mean(0), exact[0], atol=4 / np.sqrt(count))


def test_bytes_are_no_pictures():
    """They would be taken for values in [-1, 1]."""
    picture, plan = jnp.full((1, 2), 255, jnp.uint8), timesteps.plan(np.array([0.5, 0.0]))
    keys = jax.random.split(jax.random.key(0), 1)
    for call in (
        lambda: editing.noised(SCHEDULE, 0.5, picture, keys),
        lambda: editing.replacement(SCHEDULE, plan, picture, MASK),
        lambda: editing.replacement_along(SCHEDULE, plan, picture, MASK, jnp.zeros((1, 2))),
        lambda: editing.sdedit(samplers.ddim(), lambda x, t: x, SCHEDULE, picture, np.array([0.5, 0.0]), 0.5, keys),
    ):
        with pytest.raises(TypeError, match="scaled to"):
            call()


def test_slerp_keeps_the_norm_and_turns_evenly():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4, 3, 5)).astype(np.float32)
    b *= np.linalg.norm(a, axis=(1, 2), keepdims=True) / np.linalg.norm(b, axis=(1, 2), keepdims=True)
    weights = np.float32([0.0, 0.3, 0.5, 1.0])
    out = np.asarray(editing.slerp(jnp.asarray(a), jnp.asarray(b), weights))
    norm = lambda v: np.sqrt((v**2).sum((1, 2)))
    angle = lambda u, v: np.arccos((u * v).sum((1, 2)) / norm(u) / norm(v))
    np.testing.assert_allclose(norm(out), norm(a), rtol=1e-5)
    np.testing.assert_allclose(angle(a, out)[1:], weights[1:] * angle(a, b)[1:], rtol=1e-4)
    np.testing.assert_array_equal(out[0], a[0])
    np.testing.assert_allclose(out[3], b[3], rtol=1e-5, atol=1e-6)
    straight = editing.slerp(jnp.asarray(a), jnp.asarray(2 * a), 0.25)  # no angle between them
    np.testing.assert_allclose(straight, 1.25 * a, rtol=1e-5)


def test_slerp_of_half_precision_is_float32_and_has_a_slope_between_equal_latents():
    a, b = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 40)), jnp.bfloat16)
    p, q = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cosine = (p * q).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(q, axis=1)
    theta = np.arccos(cosine)[:, None]
    expected = (np.sin(0.7 * theta) * p + np.sin(0.3 * theta) * q) / np.sin(theta)
    np.testing.assert_allclose(jax.jit(editing.slerp)(a, b, 0.3), expected, rtol=1e-5, atol=1e-6)
    slope = jax.jit(jax.grad(lambda a, b: editing.slerp(a, b, 0.3).sum(), (0, 1)))
    slopes = slope(jnp.ones((1, 3)), jnp.ones((1, 3)))
    np.testing.assert_allclose(jnp.concatenate(slopes), [[0.7] * 3, [0.3] * 3], rtol=1e-6)


@pytest.mark.slow
def test_outpainting_keeps_the_picture_in_its_place():
    """A wider canvas by windows of the network's size, with the picture where it was put, to the last bit."""
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 1)), jnp.float32)
    canvas, mask = editing.extended(images, ((0, 0), (3, 2)))
    assert canvas.shape == mask.shape == (2, 4, 9, 1)
    np.testing.assert_array_equal(canvas[:, :, 3:7], images)
    assert mask.sum() == images.size and mask[:, :, 3:7].all()
    sizes = set()

    def denoise(x, t):
        sizes.add(x.shape)
        variance = SCHEDULE.alpha(t) ** 2 + SCHEDULE.sigma(t) ** 2
        return Prediction(SCHEDULE.alpha(t) * x / variance, SCHEDULE.sigma(t) * x / variance)

    keys = jax.random.split(jax.random.key(0), 2)
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 3))
    out = samplers.sample(
        samplers.ddim(),
        guidance.windows(denoise, (4, 4), (2, 2)),
        SCHEDULE,
        samplers.prior(SCHEDULE, keys, (4, 9, 1)),
        plan,
        keys,
        after_step=editing.replacement(SCHEDULE, plan, canvas, mask),
    )
    np.testing.assert_array_equal(out[:, :, 3:7], images)
    assert np.isfinite(out).all() and sizes == {(2, 4, 4, 1)}


def test_prompt_to_prompt_borrows_maps_at_early_steps_alone():
    """Edits borrow from their own source, in the layers that are named, alone or with a null condition in one call."""
    seen = []

    def network(x, clock, condition):
        seen.append(np.asarray(condition["borrow"]))
        return x

    condition = editing.borrowing(jnp.array([1, 2]), jnp.array([3, 4]), depth=3, layers=(0, 2))
    np.testing.assert_array_equal(condition["label"], [1, 2, 3, 4])
    borrow = np.array([[0, 0, 0], [0, 0, 0], [-2, 0, -2], [-2, 0, -2]])
    x = jnp.zeros((4, 1, 1, 1))
    evaluate = editing.prompt_to_prompt(lambda network: lambda x, t: network(x, t, condition), network, until=0.6)
    for t in (0.6, 0.59, jnp.array([0.9, 0.1, 0.9, 0.1])):
        evaluate(x, t)
    np.testing.assert_array_equal(seen, [borrow, 0 * borrow, borrow * np.array([[1], [0], [1], [0]])])
    repeat = lambda a: jnp.concatenate([a, a])
    twice = editing.prompt_to_prompt(
        lambda network: lambda x, t: network(repeat(x), repeat(t), jax.tree.map(repeat, condition)), network, until=0.6
    )
    twice(x, jnp.array([0.9, 0.1, 0.9, 0.1]))
    np.testing.assert_array_equal(seen[-1], np.tile(borrow * np.array([[1], [0], [1], [0]]), (2, 1)))


@pytest.mark.parametrize(
    "targets, layers, words",
    [
        ([3, 4], (0, 3), r"layers = \(0, 3\) has 3\. Valid: 0 \.\. 2"),
        ([3, 4], (-1,), r"layers = \(-1,\) has -1\. Valid: 0 \.\. 2"),
        ([3], (0,), r"2 sources and 1 targets\. Valid: as many of both"),
    ],
)
def test_layers_and_edits_that_are_not_there_borrow_nothing(targets, layers, words):
    with pytest.raises(ValueError, match=words):
        editing.borrowing(jnp.array([1, 2]), jnp.array(targets), depth=3, layers=layers)


def test_a_canvas_is_known_where_its_picture_is():
    """One column on the left and two on the right of 2 x 3 pixels; the channels are as they were."""
    images = jnp.arange(1.0, 13.0).reshape(1, 2, 3, 2)
    canvas, known = editing.extended(images, ((0, 0), (1, 2)))
    expected = np.zeros((1, 2, 6, 2))
    expected[:, :, 1:4] = images
    np.testing.assert_array_equal(canvas, expected)
    np.testing.assert_array_equal(known, expected > 0)


def test_the_steps_left_of_a_plan_that_goes_back_to_noise_still_do():
    """Along 1, 3/4, 1/2, 3/4, 1/2, 1/4, 0 the third step draws noise; resampled once more it would have no order."""
    plan = timesteps.plan([1.0, 0.75, 0.5, 0.75, 0.5, 0.25, 0.0], [False, False, True, False, False, False])
    left = editing.repaint_quarters(plan, 1, 1)
    np.testing.assert_array_equal(left.t, [0.75, 0.5, 0.75, 0.5, 0.25])
    np.testing.assert_array_equal(left.s, [0.5, 0.75, 0.5, 0.25, 0.0])
    np.testing.assert_array_equal(left.renoise, [False, True, False, False, False])
    with pytest.raises(ValueError, match=r"resamplings = 2: the plan goes back to noise itself\. Valid: 1"):
        editing.repaint_quarters(plan, 0, 2)

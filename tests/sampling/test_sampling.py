"""The sampling engine: in which order it puts a network's parts together, what it marks, batches and counts."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import caching, guidance, parameterizations, samplers, sampling, schedules, timesteps
from diffusion.parameterizations import Prediction
from diffusion.sampling.watermarks import Watermark

SCHEDULE = schedules.rectified_flow()
TO = (SCHEDULE, parameterizations.velocity())
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
NETWORK = lambda x, clock, condition: condition[:, None] + 0 * x  # a velocity eps - x_0 that is the condition


def velocity(denoise, t=0.5):
    prediction = denoise(X, t)
    return np.asarray(prediction.eps - prediction.x0)[:, 0]


def test_without_guidance_it_is_the_denoiser_of_the_only_condition():
    np.testing.assert_allclose(velocity(sampling.denoiser(NETWORK, *TO, (jnp.array([1.0, 2.0]),))), [1, 2], rtol=1e-5)


def test_guidance_combines_the_branches_and_changes_follow_in_their_order():
    """u + 3 (c - u) = 4 + 3 (1 - 4) = -5; twice that and one more."""
    twice = lambda denoise: lambda x, t: Prediction(*(2 * part for part in denoise(x, t)[:2]))
    one_more = lambda denoise: lambda x, t: denoise(x, t)._replace(eps=denoise(x, t).eps + 1)
    conditions = (jnp.full(2, 1.0), jnp.full(2, 4.0))
    guide = lambda branches: guidance.classifier_free(branches, 3.0)
    np.testing.assert_allclose(velocity(sampling.denoiser(NETWORK, *TO, conditions, guide)), -5, rtol=1e-5)
    changed = sampling.denoiser(NETWORK, *TO, conditions, guide, changes=(twice, one_more))
    np.testing.assert_allclose(velocity(changed), -9, rtol=1e-5)


def test_conditions_may_depend_on_the_time():
    denoise = sampling.denoiser(NETWORK, *TO, lambda x, t: (jnp.full(len(x), 10 * t),))
    assert [velocity(denoise, t)[0] for t in (0.2, 0.7)] == pytest.approx([2, 7], rel=1e-5)


def test_a_guidance_with_memory_takes_conditions_that_depend_on_the_time():
    """Conditions that do not change give the same by a function of the time."""
    conditions = (jnp.full(2, 1.0), jnp.full(2, 4.0))
    guide = lambda branches: guidance.adaptive_projected(branches, SCHEDULE, 3.0, eta=1.0, momentum=-0.5)
    plan, keys = timesteps.plan(np.array([1.0, 0.6, 0.3, 0.0])), jax.random.split(jax.random.key(0), 2)
    ends = [
        sampling.samples(samplers.euler(), sampling.denoiser(NETWORK, *TO, given, guide), SCHEDULE, X, plan, keys)[0]
        for given in (conditions, lambda x, t: conditions)
    ]
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6)
    assert np.abs(ends[0] - (X + 5)).max() > 0.1  # where it ends without momentum


def test_a_cache_refuses_a_denoiser_that_is_moved():
    with pytest.raises(TypeError, match="cache needs a denoiser whose x0 and eps satisfy alpha x0"):
        sampling.denoiser(NETWORK, *TO, (X[:, 0],), changes=(guidance.Unpaired,), cache=caching.first_block(0.1))


def test_noise_is_marked_on_the_scale_of_the_unit_normal():
    """VE noise of standard deviation 50: the mark adds one to unit noise, and so 50."""
    mark = Watermark("noise", lambda x, keys: x + keys, lambda x: None)
    process = schedules.variance_exploding(0.01, 50.0)
    np.testing.assert_allclose(sampling.marked(mark, "noise", X, 1.0), X + 1, rtol=1e-6)
    np.testing.assert_allclose(sampling.marked(mark, "noise", X, 1.0, process), X + 50, rtol=1e-5)
    assert sampling.marked(mark, "pictures", X) is X and sampling.marked(None, "noise", X) is X


def test_samples_follow_the_driver_or_the_plan_with_its_hook():
    plan, keys = timesteps.plan(np.array([1.0, 0.5, 0.0])), jax.random.split(jax.random.key(0), 2)
    denoise = sampling.denoiser(NETWORK, *TO, (jnp.full(2, 3.0),))  # dx/dt = 3
    arguments = (samplers.euler(), denoise, SCHEDULE, X, plan, keys)
    x, work = sampling.samples(*arguments)
    np.testing.assert_allclose(x, X - 3, atol=1e-5)
    assert work is None
    hooked, _ = sampling.samples(*arguments, after_step=lambda x, s, i, keys: x + 10)
    np.testing.assert_allclose(hooked, X - 3 + 20, atol=1e-5)
    driven, work = sampling.samples(*arguments, driver=lambda **given: given["x"] * len(given["plan"].t))
    np.testing.assert_array_equal(driven, 2 * X)
    assert work is None


def test_batches_have_one_size_and_their_work_adds_up():
    sizes, done = [], []

    def program(rows):
        sizes.append(len(rows["a"]))
        return 10 * rows["a"], caching.Work(jnp.int32(3), jnp.int32(2))

    made, work = sampling.in_batches(program, {"a": np.arange(5)}, 2, done.append)
    np.testing.assert_array_equal(made, 10 * np.arange(5))
    assert (sizes, done, list(work)) == ([2, 2, 2], [2, 4, 5], [9, 6])
    _, nothing = sampling.in_batches(lambda rows: (rows, None), np.arange(3), 2)
    assert list(nothing) == [0, 0]
    sizes.clear()
    one_by_one = sampling.batches(program, {"a": np.arange(3)}, 2)
    first, counts = next(one_by_one)
    assert (list(first), list(counts), sizes) == ([0, 10], [3, 2], [2])  # the second has not been generated
    assert [(list(part), list(counts)) for part, counts in one_by_one] == [([20], [3, 2])]


@pytest.mark.parametrize("work, nfe, share", [
    ((0, 0), 10, None),
    ((40, 10), 10, 0.0),
    ((10, 10), 10, 0.75),
    ((10, 10), 20, 0.375),  # the second evaluation of each step ran whole
])  # fmt: skip
def test_the_share_of_blocks_that_a_cache_left_out(work, nfe, share):
    network = types.SimpleNamespace(feature_blocks=4)
    sampler, plan = types.SimpleNamespace(nfe=lambda steps: nfe), types.SimpleNamespace(solved=10)
    assert sampling.skipped(work, network, sampler, plan) == share

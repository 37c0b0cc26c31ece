"""Which blocks run under each cache, and what stands in for them: beside plain restatements of the published rules."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import caching, guidance, parameterizations, samplers, schedules, timesteps
from diffusion.models.jit import JiT
from diffusion.models.unet import UNet
from diffusion.parameterizations import Prediction

SCHEDULE = schedules.rectified_flow()
STEPS = 12
SIGNS = np.array([1.0, 1.02, 1.04, 1.2, 1.21, 1.22, 1.5, 1.51, 1.7, 1.71, 1.72, 1.73])  # of the first block, by step
ADDED = np.array([3.0, 3.1, 3.3, 3.4, 3.6, 3.9, 4.0, 4.4, 4.5, 4.7, 5.0, 5.4])  # by the other blocks
STARTS = np.arange(1.0, STEPS + 1) % 5 / 4  # of what the first block reads
READ = np.array([2.0, 2.1, 2.3, 2.4, 2.8, 2.9, 3.0, 3.05, 3.5, 3.6, 3.8, 3.9])  # by the first block


@dataclasses.dataclass
class Made:
    """A network of four blocks, of which the first adds sign and the others added / 3 each: arrays [B]."""

    start: jax.Array
    sign: jax.Array
    added: jax.Array
    read: jax.Array
    ran: list
    length: int = 4
    features = staticmethod(lambda carry: carry)

    def run(self, carry, first, last):
        jax.debug.callback(lambda: self.ran.append(range(first, last)))
        own = [self.sign, *[self.added / 3] * 3]
        return carry + sum(own[first:last])[:, None, None]

    def attended(self):
        return jnp.broadcast_to(self.read[:, None, None], self.start.shape)


def _call(i, ran, rows=(0,), added=ADDED, starts=0 * STARTS):
    """The call of the network in step i: what a row b adds is that of step i + rows[b]."""
    at = jnp.minimum(i + jnp.asarray(rows), STEPS - 1)
    of = lambda series: jnp.asarray(series, jnp.float32)[at]
    start = jnp.broadcast_to(of(starts)[:, None, None], (len(rows), 2, 3))
    blocks = Made(start, of(SIGNS), of(added), of(READ), ran)
    return lambda through: through(blocks)


def _trajectory(cache, rows=(0,), added=ADDED):
    """Per step: what the blocks add to their start [steps, B], whether blocks after the first ran, and how many did."""
    ran = []
    memory = jax.tree.map(jnp.zeros_like, cache.memory(_call(0, [], rows)))
    step = jax.jit(lambda memory, i: cache.apply(memory, _call(i, ran, rows, added, STARTS)))
    outputs, whole, numbers = [], [], []
    for i in range(STEPS):
        ran.clear()
        output, memory, number = step(memory, i)
        jax.effects_barrier()
        outputs.append(np.asarray(output)[:, 0, 0] - STARTS[np.minimum(i + np.array(rows), STEPS - 1)])
        numbers.append(int(number))
        assert sum(map(len, ran)) == int(number)  # what it reports is what has run
        if any(blocks.stop == 4 for blocks in ran):
            whole.append(i)
    return np.array(outputs), whole, numbers


def _first_block(threshold):
    """diffusers' FBCHeadBlockHook on the same numbers."""
    whole, outputs, sign, residual = [], [], None, None
    for i in range(STEPS):
        if sign is None or abs(SIGNS[i] - sign) / abs(sign) > threshold:
            whole.append(i)
            sign, residual = SIGNS[i], ADDED[i]
        outputs.append(SIGNS[i] + residual)
    return outputs, whole


def _tea_cache(threshold, coefficients):
    """The authors' teacache_forward on the same numbers."""
    whole, outputs, distance = [], [], 0.0
    for i in range(STEPS):
        if i in (0, STEPS - 1):
            distance, runs = 0.0, True
        else:
            distance += np.poly1d(coefficients)(abs(READ[i] - READ[i - 1]) / abs(READ[i - 1]))
            runs = distance >= threshold
        if runs:
            distance = 0.0
            whole.append(i)
            residual = SIGNS[i] + ADDED[i]
        outputs.append(residual)
    return outputs, whole


def _mag_cache(threshold, ratios, keep, longest):
    """The authors' magcache_forward on the same numbers."""
    whole, outputs, ratio, error, skipped = [], [], 1.0, 0.0, 0
    for i in range(STEPS):
        skip = False
        if i >= int(keep * STEPS + 0.5):
            ratio *= ratios[i]
            skipped += 1
            error += abs(1 - ratio)
            if error <= threshold and skipped <= longest:
                skip = True
            else:
                ratio, skipped, error = 1.0, 0, 0.0
        if not skip:
            whole.append(i)
            residual = SIGNS[i] + ADDED[i]
        outputs.append(residual)
    return outputs, whole


RATIOS = (1.0, 1.3, 1.2, 1.1, 1.02, 1.01, 1.0, 0.99, 1.01, 0.98, 0.9, 0.8)


@pytest.mark.parametrize(
    "cache, expected, skipped",
    [
        (caching.first_block(0.05), _first_block(0.05), 1),
        (caching.tea_cache(0.3, (2.0, 1.0, 0.01), steps=STEPS), _tea_cache(0.3, (2.0, 1.0, 0.01)), 0),
        (caching.mag_cache(0.06, RATIOS, 0.25, 2), _mag_cache(0.06, RATIOS, 0.25, 2), 0),
    ],
    ids=["first_block", "tea_cache", "mag_cache"],
)
def test_a_residual_cache_runs_the_blocks_when_the_published_rule_does(cache, expected, skipped):
    outputs, whole, numbers = _trajectory(cache)
    assert whole == expected[1] and 2 < len(whole) < STEPS - 2
    assert numbers == [4 if i in whole else skipped for i in range(STEPS)]
    np.testing.assert_allclose(outputs[:, 0], expected[0], rtol=1e-6)


def test_a_batch_runs_whole_when_one_of_its_rows_does_and_each_row_keeps_its_own():
    """Row 1 is a step ahead: the batch runs at the steps of both, and each row adds its own last residual."""
    outputs, whole, _ = _trajectory(caching.first_block(0.05), rows=(0, 1))
    signs = np.stack([SIGNS, SIGNS[np.minimum(np.arange(STEPS) + 1, STEPS - 1)]], axis=1)
    added = np.stack([ADDED, ADDED[np.minimum(np.arange(STEPS) + 1, STEPS - 1)]], axis=1)
    expected, last = [], None
    for i in range(STEPS):
        if last is None or (abs(signs[i] - signs[last]) / signs[last] > 0.05).any():
            last = i
            expected.append(i)
        np.testing.assert_allclose(outputs[i], signs[i] + added[last], rtol=1e-6)
    assert whole == expected


def test_tea_cache_runs_a_batch_whole_when_the_change_of_one_of_its_rows_is_large():
    """By hand: row 1 is a step ahead, and each row's change since the last whole step is a sum of its own."""
    _, whole, _ = _trajectory(caching.tea_cache(0.15), rows=(0, 1))
    changes = np.append(np.diff(READ) / READ[:-1], 0.0)  # of row 1 in step i, and of row 0 in step i + 1
    expected, distances = [0], np.zeros(2)
    for i in range(1, STEPS):
        distances = distances + (changes[i - 1], changes[i])
        if distances.max() >= 0.15:
            distances = np.zeros(2)
            expected.append(i)
    assert whole == expected and 2 < len(whole) < STEPS


def test_taylor_seer_forecasts_a_linear_residual_exactly_and_runs_at_its_steps():
    added = 5.0 + 0.25 * np.arange(STEPS) - SIGNS  # the whole residual is linear in the step
    outputs, whole, _ = _trajectory(caching.taylor_seer(4, order=1, first=2), added=added)
    held, _, _ = _trajectory(caching.taylor_seer(4, order=0, first=2), added=added)
    assert whole == [0, 1, 5, 9]
    np.testing.assert_allclose(outputs[:, 0], 5.0 + 0.25 * np.arange(STEPS), rtol=1e-6)
    np.testing.assert_allclose(held[:, 0], 5.0 + 0.25 * np.array([0, 1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9]), rtol=1e-6)


def test_taylor_seer_divides_the_differences_by_the_steps_between():
    """Order 2: the factors by hand, of F at the steps 0, 1 and 4 (interval 3 after a first part of 2)."""
    F = SIGNS + ADDED
    first = F[1] - F[0]
    second = (F[4] - F[1]) / 3
    expected = [F[4] + k * second + k**2 / 2 * (second - first) / 3 for k in (1, 2)]
    outputs, whole, _ = _trajectory(caching.taylor_seer(3, order=2, first=2))
    assert whole == [0, 1, 4, 7, 10]
    np.testing.assert_allclose(outputs[5:7, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(outputs[2:4, 0], [F[1] + k * first for k in (1, 2)], rtol=1e-6)


@pytest.mark.parametrize("interval", [2, 3, 4])
def test_deep_cache_runs_whole_every_interval_and_reuses_the_deep_features_between(interval):
    """A network whose output is a shallow part of the step plus deep features, which are those of the step itself."""

    def call(i):
        def network(branch, deep=None):
            features = added[i] * jnp.ones((1, 2)) if deep is None else deep
            seen = SimpleNamespace(features=features, run=7 if deep is None else 3)
            return signs[i] + branch + features, seen

        return network

    signs = jnp.asarray(SIGNS, jnp.float32)
    added = jnp.asarray(ADDED, jnp.float32)
    cache = caching.deep_cache(interval, branch=1)
    memory = jax.tree.map(jnp.zeros_like, cache.memory(call(0)))
    step = jax.jit(lambda memory, i: cache.apply(memory, call(i)))
    for i in range(STEPS):
        output, memory, run = step(memory, i)
        np.testing.assert_allclose(output, SIGNS[i] + 1 + np.full((1, 2), ADDED[i // interval * interval]), rtol=1e-6)
        assert int(run) == (3 if i % interval else 7)


def test_the_measures_of_a_trajectory_are_its_ratios_and_its_changes():
    cache = caching.measured(STEPS)
    memory = jax.tree.map(jnp.zeros_like, cache.memory(_call(0, [])))
    step = jax.jit(lambda memory, i: cache.apply(memory, _call(i, []))[1])
    for i in range(STEPS):
        memory = step(memory, i)
    F = SIGNS + ADDED
    np.testing.assert_allclose(memory.ratios, [1, *(F[1:] / F[:-1])], rtol=1e-6)
    np.testing.assert_allclose(memory.read, [0, *(READ[1:] / READ[:-1] - 1)], rtol=1e-4)
    np.testing.assert_allclose(memory.output, [0, *(F[1:] / F[:-1] - 1)], rtol=1e-4)
    exact = memory._replace(output=3 * memory.read**2 - memory.read + 0.5)
    np.testing.assert_allclose(caching.fitted(exact, degree=2), (3, -1, 0.5), rtol=1e-3)
    apart = exact._replace(output=exact.output.at[0].set(9.0))  # no step before it: it is not fitted
    np.testing.assert_allclose(caching.fitted(apart, degree=2), (3, -1, 0.5), rtol=1e-3)
    least = exact._replace(read=memory.read[:4], output=exact.output[:4])  # three changes decide a parabola
    np.testing.assert_allclose(caching.fitted(least, degree=2), (3, -1, 0.5), rtol=1e-3)
    assert caching.fitted(exact, degree=4) == caching.fitted(exact)
    few = exact._replace(read=memory.read[:3], output=memory.output[:3])
    with pytest.raises(ValueError, match="degree 2 needs at least 4 steps; got 3"):
        caching.fitted(few, degree=2)


def test_a_network_that_offers_something_else_is_refused_with_what_offers_it():
    cache = caching.measured(STEPS)
    for offered, message in [
        ((), r"needs a network that offers blocks \(most transformers do\); this network offers nothing"),
        (("deep",), r"needs a network that offers blocks \(most transformers do\); this network offers its deep"),
    ]:
        with pytest.raises(ValueError, match=message):
            cache.check(offered)
    notes = cache._replace(reads="notes")
    with pytest.raises(ValueError, match="needs a network that offers notes; this network offers its blocks, deep"):
        notes.check(("blocks", "deep"))
    cache.check(("deep", "blocks"))
    notes._replace(idle=True).check(())


def test_ratios_are_those_of_the_steps_that_a_part_of_a_trajectory_takes():
    """From step 6 on and once more: the ratios 0.99 and 1.01 are skipped, the third in a row, 0.9 and 0.8 run."""
    part = tuple(range(6, STEPS))
    _, whole, _ = _trajectory(caching.mag_cache(0.06, RATIOS, 0.25, 2, at=(part, part)))
    assert whole == [0, 3, 4, 5, 6, 9, 10, 11]


@pytest.mark.parametrize("whole", [2, STEPS])
def test_an_evaluation_takes_the_nearest_of_fewer_or_more_ratios(whole):
    ratios = np.array([1.0, 1.04, 0.8, 0.97, 1.01])
    nearest = [ratios[np.abs(np.arange(5) / 4 - i / (whole - 1)).argmin()] for i in range(whole)]
    cache = caching.mag_cache(0.06, ratios, 0.3, 2, whole=whole, at=(range(whole),))
    first = 4 if whole == STEPS else 1  # 3.6 and 0.6 are rounded
    error, product, expected = 0.0, 1.0, [*range(first)]
    for i in range(first, whole):
        product *= nearest[i]
        error += abs(1 - product)
        if error > 0.06:
            error, product = 0.0, 1.0
            expected.append(i)
    assert [i for i in _trajectory(cache)[1] if i < whole] == expected


def test_a_trajectory_of_one_evaluation_runs_it():
    assert 0 in _trajectory(caching.mag_cache(0.5, (1.0, 1.0), 0.0, 99, whole=1))[1]


def test_times_that_come_back_count_once_in_the_whole_trajectory():
    plan = timesteps.plan(np.array([1.0, 0.6, 0.3, 0.9, 0.6, 0.5, 0.0]), renoise=np.arange(6) == 2)
    of = caching.evaluations(plan)
    assert (of["steps"], of["whole"], of["at"][0]) == (5, 3, (0.0, 1.0))  # 1.0, 0.6 and 0.5
    np.testing.assert_allclose(of["at"][1], (0.25, 1, 2), atol=1e-6)


def test_the_memory_has_the_shapes_of_the_calls_that_it_remembers():
    seen = []

    def network(x, clock, condition, through=None):
        seen.append((x.shape, clock.shape, condition.shape))
        blocks = Made(x, clock, clock, clock, [])
        return through(blocks) if through else blocks.run(x, 0, 4)

    condition = jnp.zeros((2, 5))
    make = lambda network: parameterizations.denoiser(network, *TO, condition)
    denoise = caching.cached(make, network, caching.first_block(0.1))
    memory = jax.eval_shape(denoise.init, X)
    after = jax.eval_shape(lambda memory: denoise.apply(memory, X, 0.5)[1], memory)
    assert set(seen) == {(X.shape, (2,), (2, 5))}
    assert jax.tree.map(lambda leaf: leaf.shape, memory) == jax.tree.map(lambda leaf: leaf.shape, after)


def test_evaluations_lie_where_their_times_do_in_the_whole_trajectory():
    whole = timesteps.plan(np.array([1.0, 0.75, 0.5, 0.25, 0.0]))
    again = timesteps.plan(np.array([0.75, 0.5, 0.7, 0.5, 0.25, 0.0]), renoise=np.arange(5) == 1)
    assert caching.evaluations(whole) == {"steps": 4, "whole": 4, "at": ((0.0, 1.0, 2.0, 3.0),)}
    of = caching.evaluations(again, whole)
    assert (of["steps"], of["whole"], of["at"][0]) == (4, 4, (1.0,))
    np.testing.assert_allclose(of["at"][1], (1.2, 2, 3))
    assert caching.evaluations(again)["whole"] == 4  # 0.75, 0.7, 0.5 and 0.25


# ==== Denoisers ====

KEYS = jax.random.split(jax.random.key(0), 2)
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 3)), jnp.float32)
PLAN = timesteps.plan(timesteps.uniform(SCHEDULE, steps=8))
LABELS = jnp.array([1.0, 2.0])


def _network(ran):
    """Blocks on tokens x [B, 2, 3] with a condition [B]: the first adds x / 4, the others a share of its tanh."""

    def network(x, clock, condition, through=None):
        class Own(Made):
            def run(self, carry, first, last):
                jax.debug.callback(lambda: ran.append(range(first, last)))
                for i in range(first, last):
                    carry = carry + (x / 4 if i == 0 else jnp.tanh(carry * condition[:, None, None]) / 8)
                return carry

        blocks = Own(x, None, None, clock[:, None, None] * jnp.ones_like(x), ran)
        blocks.attended = lambda: x + clock[:, None, None]
        if through is None:
            return blocks.run(x, 0, 4)
        return through(blocks)

    return network


def _make(*to):
    def make(network):
        conditions = (LABELS, jnp.zeros(2))
        return guidance.classifier_free(guidance.together(network, *to, conditions), 2.0)

    return make


TO = (SCHEDULE, parameterizations.velocity())


def _sampled(denoise, sampler=None, plan=PLAN):
    run = lambda x: samplers.sample_with_memory(sampler or samplers.ddim(), denoise, SCHEDULE, x, plan, KEYS)
    return jax.jit(run)(X)


def test_a_cache_that_skips_nothing_leaves_the_program_as_it_is():
    make = _make(*TO)
    text = lambda denoise: jax.jit(lambda x: denoise(x, 0.5)).lower(X).as_text()
    plain = lambda x, clock, condition: jnp.tanh(x) * condition[:, None, None]
    for cache in (
        caching.first_block(0.0),
        caching.tea_cache(0.0),
        caching.mag_cache(0.0, RATIOS),
        caching.taylor_seer(1),
        caching.deep_cache(1),
    ):
        assert text(caching.cached(make, plain, cache)) == text(make(plain))


@pytest.mark.slow
@pytest.mark.parametrize("cache", [caching.first_block(1e-30), caching.tea_cache(1e-30), caching.taylor_seer(99, 0, 8)])
def test_a_cache_that_never_agrees_to_skip_has_the_plain_trajectory(cache):
    """Bit for bit where each operation is a program of its own; two compiled programs may round otherwise."""
    plan = timesteps.plan(np.array([0.9, 0.6, 0.1]))
    with jax.disable_jit():
        x, memory = _sampled(caching.cached(_make(*TO), _network([]), cache), plan=plan)
        plain, _ = _sampled(_make(*TO)(_network([])), plan=plan)
    np.testing.assert_array_equal(x, plain)
    assert (int(memory.work.run), int(memory.work.evaluations)) == (2 * 4, 2)


def test_what_is_skipped_does_not_run_and_is_counted():
    ran = []
    x, memory = _sampled(caching.cached(_make(*TO), _network(ran), caching.taylor_seer(3, first=2)))
    jax.effects_barrier()
    assert sum(map(len, ran)) == int(caching.work(memory).run) == 4 * 4  # the steps 0, 1, 4 and 7 of 8
    plain, _ = _sampled(_make(*TO)(_network([])))
    assert 1e-5 < float(jnp.abs(x - plain).max()) < 0.1


@pytest.mark.slow
def test_a_trajectory_of_deep_cache_through_a_unet_is_its_steps_by_hand():
    """Each third step whole, and between them the outer blocks on the deep features that it left."""
    rng = np.random.default_rng(0)
    module = UNet((8, 16), 1, (1,), in_channels=2, out_channels=2, groups=4, heads=2)
    x = jnp.asarray(rng.standard_normal((2, 4, 4, 2)), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(2))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32) / 4, shapes)
    network = jax.jit(
        lambda x, clock, condition, **more: module.apply(params, x, clock, **more), static_argnames=("branch",)
    )
    make = lambda network: parameterizations.denoiser(network, *TO)

    def sampled(cache):
        denoise = make(network) if cache is None else caching.cached(make, network, cache)
        run = lambda x: samplers.sample_with_memory(samplers.ddim(), denoise, SCHEDULE, x, PLAN, KEYS)
        return jax.jit(run)(x)

    plain, _ = sampled(None)
    whole, memory = sampled(caching.deep_cache(1, branch=1)._replace(idle=False))
    np.testing.assert_allclose(whole, plain, rtol=1e-5, atol=1e-5)
    assert int(memory.work.run) == 8 * 7
    some, memory = sampled(caching.deep_cache(3, branch=1))
    assert int(memory.work.run) == 3 * 7 + 5 * 3  # the steps 0, 3 and 6 of 8
    for i, (t, s) in enumerate(zip(PLAN.t, PLAN.s)):
        clock = jnp.full(2, t, jnp.float32)
        if i % 3 == 0:
            v, seen = network(x, clock, None, branch=1)
        else:
            v, _ = network(x, clock, None, branch=1, deep=seen.features)
        x = x + (s - t) * v
    np.testing.assert_allclose(some, x, rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(some - plain).max()) > 1e-2


@pytest.mark.slow
def test_a_jits_blocks_are_cached_beside_their_class_tokens():
    """The memory has the shapes of what the first block reads, with tokens of the class, and of the picture's alone."""
    module = JiT(2, 16, 1, 2, 3, class_tokens=2, class_start=0)
    x, labels = jnp.zeros((2, 4, 4, 1)), jnp.array([1, 2])
    params = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(2), labels)

    def denoised(params, x):
        network = lambda *inputs, **more: module.apply(params, *inputs, **more)
        make = lambda network: parameterizations.denoiser(network, *TO, labels)
        denoise = caching.cached(make, network, caching.tea_cache(0.1))
        memory = denoise.init(x)
        return memory, denoise.apply(memory, x, 0.5)[1]

    first, new = jax.eval_shape(denoised, params, x)
    assert first.calls == new.calls
    assert (new.calls[0].sign.shape, new.calls[0].residual.shape) == ((2, 6, 16), (2, 4, 16))


def test_branches_that_are_called_one_by_one_have_memories_of_their_own():
    """The second network is a constant, whose blocks rest after the first step; the first one's change too much."""
    first, second = [], []
    of = lambda network, condition: parameterizations.denoiser(network, *TO, condition)

    def make(network):
        quiet = lambda x, clock, condition, **more: network(jnp.ones_like(x), jnp.ones(2), condition, **more)
        both = guidance.separately(of(network, LABELS), of(quiet, jnp.zeros(2)))
        return guidance.classifier_free(both, 2.0)

    def network(x, clock, condition, through=None):
        return _network(second if condition is not LABELS else first)(x, clock, condition, through)

    _, memory = _sampled(caching.cached(make, network, caching.first_block(1e-3)))
    jax.effects_barrier()
    assert len(memory.calls) == 2 and int(memory.work.evaluations) == 16
    assert sum(map(len, first)) == 8 * 4 and sum(map(len, second)) == 4 + 7 * 1
    assert int(memory.work.run) == 8 * 4 + 4 + 7


@pytest.mark.parametrize(
    "sampler", [samplers.ddim(), pytest.param(samplers.heun(), marks=pytest.mark.extended)], ids=["ddim", "heun"]
)
def test_a_guidance_with_memory_keeps_its_own_beside_the_caches(sampler):
    """Heun's second evaluation of a step reads the memory of the guidance too."""

    def make(network):
        both = guidance.together(network, *TO, (LABELS, jnp.zeros(2)))
        return guidance.adaptive_projected(both, SCHEDULE, 3.0, momentum=-0.5)

    x, memory = _sampled(caching.cached(make, _network([]), caching.first_block(1e-30)), sampler)
    plain, own = _sampled(make(_network([])), sampler)
    np.testing.assert_allclose(x, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(memory.denoiser, own, rtol=1e-5, atol=1e-6)


def test_what_a_denoiser_and_a_cache_carry_over_a_renoised_step_is_theirs_to_say():
    """The memory of both is a count. Without `again` it begins anew, and without `later` a denoiser's is only read."""
    cache = caching.Cache(lambda call: jnp.zeros(()), lambda memory, call: (call(), memory + 1, jnp.int32(1)), "blocks")
    scaled = lambda count, x: Prediction(count * x, count * x)
    negated, raised = lambda count, x, t: scaled(-count, x), lambda count, x: count + 2.0
    network = lambda x, clock, condition: x
    for later, again, factor, count in ((negated, raised, -3, 5), (None, None, 3, 0)):

        def make(network, later=later, again=again):
            apply = lambda steps, x, t: (scaled(steps, network(x, t, None)), steps + 1)
            return guidance.Memory(lambda x: jnp.zeros(()), apply, later, again)

        denoise = caching.cached(make, network, cache._replace(again=again))
        memory = denoise.init(X)._replace(denoiser=jnp.float32(3), calls=(jnp.float32(3),))
        carried = denoise.again(memory, X)
        assert float(carried.denoiser) == float(carried.calls[0]) == count
        np.testing.assert_array_equal(denoise.later(memory, X, 0.5).x0, factor * X)
    plain = caching.cached(lambda network: lambda x, t: scaled(2.0, network(x, t, None)), network, cache)
    assert plain.again(plain.init(X), X).denoiser == ()
    np.testing.assert_array_equal(plain.later(plain.init(X), X, 0.5).x0, 2 * X)


@pytest.mark.extended
def test_what_a_guidance_with_memory_does_later_and_after_noise_it_does_beside_a_cache():
    """It counts its steps, scales its prediction by them, and has another one for Heun's second evaluation."""

    def make(network):
        denoise = parameterizations.denoiser(network, *TO, LABELS)
        scaled = lambda by, x_t, t: jax.tree.map(lambda leaf: by * leaf, denoise(x_t, t))
        return guidance.Memory(
            lambda x: jnp.ones(()),
            lambda steps, x_t, t: (scaled(steps, x_t, t), steps + 0.25),
            lambda steps, x_t, t: scaled(-steps, x_t, t),
            lambda steps, x: steps + 2,
        )

    renoised = PLAN._replace(renoise=np.arange(8) == 3, s=np.where(np.arange(8) == 3, PLAN.t, PLAN.s))
    x, memory = _sampled(caching.cached(make, _network([]), caching.first_block(1e-30)), samplers.heun(), renoised)
    plain, steps = _sampled(make(_network([])), samplers.heun(), renoised)
    np.testing.assert_allclose(x, plain, rtol=1e-4, atol=1e-5)
    assert float(memory.denoiser) == float(steps) == 1 + 7 / 4 + 2


@pytest.mark.extended
def test_later_evaluations_of_a_step_run_whole_and_a_step_that_renoises_begins_anew():
    ran = []
    cache = caching.taylor_seer(99, 0, 1)
    _, memory = _sampled(caching.cached(_make(*TO), _network(ran), cache), samplers.heun())
    jax.effects_barrier()
    assert int(memory.work.run) == 4  # the first evaluations of the steps, which alone are counted
    assert sum(map(len, ran)) == 4 + 7 * 4  # Heun's second ones, of all steps but the last
    for sort in (caching.tea_cache(0.1), caching.mag_cache(0.1, RATIOS)):  # whose rules know the step
        denoise = caching.cached(_make(*TO), _network([]), sort)
        memory = denoise.init(X)
        kept = memory.calls[0]._replace(begun=jnp.bool_(True), steps=jnp.int32(5))
        (kept,) = denoise.again(memory._replace(calls=(kept,)), X).calls
        assert int(kept.steps) == 5 and not kept.begun
    renoised = PLAN._replace(renoise=np.arange(8) == 3, s=np.where(np.arange(8) == 3, PLAN.t, PLAN.s))
    _, memory = _sampled(caching.cached(_make(*TO), _network([]), cache), plan=renoised)
    assert (int(memory.work.run), int(memory.work.evaluations)) == (2 * 4, 7)


def test_what_cannot_be_carried_is_refused():
    with pytest.raises(TypeError, match="CFG\\+\\+"):
        plus = lambda network: guidance.classifier_free_plus_plus(lambda x, t: None, 0.5)
        caching.cached(plus, _network([]), caching.first_block(0.1))

    def make(network):
        denoise = parameterizations.denoiser(network, *TO, LABELS)
        return lambda x, t: jax.jvp(lambda x: denoise(x, t), (x,), (x,))[0]

    with pytest.raises(ValueError, match="inside a derivative"):
        _sampled(caching.cached(make, _network([]), caching.first_block(0.1)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: caching.first_block(-0.1), "threshold = -0.1"),
        (lambda: caching.tea_cache(0.1, ()), "coefficients"),
        (lambda: caching.mag_cache(0.1, ()), "ratios"),
        (lambda: caching.mag_cache(0.1, (1.0,), keep=2.0), "keep = 2.0"),
        (lambda: caching.mag_cache(0.1, (1.0, float("nan"))), "ratios"),
        (lambda: caching.mag_cache(0.1, (1.0,), whole=0), "whole = 0"),
        (lambda: caching.mag_cache(0.1, (1.0,), at=((1.0,),)), "at = "),
        (lambda: caching.mag_cache(0.1, (1.0, 1.0), at=((0.0,), (0.5, 1.5))), "at = "),
        (lambda: caching.mag_cache(0.1, (1.0, 1.0), at=((-0.5, 0.0),)), "at = "),
        (lambda: caching.mag_cache(0.1, (1.0, 1.0), at=((0.0,), ())), "at = "),
        (lambda: caching.mag_cache(0.1, (1.0, 1.0), at=()), "at = "),
        (lambda: caching.tea_cache(0.1, steps=-3), "steps = -3"),
        (lambda: caching.named({"name": "first_block", "threshold": [0.1]}), r"threshold = \[0\.1\]\. Valid: float"),
        (lambda: caching.named({"name": "mag_cache", "threshold": 1, "ratios": 0.5}), "ratios = 0.5"),
        (lambda: caching.named({"name": "mag_cache", "threshold": 1, "ratios": [1, "a"]}), "ratios = .*'a'"),
        (lambda: caching.named({"name": "tea_cache", "threshold": 1, "coefficients": 1.0}), "coefficients = 1.0"),
        (lambda: caching.named({"name": "tea_cache", "threshold": 1, "steps": 4.5}), "steps = 4.5"),
        (lambda: caching.named({"name": "deep_cache", "interval": 2.5}), "interval = 2.5"),
        (lambda: caching.named({"name": "taylor_seer", "interval": 2, "order": True}), "order = True"),
        (lambda: caching.taylor_seer(0), "interval = 0"),
        (lambda: caching.deep_cache(0), "interval = 0"),
        (lambda: caching.measured(0), "steps = 0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_measures_are_means_over_the_tokens_of_what_the_blocks_add():
    """Tokens that begin apart from zero, and whose residuals have lengths of their own."""
    rng = np.random.default_rng(5)
    starts, residuals = rng.standard_normal((2, 3, 2, 4, 3))  # of three steps: two rows of four tokens

    def call(i):
        blocks = SimpleNamespace(
            start=jnp.asarray(starts[i]),
            length=4,
            features=lambda carry: carry,
            run=lambda carry, first, last: carry + jnp.asarray(residuals[i]),
            attended=lambda: jnp.asarray(starts[i]),
        )
        return lambda through: through(blocks)

    assert caching.measured(1).memory(call(0)).ratios.shape == (1,)
    cache = caching.measured(3)
    memory = jax.tree.map(jnp.zeros_like, cache.memory(call(0)))
    for i in range(3):
        output, memory, skipped = cache.apply(memory, call(i))
        np.testing.assert_allclose(output, starts[i] + residuals[i], rtol=1e-5)
        assert skipped == 0
    lengths = np.linalg.norm(residuals, axis=-1)
    np.testing.assert_allclose(memory.ratios[1:], (lengths[1:] / lengths[:-1]).mean((1, 2)), rtol=1e-5)
    change = lambda series: (np.abs(np.diff(series, axis=0)).mean((2, 3)) / np.abs(series[:-1]).mean((2, 3))).mean(1)
    np.testing.assert_allclose(memory.read[1:], change(starts), rtol=1e-5)  # means over the rows
    np.testing.assert_allclose(memory.output[1:], change(starts + residuals), rtol=1e-5)


def test_mag_cache_skips_from_its_first_chance_on():
    outputs, whole, _ = _trajectory(caching.mag_cache(0.06, RATIOS, 4 / STEPS, 2))
    expected = _mag_cache(0.06, RATIOS, 4 / STEPS, 2)
    assert whole == expected[1] and 4 not in whole
    np.testing.assert_allclose(outputs[:, 0], expected[0], rtol=1e-6)


def test_deep_cache_takes_the_outermost_skip_connection_where_none_is_named():
    branches = []

    def call(branch, deep=None):
        branches.append(branch)
        return jnp.zeros(1), SimpleNamespace(features=jnp.zeros(1), run=1)

    caching.deep_cache(2).memory(call)
    assert branches == [0]


def test_an_evaluation_of_frames_lies_at_their_mean_time():
    whole = timesteps.plan(np.array([1.0, 0.75, 0.5, 0.25, 0.0]))
    middle = np.array([0.9, 0.5, 0.3, 0.0])
    plan = timesteps.plan(middle)
    frames = plan._replace(t=np.asarray(plan.t)[:, None] + np.array([-0.05, 0.0, 0.05]))
    for one in (plan, frames):
        np.testing.assert_allclose(caching.evaluations(one, whole)["at"], [(0.4, 2.0, 2.8)], atol=1e-6)


def test_taylor_seer_is_of_first_order_where_nothing_is_said():
    said, default = (caching.taylor_seer(3, **more) for more in ({"order": 1, "first": 3}, {}))
    np.testing.assert_array_equal(_trajectory(default)[0], _trajectory(said)[0])
    assert default.memory(_call(0, [])).factors.shape[0] == 2

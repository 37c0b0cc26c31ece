"""Generators trained on samples that they make as they will be sampled: in a few steps, and chunk after chunk."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import flow_maps, objectives, parameterizations, samplers, schedules, timesteps, videos
from diffusion.timesteps.given_frames import clean_time
from tests.objectives.objective_cases import at

FLOW = schedules.rectified_flow()
X0 = parameterizations.x0()
GRID = (1.0, 0.5, 0.0)
RHO = 0.8
KEYS = lambda n: jax.random.split(jax.random.key(0), n)
draw = lambda samples, network, number, frames=3: samples.draw(
    network, FLOW, X0, KEYS(number), {"x": jnp.zeros((number, frames, 1))}
)


def linear(w, a):
    """x0 = w x_t + a x_t of the frame before."""
    return lambda x, t, condition: w * x + a * jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))


def exact(x, t, condition):
    """The end of the flow of each frame under the condition of the one before it, x[f] = RHO x[f - 1] + noise."""
    alpha, sigma = 1 - t[..., None], t[..., None]
    mean = RHO * jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    variance = jnp.where(jnp.arange(x.shape[1]) > 0, 1 - RHO**2, 1.0)[:, None]
    return mean + jnp.sqrt(variance / (alpha**2 * variance + sigma**2)) * (x - alpha * mean)


def covariance(frames):
    apart = np.arange(frames)
    return RHO ** np.abs(apart[:, None] - apart)


def test_one_step_is_the_simplest_of_all():
    """One step of the grid (t_max, 0) to the bit, and one chunk is the whole clip."""
    ways = (
        objectives.one_step(),
        objectives.backward_simulation((1.0, 0.0)),
        objectives.self_forcing((1.0, 0.0), 3),
        objectives.backward_simulation(GRID),
        objectives.self_forcing(GRID, 3),
    )
    one, simulated, forced, *several = jax.jit(lambda: [draw(samples, linear(0.7, 0.2), 8) for samples in ways])()
    np.testing.assert_array_equal(one, simulated)
    np.testing.assert_array_equal(one, forced)
    np.testing.assert_allclose(*several, rtol=1e-6)
    assert np.abs(several[0] - one).max() > 0.1


def test_the_gradient_is_that_of_one_evaluation():
    """Of x = w x_t + a x[f - 1] it is x_t by w and x[f - 1] by a, although both depend on w and a themselves."""
    w, a = 0.7, 0.4
    for samples in (objectives.backward_simulation(GRID), objectives.self_forcing(GRID, 1)):
        run = lambda w, a, samples=samples: draw(samples, linear(w, a), 16)
        x, (by_w, by_a) = jax.jit(lambda w, a, run=run: (run(w, a), jax.jacfwd(run, (0, 1))(w, a)))(w, a)
        np.testing.assert_allclose(w * by_w + a * by_a, x, rtol=1e-5, atol=1e-6)
        assert np.abs(by_a[:, 0]).max() == 0
    np.testing.assert_allclose(by_a[:, 1:], x[:, :-1], rtol=1e-6)  # the context is the generator's own frames
    assert np.abs(by_a[:, 1:]).max() > 0.1


def test_the_steps_are_those_of_the_sampler():
    """E x^2 of x = w x_k: w^2 for k = 0, w^2 (w^2 + 1) / 4 for k = 1, each for half of the examples."""
    w = 1.5
    x = jax.jit(lambda: draw(objectives.backward_simulation(GRID), linear(w, 0.0), 20_000))()
    np.testing.assert_allclose(jnp.mean(x**2), (w**2 + w**2 * (w**2 + 1) / 4) / 2, rtol=0.02)
    # Under one step or the other: of two values a shared state would make one.
    assert abs(np.corrcoef(np.asarray(x[:, 0, 0]), np.asarray(x[:, 1, 0]))[0, 1]) < 0.03


def test_an_example_ends_where_the_sampler_has_brought_it_with_new_noise_at_each_step():
    """The estimate at time 1 is 5, and later it is the state: 2 + 0.6 z at 0.6, and 0.7 (2 + 0.6 z) + 0.3 z' at 0.3."""
    network = lambda x, t, condition: jnp.where(t[:, None, None] > 0.75, 5.0, x)
    x = np.asarray(draw(objectives.backward_simulation((1.0, 0.6, 0.3, 0.0)), network, 3000))[:, 0, 0]
    later = x[x != 5]
    assert abs(len(later) / 3000 - 2 / 3) < 0.04
    deviation = ((0.6**2 + 0.42**2 + 0.3**2) / 2 + 0.3**2) ** 0.5
    np.testing.assert_allclose([later.mean(), later.std()], [1.7, deviation], atol=0.05)


def test_a_chunk_sees_the_time_of_the_sampler_between_clean_and_unborn_ones():
    """An estimate tells the times of its own frame, of the one before it and of the one after it."""
    network = lambda x, t, condition: (t + 10 * jnp.roll(t, 1, 1) + 100 * jnp.roll(t, -1, 1))[..., None]
    x = draw(objectives.self_forcing((1.0, 0.0), 1), network, 2)
    clean = clean_time(FLOW)
    expected = [1 + 10 + 100, 1 + 10 * clean + 100, 1 + 10 * clean + 100 * clean]
    np.testing.assert_allclose(x[..., 0], [expected] * 2, rtol=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("how", ["trained", "sampled", "rolled out"])
def test_clips_of_the_exact_generator_have_the_exact_law(how):
    """With the end of the flow under the condition of the frame before, in three steps a frame."""
    grid, number, frames = (1.0, 0.6, 0.3, 0.0), 20_000, 3
    flow_map = flow_maps.consistency(exact, FLOW, X0)
    prior = lambda frames: samplers.prior(FLOW, KEYS(number), (frames, 1))
    keys = jax.random.split(jax.random.key(1), number)

    @jax.jit
    def make():
        if how == "trained":
            return draw(objectives.self_forcing(grid, 1), exact, number)
        if how == "sampled":
            plan = timesteps.staggered(grid, frames, delay=3)
            return samplers.sample(samplers.per_frame(samplers.consistency()), flow_map, FLOW, prior(3), plan, keys)
        first = jax.random.normal(jax.random.key(2), (number, 1, 1))
        plan = timesteps.plan(grid)
        return videos.rollout(samplers.consistency(), flow_map, FLOW, prior(2), plan, keys, first, window=2)

    x = np.asarray(make())[..., 0]
    np.testing.assert_allclose(x.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), covariance(frames), atol=0.04)


def test_a_fake_score_that_is_the_teachers_leaves_the_generator():
    """And another does not; both players make the same samples."""
    samples = objectives.self_forcing(GRID, 1)
    objective = objectives.distribution_matching(X0, X0, X0, at(0.5), samples=samples)
    fake = objectives.fake_score(X0, X0, lambda schedule, t: jnp.ones_like(t), at(0.5), samples)
    batch = {"x": jnp.zeros((4, 3, 1))}
    score = lambda scale: lambda x, t, condition: scale * x

    @jax.jit
    @jax.grad
    def slope(w, scale):
        players = {"model": linear(w, 0.3), "teacher": score(0.5), "fake": score(scale)}
        return objective(players, FLOW, KEYS(4), batch, 0)[0].sum()

    assert slope(0.7, 0.5) == 0 and abs(slope(0.7, 0.9)) > 1e-3
    assert objective.shares == fake.shares == ("self_forcing", 1.0, 0.5, 1)
    assert not objective.reads.one_step and objectives.distribution_matching(X0, X0, X0, at(0.5)).reads.one_step
    by_model = lambda w: fake({"model": linear(w, 0.3), "fake": score(0.9)}, FLOW, KEYS(4), batch, 0)[0].sum()
    assert jax.jit(jax.grad(by_model))(0.7) == 0


def seen_by(run):
    """(result of run(network), x_t, t) of its one evaluation; the network gives 0.7 x_t + 0.2 of the frame before."""
    seen = []
    network = lambda x, t, condition: seen.append((x, t)) or linear(0.7, 0.2)(x, t, condition)
    result = run(network)
    ((x_t, t),) = seen
    return result, np.asarray(x_t, float), np.asarray(t, float)


def test_chunks_of_data_are_noised_to_steps_of_their_own():
    """Each step is as likely, in each chunk alone; what is clean stays the data, and the rest is the estimate."""
    number, data = 6000, jnp.arange(4.0)[:, None]
    batch = {"x": jnp.broadcast_to(data, (number, 4, 1))}
    samples = objectives.noised_chunks(GRID, 2)
    x, x_t, t = seen_by(lambda network: samples.draw(network, FLOW, X0, KEYS(number), batch))
    np.testing.assert_array_equal(t[:, 0::2], t[:, 1::2])
    first, second = t[:, 0], t[:, 2]
    for times in (first, second):
        shares = [np.mean(np.isclose(times, step, atol=1e-6)) for step in GRID]
        np.testing.assert_allclose(shares, 1 / 3, atol=0.02)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04
    column = t[..., None]
    eps = (x_t - (1 - column) * data) / column
    noisy = eps[t > 0.1]
    np.testing.assert_allclose([noisy.mean(), noisy.std()], [0, 1], atol=0.03)
    assert abs(np.corrcoef(eps[:, 0, 0], eps[:, 1, 0])[0, 1]) < 0.04
    estimate = linear(0.7, 0.2)(x_t, None, None)
    np.testing.assert_allclose(x, np.where(column > 0.1, estimate, np.asarray(batch["x"])), rtol=1e-5, atol=1e-6)
    assert samples.setting == ("noised_chunks", 1.0, 0.5, 2) and samples.in_chunks and not samples.one_step


@pytest.mark.extended
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_generator_learns_where_the_teachers_trajectories_end(chunk):
    """Of the teacher x0 = c x a step of DDIM multiplies by (1 - s) c + s (1 - (1 - t) c) / t, so that the end is known.

    The network that multiplies each frame by the rest of its way has no loss; off by 0.1, the share of noisy frames of
    0.01, whatever the steps of the chunks, which are those of one trajectory.
    """
    c, solver_steps, number = 0.6, 3, 256
    fine = np.linspace(1, 0, 2 * solver_steps + 1)
    factors = (1 - fine[1:]) * c + fine[1:] * (1 - (1 - fine[:-1]) * c) / fine[:-1]
    rest = {1.0: np.prod(factors), 0.5: np.prod(factors[solver_steps:]), 0.0: 1.0}
    objective = objectives.trajectory_regression(X0, X0, GRID, chunk, solver_steps)

    def losses(offset):
        def network(x, t, condition):
            factor = sum(jnp.where(jnp.abs(t - step) < 1e-3, value, 0.0) for step, value in rest.items())
            return factor[..., None] * x + offset

        players = {"model": network, "teacher": lambda x, t, condition: c * x}
        return objective(players, FLOW, KEYS(number), {"x": jnp.zeros((number, 3, 1))}, 0)[0]

    exact, off = jax.jit(lambda: (losses(0.0), losses(0.1)))()
    np.testing.assert_allclose(exact, 0, atol=1e-10)
    _, states, t = seen_by(
        lambda network: objective(
            {"model": network, "teacher": lambda x, t, condition: c * x},
            FLOW,
            KEYS(number),
            {"x": jnp.zeros((number, 3, 1))},
            0,
        )
    )
    np.testing.assert_allclose(off, 0.01 * np.mean(t > 0.1, axis=1), rtol=1e-4)
    assert len({tuple(times) for times in t.round(3)}) == 3 ** (3 // chunk)
    z = states / (np.prod(factors) / np.vectorize(lambda at: rest[round(at, 3)])(t))[..., None]
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=0.25)


def test_a_causal_student_has_a_teacher_of_whole_clips():
    losses = (objectives.distribution_matching, objectives.score_identity)
    for samples, whole in (
        (objectives.noised_chunks(GRID, 1), True),
        (objectives.self_forcing(GRID, 1), True),
        (objectives.backward_simulation(GRID), False),
        (None, False),
    ):
        assert {make(X0, X0, X0, at(0.5), samples=samples).teacher.bidirectional for make in losses} == {whole}


def test_what_no_generator_makes_is_refused():
    network = linear(0.7, 0.2)
    for make, message in (
        (lambda: objectives.backward_simulation((1.0, 0.5)), "goes from 1 to 0.5. Valid: from t_max down to 0"),
        (lambda: objectives.self_forcing((0.0, 1.0), 1), "goes from 0 to 1"),
        (lambda: objectives.self_forcing(GRID, 0), r"chunk = 0 frames\. Valid"),
        (lambda: objectives.noised_chunks(GRID, 0), r"noised_chunks: chunk = 0 frames\. Valid"),
        (lambda: objectives.noised_chunks((1.0, 0.5), 1), "goes from 1 to 0.5"),
        (lambda: objectives.trajectory_regression(X0, X0, GRID, 0), r"trajectory_regression: chunk = 0"),
        (lambda: objectives.trajectory_regression(X0, X0, GRID, 1, 0), r"solver_steps = 0\. Valid: 1 \.\. 10000"),
        (lambda: objectives.trajectory_regression(X0, X0, GRID, 1, 10_001), r"solver_steps = 10001\. Valid: 1 \.\."),
        (lambda: draw(objectives.noised_chunks(GRID, 2), network, 2), r"a chunk of 2 frames does not divide"),
        (lambda: draw(objectives.self_forcing(GRID, 2), network, 2), r"a chunk of 2 frames does not divide"),
        (lambda: draw(objectives.backward_simulation((0.9, 0.0)), network, 2), r"begins at.*= 0\.9,.*the noise"),
        (lambda: timesteps.staggered(GRID, 3, 1, chunk=2), "chunk = 2 does not divide 3 frames"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_teacher_of_a_regression_steps_at_equal_parts_of_the_grid():
    """Two steps between each two of 1, 1/2 and 0: at 1, 3/4, 1/2 and 1/4."""
    times = []

    def teacher(x, t, condition):
        jax.debug.callback(lambda t: times.append(float(t)), t[0], ordered=True)
        return 0 * x

    network = lambda x, t, condition: 0 * x
    v, flow = parameterizations.v(), schedules.rectified_flow()
    objective = objectives.trajectory_regression(v, v, (1.0, 0.5, 0.0), 1, solver_steps=2)
    keys, batch = jax.random.split(jax.random.key(0), 1), {"x": jnp.zeros((1, 2, 1))}
    jax.jit(lambda: objective({"model": network, "teacher": teacher}, flow, keys, batch, 0)[0])()
    jax.effects_barrier()
    np.testing.assert_allclose(times, [1, 0.75, 0.5, 0.25])


def test_a_regression_is_from_the_states_of_the_teachers_trajectory_to_its_end(monkeypatch):
    """Of networks that predict v = 0, by DDIM's steps in NumPy; frames that are drawn at the end count nothing."""
    module = importlib.import_module("diffusion.objectives.trajectory_regression")
    z = np.random.default_rng(0).normal(size=(2, 3, 1)).astype(np.float32)
    drawn = np.array([[0, 1, 2], [1, 1, 0]])
    grid = np.float32([1.0, 0.5, 0.0])
    monkeypatch.setattr(module, "prior", lambda *arguments: jnp.asarray(z))
    monkeypatch.setattr(module, "drawn_times", lambda *arguments: (jnp.asarray(drawn), jnp.asarray(grid[drawn])))
    still = lambda x, t, condition: 0 * x
    v, flow = parameterizations.v(), schedules.rectified_flow()
    objective = objectives.trajectory_regression(v, v, (1.0, 0.5, 0.0), 1, solver_steps=2)
    keys, batch = jax.random.split(jax.random.key(0), 2), {"x": jnp.zeros((2, 3, 1))}
    losses, metrics = jax.jit(lambda: objective({"model": still, "teacher": still}, flow, keys, batch, 0))()
    clean = lambda x, t: (1 - t) / ((1 - t) ** 2 + t**2) * x
    noise = lambda x, t: t / ((1 - t) ** 2 + t**2) * x
    states = {1.0: np.float64(z)}
    for t in (1.0, 0.75, 0.5, 0.25):
        s = t - 0.25
        states[s] = (1 - s) * clean(states[t], t) + s * noise(states[t], t)
    every = np.stack([states[t] for t in (1.0, 0.5, 0.0)])
    rows, frames = np.arange(2)[:, None], np.arange(3)
    at = grid[drawn][..., None]
    error = clean(every[drawn, rows, frames], at) - states[0.0]
    np.testing.assert_allclose(losses, np.mean((drawn < 2)[..., None] * error**2, (1, 2)), rtol=1e-4)
    np.testing.assert_allclose(metrics["t"], grid[drawn].mean(1), rtol=1e-6)

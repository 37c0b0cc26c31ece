"""Duo's objectives: the bound of uniform processes through Gaussian latents, and the distillation along their paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, schedules, timesteps
from diffusion.discrete.bounds import score_entropy_at
from diffusion.objectives import inputs

LINE = schedules.rectified_flow()
NUMBER = 8192
DENSITY = timesteps.uniform_density(LINE, NUMBER)
PROCESS = discrete.uniform(discrete.cosine(), 4)
KEYS = jax.random.split(jax.random.key(0), NUMBER)
X0 = jax.random.randint(jax.random.key(1), (NUMBER, 3), 0, 4)


def network(x, t, condition):
    """A network of symbols or of their probabilities, by each position and all others."""
    soft = x if x.ndim == 3 else jax.nn.one_hot(x, 4)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), jnp.float32)
    return soft @ table + jnp.sum(jnp.tanh(soft @ table.T), 1, keepdims=True)


def test_the_score_entropy_at_a_draw_is_the_papers_sum():
    """Equation 17, as the authors' code has its terms, of every pair of symbols."""
    size, t = 4, np.array([0.1, 0.6, 0.95])
    rng = np.random.default_rng(0)
    x0, x_t = (part.ravel() for part in np.meshgrid(range(size), range(size)))
    for at in t:
        p = rng.dirichlet(np.ones(size), len(x0))
        alpha = float(PROCESS.keeping.alpha(at))
        slope = -float(PROCESS.keeping.decay(at))
        mean = size * alpha * p + 1 - alpha
        here, there = mean[range(len(x0)), x_t], mean[range(len(x0)), x0]
        same = (x0 == x_t).astype(float)
        kappa = (1 - alpha) / (size * alpha + 1 - alpha)
        of_ends = size * (1 / (1 - alpha + size * alpha * same) - 1 / here)
        logs = -(same * kappa + 1 - same) * (np.log(mean).sum(1) - size * np.log(here))
        logs -= size * alpha / (1 - alpha) * np.log(there / here) * (1 - same)
        logs += ((size - 1) * kappa * same - (1 - same) / kappa) * np.log(kappa)
        expected = slope / (size * alpha) * (of_ends - logs)
        times = jnp.full(len(x0), at, jnp.float32)
        log_p = discrete.from_context(PROCESS, jnp.log(p)[:, None], x_t[:, None], times)
        found = score_entropy_at(PROCESS, log_p, x_t[:, None], x0[:, None], times)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


@jax.jit
def written_out():
    """The loss of a network that sees the largest latent, and of one that sees a softmax of temperature 0.5."""
    time_keys, noise_keys = inputs.split(KEYS, 2)
    t, _ = inputs.times(DENSITY, time_keys, {"x": X0})
    w = discrete.gaussian_latents(PROCESS, discrete.latent_noise(PROCESS, noise_keys, X0), X0, t)
    x_t = jnp.argmax(w, -1)
    by = lambda seen: discrete.from_context(PROCESS, network(seen, t, None), x_t, t)
    return [score_entropy_at(PROCESS, by(seen), x_t, X0, t) / 3 for seen in (x_t, jax.nn.softmax(w / 0.5))]


@pytest.mark.extended
def test_the_curriculum_goes_from_softened_symbols_to_the_bound():
    losses = jax.jit(
        lambda temperature, step, until=5: discrete.duo(PROCESS, DENSITY, until, temperature)(
            {"model": network}, LINE, KEYS, {"x": X0}, step
        )[0],
        static_argnums=(0, 2),
    )
    hard, soft = written_out()
    agree = lambda found, expected: np.isclose(found, expected, rtol=1e-4, atol=1e-5).mean()
    assert agree(losses(0.5, 0), soft) == agree(losses(0.5, 4), soft) == agree(losses(0.5, 5), hard) == 1
    assert agree(losses(1e-7, 0), hard) > 0.999  # of all but those whose two largest latents are as near as that
    assert agree(losses(0.5, 0, 0), hard) == 1  # without a curriculum
    assert agree(soft, hard) < 0.1


TEACHER, STUDENT = np.array([[0.4, -0.2], [-0.7, 0.9]]), np.array([[1.0, 0.1], [-0.3, 0.5]])


def distilled(student, teacher, step):
    """The losses of two symbols of shares 3 / 4 and 1 / 4, whose networks are tables."""
    process = discrete.uniform(discrete.cosine(), 2)
    objective = discrete.discrete_consistency(process, DENSITY, steps=8, stage=10, rounds=2)
    assert objective.teacher.stages.sampling_steps == (8, 4)
    networks = {
        name: lambda x, t, condition, table=table: jnp.asarray(table)[x]
        for name, table in (("model", student), ("teacher", teacher))
    }
    return objective(networks, LINE, KEYS, {"x": (jnp.arange(NUMBER)[:, None] % 4 == 0).astype(int)}, step)[0]


def test_the_teacher_of_the_distillation_hears_the_earlier_time():
    """A student of equal probabilities, and a teacher of logits s and -s, whatever the symbols."""
    objective = discrete.discrete_consistency(
        discrete.uniform(discrete.cosine(), 2), timesteps.uniform_density(LINE, 6), 8, 10, rounds=2
    )
    networks = {
        "model": lambda x, t, condition: jnp.zeros((*x.shape, 2)),
        "teacher": lambda x, s, condition: s[:, None, None] * jnp.array([1.0, -1]) * jnp.ones((*x.shape, 2)),
    }
    losses, metrics = objective(networks, LINE, KEYS[:6], {"x": jnp.zeros((6, 3), int)}, 10)
    s = np.maximum(np.asarray(metrics["t"], np.float64) - 1 / 4, 0)
    np.testing.assert_allclose(losses, np.log(np.cosh(s)), rtol=1e-4, atol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("step, gap", [(9, 1 / 8), (10, 1 / 4), (90, 1 / 4)])
def test_the_distillation_is_the_divergence_of_both_ends_of_a_path(step, gap):
    """Of two symbols, where a position that is wrong at s is wrong at t."""
    t = (np.arange(4000) + 0.5) / 4000
    alpha = lambda t: 1 - np.cos(np.pi * (1 - t) / 2)
    at_t, at_s = alpha(t), alpha(np.maximum(t - gap, 0))
    log_p, log_q = (table - np.log(np.exp(table).sum(1, keepdims=True)) for table in (STUDENT, TEACHER))
    divergence = lambda x_t, x_s: np.sum(np.exp(log_p[x_t]) * (log_p[x_t] - log_q[x_s]))
    expected = sum(
        share
        * np.mean(
            (1 + at_t) / 2 * divergence(x, x)
            + (at_s - at_t) / 2 * divergence(1 - x, x)
            + (1 - at_s) / 2 * divergence(1 - x, 1 - x)
        )
        for x, share in ((0, 0.75), (1, 0.25))
    )
    losses = np.asarray(jax.jit(distilled, static_argnums=2)(STUDENT, TEACHER, step), np.float64)
    error = losses.std() / np.sqrt(NUMBER)
    assert error < 0.01 and abs(losses.mean() - expected) < 4 * error, (losses.mean(), expected, error)


@pytest.mark.extended
def test_the_optimum_of_the_distillation_is_the_geometric_mean_along_the_paths():
    """At t = 0.6 with s = 0.35, of every x_t of two positions of three symbols; in float64 by the paths of one noise.

    A symbol of x_t that is not the data's is at s the same, or the data's: (1 - alpha_s) / K, (alpha_s - alpha_t) / K.
    """
    process, at, gap = discrete.uniform(discrete.cosine(), 3), 0.6, 0.25
    rng = np.random.default_rng(2)
    states = np.array(list(itertools.product(range(3), repeat=2)))
    p, teacher = rng.dirichlet(np.ones(9)), rng.normal(size=(9, 2, 3))
    alpha_t, alpha_s = (1 - np.cos(np.pi * (1 - time) / 2) for time in (at, at - gap))
    one = np.zeros((3, 3, 3))  # [x_0, x_t, x_s]
    for a, b in itertools.product(range(3), repeat=2):
        one[a, b, b] = alpha_t + (1 - alpha_t) / 3 if a == b else (1 - alpha_s) / 3
        if a != b:
            one[a, b, a] = (alpha_s - alpha_t) / 3
    np.testing.assert_allclose(one.sum((1, 2)), 1)
    x0, x_t, x_s = np.meshgrid(range(9), range(9), range(9), indexing="ij")
    joint = p[:, None, None] * np.prod([one[states[x0, i], states[x_t, i], states[x_s, i]] for i in (0, 1)], 0)
    joint = joint.sum(0)
    log_teacher = teacher - np.log(np.exp(teacher).sum(-1, keepdims=True))
    optimum = np.einsum("ts,slk->tlk", joint / joint.sum(1, keepdims=True), log_teacher)

    density = DENSITY._replace(sample=lambda state, keys, index: (jnp.full(len(keys), at), jnp.ones(len(keys))))
    objective = discrete.discrete_consistency(process, density, steps=4, stage=10, rounds=1)
    x = jnp.asarray(states[rng.choice(9, NUMBER, p=p)], jnp.int32)

    @jax.jit
    def slopes(table, teacher, x, keys):
        """The mean slopes by each logit of the student `[S, L, K]`, and their errors."""
        by = lambda table: lambda x, t, condition: table[x[:, 0] * 3 + x[:, 1]]
        loss = lambda table, x, key: objective(
            {"model": by(table), "teacher": by(teacher)}, LINE, key[None], {"x": x[None]}, 0
        )[0][0]
        each = jax.vmap(jax.grad(loss), (None, 0, 0))(table, x, keys)
        return each.mean(0), each.std(0) / jnp.sqrt(NUMBER) + 1e-7

    arguments = jnp.asarray(teacher, jnp.float32), x, KEYS
    found, errors = map(np.asarray, slopes(jnp.asarray(optimum, jnp.float32), *arguments))
    assert errors.max() < 1e-3 and (np.abs(found) < 4.5 * errors).all(), found / errors
    away = np.log(np.einsum("ts,slk->tlk", joint / joint.sum(1, keepdims=True), np.exp(log_teacher)))  # another mean
    moved, errors = map(np.asarray, slopes(jnp.asarray(away, jnp.float32), *arguments))
    assert (np.abs(moved) > 6 * errors).sum() > 5, moved / errors


@pytest.mark.extended
def test_the_teacher_of_the_distillation_does_not_learn():
    slopes = jax.jit(jax.grad(lambda *tables: distilled(*tables, 0).mean(), (0, 1)))(STUDENT, TEACHER)
    assert np.abs(slopes[0]).max() > 0.01 and (np.asarray(slopes[1]) == 0).all()


def test_what_these_objectives_do_not_take_is_refused():
    masks = discrete.absorbing(discrete.linear(), 4)
    with pytest.raises(ValueError, match=r"duo: only uniform processes have Gaussian latents"):
        discrete.duo(masks, DENSITY, 10)
    with pytest.raises(ValueError, match=r"duo: until = -1, temperature = 0\.001. Valid: at least 0, above 0"):
        discrete.duo(PROCESS, DENSITY, -1)
    with pytest.raises(ValueError, match=r"discrete_consistency: 5 rounds of 10 steps from a gap of 1 / 8. Valid"):
        discrete.discrete_consistency(PROCESS, DENSITY, 8, 10)
    with pytest.raises(ValueError, match="discrete_consistency: only uniform processes have Gaussian latents"):
        discrete.discrete_consistency(masks, DENSITY, 8, 10, 2)


def test_until_the_end_of_the_curriculum_the_network_sees_softened_symbols():
    """Of a temperature of 1/2, which squares the probabilities of temperature 1; then symbols, the likeliest ones."""
    seen = []

    def network(x, t, condition):
        seen.append(np.asarray(x, np.float64))
        assert condition is not None
        return jnp.log(x + 1e-3)

    keys, x0 = KEYS[:6], X0[:6]

    def loss(temperature, step, until=5):
        objective = discrete.duo(PROCESS, timesteps.uniform_density(LINE, 6), until, temperature)
        batch = {"x": x0, "condition": jnp.zeros(6)}
        return np.asarray(objective({"model": network}, LINE, keys, batch, step)[0])

    losses = [loss(1.0, 0), loss(0.5, 4), loss(0.5, 5), loss(0.5, 0, 0)]
    one, half, hard, none = seen
    squares = one**2 / (one**2).sum(-1, keepdims=True)
    np.testing.assert_allclose(half, squares, rtol=1e-4, atol=1e-7)
    assert (half.max(-1) < 0.999).any()
    np.testing.assert_array_equal(hard, one == one.max(-1, keepdims=True))
    np.testing.assert_array_equal(none, hard)
    np.testing.assert_array_equal(losses[3], losses[2])
    assert np.isfinite(losses).all() and np.abs(losses[1] - losses[2]).max() > 1e-3


def test_the_longest_gap_of_a_distillation_is_one():
    """Four rounds from a gap of 1 / 8 end with 1; a fifth is refused, and no step or round less than one."""
    make = lambda steps, stage, rounds: discrete.discrete_consistency(PROCESS, DENSITY, steps, stage, rounds)
    assert make(8, 1, 4).teacher.stages.sampling_steps == (8, 4, 2, 1)
    assert make(1, 1, 1).teacher.stages.sampling_steps == (1,)
    for steps, stage, rounds in ((8, 1, 5), (8, 0, 4), (8, 1, 0), (0, 1, 1)):
        with pytest.raises(ValueError, match=rf"{rounds} rounds of {stage} steps from a gap of 1 / {steps}"):
            make(steps, stage, rounds)


def test_the_gap_of_a_distillation_doubles_until_the_last_round():
    """From 1 / 8 in two rounds of ten steps: 1 / 8 up to step 9, and 1 / 4 from then on; s is not below 0."""
    objective = discrete.discrete_consistency(
        discrete.uniform(discrete.cosine(), 2), timesteps.uniform_density(LINE, 6), 8, 10, rounds=2
    )
    seen = []
    networks = {
        "model": lambda x, t, condition: jnp.zeros((*x.shape, 2)),
        "teacher": lambda x, s, condition: seen.append(np.asarray(s)) or jnp.zeros((*x.shape, 2)),
    }
    for step, gap in ((0, 1 / 8), (9, 1 / 8), (10, 1 / 4), (19, 1 / 4), (20, 1 / 4), (95, 1 / 4)):
        _, metrics = objective(networks, LINE, KEYS[:6], {"x": jnp.zeros((6, 3), int)}, step)
        np.testing.assert_allclose(seen.pop(), np.maximum(np.asarray(metrics["t"]) - gap, 0), atol=1e-6)

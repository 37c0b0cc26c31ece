"""Objectives on manifolds at their optima, which are known where the data is one point."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, parameterizations, schedules, timesteps, weightings
from diffusion.manifolds import (
    circle,
    euclidean,
    heat_kernels,
    packed,
    positive_definite,
    product,
    riemannian_flow_matching,
    riemannian_score_matching,
    simplex,
    so3,
    sphere,
    torus,
    wrapped_normal,
)
from diffusion.manifolds.tangent_field import velocity_field
from tests.manifolds.manifold_cases import CASES

NUMBER = 6
KEYS = jax.random.split(jax.random.key(3), NUMBER)
FLOW = schedules.rectified_flow()
DENSITY = timesteps.uniform_density(FLOW, t_min=0.05)
SLOW = pytest.mark.slow  # on manifolds whose programs take seconds to compile
TOGETHER = packed(product(sphere(2), circle()))
MANIFOLDS = (
    torus(2),
    pytest.param(TOGETHER, marks=SLOW),
    pytest.param(sphere(2), marks=SLOW),
    pytest.param(so3(), marks=SLOW),
    euclidean(3),
)


def prior_of(manifold):
    """Uniform where that exists."""
    return None if manifold.uniform else wrapped_normal(manifold, jnp.zeros(manifold.shape), 1.0)


def point_of(manifold):
    """One point `[*shape]`."""
    if manifold.uniform is None:
        return jnp.ones(manifold.shape)
    return manifold.uniform(jax.random.key(1), ())


def losses(objective, network, x, schedule=FLOW, **batch):
    loss = jax.jit(lambda x, keys: objective({"model": network}, schedule, keys, {"x": x, **batch}, 0)[0])
    return np.asarray(loss(x, KEYS[: len(x)]))


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=lambda manifold: manifold.name)
def test_the_flow_to_one_point_is_the_optimum(manifold):
    """Geodesics that end in x_0 have the velocity -log(x_t, x_0) / t; and only a field's tangent part counts."""
    point = point_of(manifold)
    x = jnp.broadcast_to(point, (NUMBER, *manifold.shape))
    objective = riemannian_flow_matching(manifold, DENSITY, prior_of(manifold))
    back = lambda x_t, t: jax.vmap(lambda x, t: -manifold.log(x, point) / t)(x_t, t)
    network = lambda x_t, t, condition: back(x_t, t) + x_t - manifold.tangent(x_t, x_t)
    assert losses(objective, network, x).max() < 1e-5
    assert losses(objective, lambda x_t, t, condition: 1.1 * back(x_t, t), x).min() > 1e-3


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=lambda manifold: manifold.name)
def test_the_loss_of_a_field_that_stands_still_is_the_squared_distance(manifold):
    keys = jax.random.split(jax.random.key(5), 2 * NUMBER)
    draw = manifold.uniform or (lambda key, shape: jax.random.normal(key, (*shape, *manifold.shape)))
    x, noise = (jax.vmap(lambda key: draw(key, ()))(half) for half in (keys[:NUMBER], keys[NUMBER:]))
    objective = riemannian_flow_matching(manifold, DENSITY, prior_of(manifold))
    still = losses(objective, lambda x_t, t, condition: jnp.zeros_like(x_t), x, noise=noise)
    np.testing.assert_allclose(still, manifold.distance(x, noise) ** 2, rtol=2e-4, atol=1e-5)


def test_the_error_of_a_velocity_is_measured_where_the_path_is():
    """Of positive numbers, whose geodesics have the speed |log(x_1 / x_0)| at x_t alone, and a field that stands."""
    manifold = positive_definite(1)
    x, noise = np.exp(np.random.default_rng(0).normal(size=(2, NUMBER, 1, 1))).astype(np.float32)
    objective = riemannian_flow_matching(manifold, DENSITY, wrapped_normal(manifold, jnp.ones((1, 1)), 1.0))
    still = lambda x_t, t, condition: jnp.zeros_like(x_t)
    loss, _ = objective({"model": still}, FLOW, KEYS, {"x": x, "noise": noise}, 0)
    np.testing.assert_allclose(loss, np.log(noise / x)[:, 0, 0] ** 2, rtol=1e-4)


def test_the_error_of_a_score_is_measured_at_the_noised_point():
    """Of positive numbers with the metric (u / x)^2, Varadhan's score log(x_t, x_0) / v, and a field that stands."""
    manifold, schedule, seen = positive_definite(1), schedules.variance_exploding(0.1, 2.0), []
    x = np.exp(np.random.default_rng(0).normal(size=(NUMBER, 1, 1))).astype(np.float32)
    kernel, prior = heat_kernels.varadhan(manifold, 2), wrapped_normal(manifold, jnp.ones((1, 1)), 1.0)
    objective = riemannian_score_matching(kernel, timesteps.uniform_density(schedule), prior)
    still = lambda x_t, t, condition: seen.append(x_t) or jnp.zeros_like(x_t)
    loss, metrics = objective({"model": still}, schedule, KEYS, {"x": x}, 0)
    distance = np.log(np.asarray(seen[0], np.float64) / x)[:, 0, 0]
    np.testing.assert_allclose(loss, distance**2 / schedule.sigma(metrics["t"]) ** 2, rtol=1e-3)


ARRAYS = [name for name in CASES if not isinstance(CASES[name].origin, tuple)]  # whose points are one array


def standing_for(manifold, x, u):
    """The numbers that `lift` makes the tangent u of: by its pseudo-inverse."""

    def one(x, u):
        lift = jax.jacfwd(lambda w: manifold.lift(x, w))(jnp.zeros_like(x)).reshape(u.size, u.size)
        return (jnp.linalg.pinv(lift, rtol=1e-5) @ u.reshape(-1)).reshape(u.shape)

    return jax.vmap(one)(x, u)


@pytest.mark.extended
@pytest.mark.parametrize("name", [name if name == "simplex(3)" else pytest.param(name, marks=SLOW) for name in ARRAYS])
def test_the_flow_of_every_manifold_has_its_optimum(name):
    """Paths from x_1 to the point have the velocity -log(x_t, point) / t, and a field at rest loses its square."""
    case = CASES[name]
    manifold = case.make()
    point = manifold.project(jnp.asarray(case.origin, jnp.float32))
    prior = wrapped_normal(manifold, point, case.spread)
    x = jnp.broadcast_to(point, (NUMBER, *manifold.shape))
    back = lambda x_t, t: jax.vmap(lambda x, t: -manifold.log(x, point) / t)(x_t, t)
    network = lambda x_t, t, condition: standing_for(manifold, x_t, back(x_t, t))
    objective = riemannian_flow_matching(manifold, DENSITY, prior)
    noise = prior.sample(KEYS)
    squared = np.asarray(manifold.distance(x, noise) ** 2)
    assert np.all(losses(objective, network, x, noise=noise) < 1e-4 * squared)
    still = losses(objective, lambda x_t, t, condition: jnp.zeros_like(x_t), x, noise=noise)
    np.testing.assert_allclose(still, squared, rtol=2e-3)


@pytest.mark.extended
def test_a_flow_to_the_corners_of_the_simplex_learns_where_they_are():
    """Of one-hot data: the loss at rest is the squared distance, and numbers of size one cost no more near a face."""
    manifold = simplex(2)
    corners = jnp.eye(3)[jnp.arange(NUMBER) % 3]
    noise = manifold.uniform(jax.random.key(2), (NUMBER,))
    objective = riemannian_flow_matching(manifold, timesteps.uniform_density(FLOW))
    still = losses(objective, lambda x_t, t, condition: jnp.zeros_like(x_t), corners, noise=noise)
    squared = (2 * np.arccos(np.sqrt(np.asarray((corners * noise).sum(1), np.float64)))) ** 2
    np.testing.assert_allclose(still, squared, rtol=1e-3)
    ones = lambda x_t, t, condition: jnp.ones_like(x_t)
    for t in (1e-3, 1e-6):
        at_t = DENSITY._replace(sample=lambda state, keys, index, t=t: (jnp.full(NUMBER, t), jnp.ones(NUMBER)))
        near = losses(riemannian_flow_matching(manifold, at_t), ones, corners, noise=noise)
        assert np.all(near <= (np.sqrt(squared) + math.sqrt(3)) ** 2)


@SLOW
def test_under_a_premetric_the_path_shrinks_it_in_proportion():
    """The chord on S^2: chord(x_t, x_0) = t chord(x_1, x_0), along the same great circle as the geodesic."""
    manifold = sphere(2)
    chord = lambda x, y: jnp.sqrt(jnp.sum((x - y) ** 2, -1) + 1e-12)
    seen = {}

    def network(x_t, t, condition):
        seen.update(x_t=x_t, t=t)
        return jnp.zeros_like(x_t)

    x, noise = (manifold.uniform(jax.random.key(seed), (NUMBER,)) for seed in (1, 2))
    objective = riemannian_flow_matching(manifold, DENSITY, premetric=chord)
    measured = objective({"model": network}, FLOW, KEYS, {"x": x, "noise": noise}, 0)[0]
    x_t, t = seen["x_t"], seen["t"]
    np.testing.assert_allclose(chord(x_t, x), t * chord(noise, x), atol=1e-4)
    volume = jnp.linalg.det(jnp.stack([x, noise, x_t], 1))
    np.testing.assert_allclose(volume, 0, atol=1e-4)
    # d chord / dt is constant, and the chord of the angle a is 2 sin(a / 2): |dx/dt| = chord / cos(a / 2)
    half = jnp.arcsin(chord(x_t, x) / 2)
    np.testing.assert_allclose(jnp.sqrt(measured), chord(noise, x) / jnp.cos(half), rtol=2e-3)


@SLOW
@pytest.mark.parametrize(
    "kernel",
    (heat_kernels.sphere(2), heat_kernels.torus(2), heat_kernels.so3(), heat_kernels.varadhan(sphere(2), steps=2)),
    ids=("sphere", "torus", "so3", "varadhan"),
)
def test_the_score_of_one_point_is_the_kernels(kernel):
    manifold = kernel.manifold
    schedule = schedules.variance_exploding(0.05, 2.0)
    point = point_of(manifold)
    x = jnp.broadcast_to(point, (NUMBER, *manifold.shape))

    def network(x_t, t, condition, factor=1.0):
        sigma = schedule.sigma(t)
        score = kernel.score(jnp.broadcast_to(point, x_t.shape), x_t, sigma**2)
        return -factor * sigma.reshape(-1, *[1] * (x_t.ndim - 1)) * score

    objective = riemannian_score_matching(kernel, DENSITY)
    both = jax.jit(
        lambda keys: [
            objective({"model": model}, schedule, keys, {"x": x}, 0)[0]
            for model in (network, lambda *a: network(*a, factor=1.5))
        ]
    )
    at_optimum, beside = both(KEYS)
    assert np.max(at_optimum) < 1e-5
    assert np.mean(beside) > 1e-2


def test_mistakes_are_refused():
    x = jnp.array([[0.0, 0.0, 1.1]])
    objective = riemannian_flow_matching(sphere(2), DENSITY)
    zero = {"model": lambda x, t, c: 0 * x}
    with pytest.raises(ValueError, match="points are unit vectors"):
        objective(zero, FLOW, KEYS[:1], {"x": x}, 0)
    with pytest.raises(ValueError, match="no uniform distribution"):
        riemannian_flow_matching(euclidean(3), DENSITY)
    with pytest.raises(ValueError, match="shrinks the data"):
        riemannian_score_matching(heat_kernels.sphere(2), DENSITY)(zero, FLOW, KEYS[:1], {"x": x / 1.1}, 0)
    with pytest.raises(ValueError, match="returned"):
        velocity_field(lambda x, t, c: x[:, :1], FLOW, sphere(2))(x, 0.5)
    with pytest.raises(ValueError, match="premetric_steps = 0 must be at least 1"):
        riemannian_flow_matching(sphere(2), DENSITY, premetric=sphere(2).distance, premetric_steps=0)


def test_a_weighting_is_on_the_end_of_the_velocity_and_an_auxiliary_loss_sees_that_end():
    """On the line, of a field that stands still: the end is x_t, at t |x_1 - x_0| from x_0."""
    manifold = euclidean(3)
    x, noise = (jnp.asarray(np.random.default_rng(seed).normal(size=(NUMBER, 3)), jnp.float32) for seed in (0, 1))
    t = {}
    still = lambda x_t, at, condition: t.update(t=at) or jnp.zeros_like(x_t)
    weighting = weightings.at_most(weightings.constant(parameterizations.velocity()), 4.0)
    auxiliary = lambda end, x_0, t: jnp.sum((end - x_0) ** 2, -1) / t**2
    make = lambda **more: riemannian_flow_matching(manifold, DENSITY, prior_of(manifold), **more)
    run = lambda **more: make(**more)({"model": still}, FLOW, KEYS, {"x": x, "noise": noise}, 0)[0]
    squared, plain = np.sum(np.square(x - noise), -1), run()
    np.testing.assert_allclose(plain, squared, rtol=1e-5)
    at = np.asarray(t["t"])
    assert (at < 0.5).any() and (at > 0.5).any()
    np.testing.assert_allclose(run(weighting=weighting), np.minimum(1, 4 * at**2) * squared, rtol=1e-5)
    np.testing.assert_allclose(run(auxiliary=auxiliary), 2 * squared, rtol=1e-4)
    drift = np.array([1.0, -2.0, 0.5], np.float32)
    moving = lambda x_t, at, condition: jnp.broadcast_to(drift, x_t.shape)
    end = lambda end, x_0, t: jnp.sum((end - x_0) ** 2, -1) / t**2  # of end - x_0 = t (x_1 - x_0 - u)
    losses = make(auxiliary=end)({"model": moving}, FLOW, KEYS, {"x": x, "noise": noise}, 0)[0]
    np.testing.assert_allclose(losses, 2 * np.sum(np.square(noise - x - drift), -1), rtol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["flow", "score"])
def test_the_network_has_the_chosen_clock_in_training_and_in_sampling(kind):
    flat, schedule, seen = euclidean(3), FLOW, []
    clock = lambda schedule, t: 7 + t
    if kind == "flow":
        objective = riemannian_flow_matching(flat, DENSITY, prior_of(flat), clock=clock)
    else:
        schedule = schedules.variance_exploding(0.05, 2.0)
        kernel = heat_kernels.varadhan(flat, steps=1)
        objective = riemannian_score_matching(kernel, timesteps.uniform_density(schedule), prior_of(flat), clock)
    network = lambda x, clock, condition: seen.append(clock) or 0 * x
    x = jnp.ones((NUMBER, 3))
    _, metrics = objective({"model": network}, schedule, KEYS, {"x": x}, 0)
    objective.reads.field(network, schedule)(x, 0.4)
    np.testing.assert_allclose(seen, [7 + metrics["t"], np.full(NUMBER, 7.4)], rtol=1e-6)
    np.testing.assert_allclose(objective.reads.parameterization.clock(schedule, 0.4), 7.4)


OBJECTIVES = {
    "flow": (lambda density: riemannian_flow_matching(torus(2), density), FLOW),
    "score": (
        lambda density: riemannian_score_matching(heat_kernels.torus(2), density),
        schedules.variance_exploding(0.05, 2.0),
    ),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_importance_of_a_time_weighs_its_loss(name):
    make, schedule = OBJECTIVES[name]
    at = jnp.linspace(0.2, 0.9, NUMBER)
    drawn = lambda importance: DENSITY._replace(sample=lambda state, keys, index: (at, jnp.asarray(importance)))
    x = torus(2).uniform(jax.random.key(1), (NUMBER,))
    zero = lambda x_t, t, condition: jnp.zeros_like(x_t)
    plain = losses(make(drawn(np.ones(NUMBER, np.float32))), zero, x, schedule)
    weights = np.arange(NUMBER, dtype=np.float32)
    np.testing.assert_allclose(losses(make(drawn(weights)), zero, x, schedule), weights * plain, rtol=1e-5)
    assert plain.min() > 0


def test_time_noise_and_pairs_have_keys_of_their_own():
    """A time drawn from the key of the noise would be one with it; so the keys are noted that each draw receives."""
    seen = []

    def noted(keys, result):
        seen.append(np.asarray(jax.random.key_data(keys)))
        return result

    flat, at, x = euclidean(2), np.full(NUMBER, 0.5, np.float32), np.ones((NUMBER, 2), np.float32)
    density = DENSITY._replace(sample=lambda state, keys, index: noted(keys, (at, at)))
    prior = wrapped_normal(flat, np.zeros(2), 1.0)._replace(sample=lambda keys: noted(keys, x))
    coupling = couplings.Coupling(lambda keys, x_0, x_1: noted(keys, x_1), condition="ignored")
    start = lambda key, x, v: jax.debug.callback(lambda key: noted(key, None), key) or x
    kernel = heat_kernels.varadhan(flat)._replace(sample=start)
    zero = {"model": lambda x_t, t, condition: jnp.zeros_like(x_t)}
    riemannian_flow_matching(flat, density, prior, coupling)(zero, FLOW, KEYS, {"x": x}, 0)
    assert [keys.shape for keys in seen] == [(NUMBER, 2)] * 3
    assert len(np.unique(np.concatenate(seen), axis=0)) == 3 * NUMBER
    seen.clear()
    riemannian_score_matching(kernel, density, prior)(zero, OBJECTIVES["score"][1], KEYS, {"x": x}, 0)
    jax.effects_barrier()
    rows = np.concatenate([keys.reshape(-1, 2) for keys in seen])
    assert len(rows) == len(np.unique(rows, axis=0)) == 2 * NUMBER


def test_examples_with_a_mask_of_padding_are_refused():
    """The loss is over all of x, with a coupling and without one."""
    for coupling in (None, couplings.independent()):
        objective = riemannian_flow_matching(torus(2), DENSITY, coupling=coupling)
        with pytest.raises(ValueError, match="this objective does not support"):
            objective.check_real()


@pytest.mark.parametrize("kind", ["flow", "score"])
def test_the_condition_reaches_the_network_and_the_coupling(kind):
    """The coupling receives the condition of the data, and the network what is left of it."""
    seen = {}
    noted = lambda keys, x_0, x_1, condition: seen.update(coupling=condition) or x_1
    flat, coupling = euclidean(2), couplings.Coupling(noted, condition="seen")
    prior = wrapped_normal(flat, jnp.zeros(2), 1.0)
    make = {
        "flow": lambda: riemannian_flow_matching(flat, DENSITY, prior, coupling),
        "score": lambda: riemannian_score_matching(heat_kernels.varadhan(flat), DENSITY, prior),
    }[kind]
    network = lambda x, t, condition: seen.update(network=condition) or jnp.zeros_like(x)
    labels, left = np.arange(NUMBER) % 3, np.full(NUMBER, 3)
    batch = {"x": jnp.ones((NUMBER, 2)), "condition": left, "data_condition": labels}
    schedule = FLOW if kind == "flow" else schedules.edm()
    jax.eval_shape(lambda: make()({"model": network}, schedule, KEYS, batch, 0)[0])
    np.testing.assert_array_equal(seen["network"], left)
    if kind == "flow":
        np.testing.assert_array_equal(seen["coupling"], labels)


def test_brownian_noise_has_the_variance_of_the_schedule_at_each_time():
    """Of positive numbers and noise that multiplies them by exp(v^(1/2)): the score of v is one over its root."""
    manifold, schedule = positive_definite(1), schedules.variance_exploding(0.1, 2.0)
    moved = lambda key, x, v: x * jnp.exp(jnp.sqrt(v))
    kernel = heat_kernels.varadhan(manifold, 2)._replace(sample=moved)
    density, prior = timesteps.uniform_density(schedule), wrapped_normal(manifold, jnp.ones((1, 1)), 1.0)
    objective = riemannian_score_matching(kernel, density, prior)
    still = {"model": lambda x_t, t, condition: jnp.zeros_like(x_t)}
    loss, _ = objective(still, schedule, KEYS, {"x": jnp.ones((NUMBER, 1, 1))}, 0)
    np.testing.assert_allclose(loss, np.ones(NUMBER), rtol=1e-4)
    assert objective.density is density
    assert riemannian_flow_matching(manifold, DENSITY, prior, premetric_steps=1).density is DENSITY


def test_a_field_that_stands_loses_the_squared_speed_of_the_premetrics_path():
    """In flat space, where the path of the length is straight."""
    flat = euclidean(2)
    x, noise = (jnp.asarray(np.random.default_rng(seed).normal(size=(NUMBER, 2)), jnp.float32) for seed in (0, 1))
    length = lambda x, y: jnp.sqrt(jnp.sum((x - y) ** 2, -1))
    objective = riemannian_flow_matching(flat, DENSITY, prior_of(flat), premetric=length, premetric_steps=1)
    still = {"model": lambda x_t, t, condition: jnp.zeros_like(x_t)}
    loss, _ = objective(still, FLOW, KEYS, {"x": x, "noise": noise}, 0)
    np.testing.assert_allclose(loss, np.sum(np.square(x - noise), -1), rtol=1e-4)

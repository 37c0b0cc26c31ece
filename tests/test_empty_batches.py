"""A batch without examples gives a result without examples, wherever a batch is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, flow_maps, likelihood, manifolds, ode, parameterizations, samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests.conformance import SAMPLERS
from tests.discrete import test_symbol_samplers as symbols
from tests.guidance import test_guidance_conformance as guidances
from tests.manifolds.manifold_cases import CASES as MANIFOLDS
from tests.objectives import few_step_cases, objective_cases
from tests.samplers.test_flow_map_samplers import MAPS
from tests.timesteps.test_time_densities import DENSITIES

KEYS = jax.random.split(jax.random.key(0), 1)[:0]
INDEX = jnp.zeros(0, int)
COSINE, FLOW = schedules.cosine(), schedules.rectified_flow()
PLAN = timesteps.plan([0.9, 0.5, 0.2, 0.0])
X = jnp.zeros((0, 2, 2))


def shapes(function):
    """The shapes of what a function returns, without running it."""
    return [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(function))]


def half(x, t):
    return Prediction(x / 2, x / 3, jnp.full_like(x, 0.3))


@pytest.mark.extended
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler(name):
    sampler = SAMPLERS[name]
    assert shapes(lambda: samplers.sample(sampler, half, COSINE, X, PLAN, KEYS)) == [X.shape]
    assert shapes(lambda: samplers.picard(sampler, half, COSINE, X, PLAN, KEYS))[0] == X.shape


@pytest.mark.parametrize("name", MAPS)
def test_a_sampler_of_flow_maps(name):
    halved = flow_maps.FlowMap(lambda x, t, s: x / 2)
    assert shapes(lambda: samplers.sample(MAPS[name], halved, COSINE, X, PLAN, KEYS)) == [X.shape]


def test_other_ways_along_the_flow():
    assert shapes(lambda: samplers.prior(COSINE, KEYS, (2, 2))) == [X.shape]
    x, stats = samplers.adaptive(half, COSINE, X)
    assert x.shape == X.shape and stats.nfe.shape == (0,)
    solver, divergence = ode.runge_kutta(likelihood.times(FLOW, 3, 0.01)), likelihood.exact()
    assert shapes(lambda: likelihood.log_likelihood(half, FLOW, X, solver, divergence))[0] == (0,)
    denoise = parameterizations.denoiser(lambda x, t, condition: x, COSINE, parameterizations.v())
    assert shapes(lambda: denoise(X, INDEX.astype(jnp.float32)))[0] == X.shape


@pytest.mark.extended
@pytest.mark.parametrize("name", objective_cases.OBJECTIVES)
def test_an_objective(name):
    case, schedule = objective_cases.OBJECTIVES[name], objective_cases.SCHEDULES["linear_beta"]
    network = objective_cases.network_of(case, lambda x, clock, condition: x / 2)
    objective = case.make(timesteps.uniform_density(schedule))
    losses = lambda: objective_cases.losses_of(objective, network, schedule, KEYS, X, **case.batch(X))[0]
    assert shapes(losses) == [(0,)]


@pytest.mark.extended
@pytest.mark.parametrize("name", few_step_cases.MEMBERS)
def test_an_objective_of_few_steps(name):
    x = X[:, 0]
    batch = {"x": x, "start": x, "rejected": x, "condition": INDEX, "index": INDEX}
    assert shapes(lambda: few_step_cases.run(name, batch, keys=KEYS)[0]) == [(0,)]


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density(name):
    density = DENSITIES[name][0](FLOW, strata=4)
    frames = timesteps.per_frame(density, 3)
    assert shapes(lambda: density.sample(density.init(), KEYS, INDEX)) == [(0,), (0,)]
    assert shapes(lambda: frames.sample(frames.init(), KEYS, INDEX)) == [(0, 3), (0, 3)]


def test_densities_with_more_to_them():
    given = timesteps.given_frames(FLOW, timesteps.uniform_density(FLOW), ("1..",))
    assert shapes(lambda: given.sample(given.init(), KEYS, INDEX)) == [(0, 3), (0, 3)]
    adaptive = timesteps.loss_second_moment(FLOW, 4)
    state = adaptive.init()
    assert shapes(lambda: adaptive.sample(state, KEYS, INDEX)) == [(0,), (0,)]
    after = adaptive.update(state, jnp.zeros(0), jnp.zeros(0))
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.extended
@pytest.mark.parametrize("name", guidances.GUIDANCES)
def test_a_guidance(name):
    case = guidances.GUIDANCES[name]
    guided = case.make([half] * 3, COSINE, case.strong)
    assert shapes(lambda: guidances._call(guided, jnp.zeros((0, 2)), jnp.zeros(0))[:2]) == [(0, 2)] * 2


@pytest.mark.extended
@pytest.mark.parametrize("name", symbols.SAMPLERS)
def test_a_sampler_of_symbols(name):
    process = discrete.absorbing(discrete.linear(), 4)
    predict = lambda x, t: jax.nn.log_softmax(jnp.zeros((*x.shape, 4)))
    x = jnp.zeros((0, 4), jnp.int32)
    run = lambda: discrete.sample(symbols.SAMPLERS[name], predict, process, x, timesteps.plan([1.0, 0.5, 0.0]), KEYS)
    assert shapes(run) == [(0, 4)]


@pytest.mark.extended
@pytest.mark.parametrize("make", [discrete.masked_diffusion, discrete.score_entropy])
def test_an_objective_of_symbols(make):
    process = discrete.absorbing(discrete.linear(), 4)
    objective = make(process, timesteps.uniform_density(FLOW))
    network = {"model": lambda x, t, condition: jnp.zeros((*x.shape, 4))}
    batch = {"x": jnp.zeros((0, 4), jnp.int32), "condition": None, "index": INDEX}
    assert shapes(lambda: objective(network, FLOW, KEYS, batch, 0)[0]) == [(0,)]


@pytest.mark.extended
@pytest.mark.parametrize("name", MANIFOLDS)
def test_a_flow_on_a_manifold(name):
    case = MANIFOLDS[name]
    manifold = case.make()
    x = jax.tree.map(lambda a: jnp.zeros((0, *np.shape(a)), jnp.float32), case.origin)
    field = manifolds.TangentField(manifold, lambda x, t: jax.tree.map(jnp.zeros_like, x))
    if isinstance(x, jax.Array):
        run = lambda: samplers.sample(manifolds.geodesic_heun(), field, FLOW, x, PLAN, KEYS)
        assert shapes(run) == [x.shape]
    assert shapes(lambda: manifold.distance(x, x)) == [(0,)]
    assert shapes(lambda: manifold.tangent_normal(jax.random.key(0), x)) == [a.shape for a in jax.tree.leaves(x)]

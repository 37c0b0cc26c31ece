"""Every objective but the few-step ones, trained for a short time: its samples are near the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.objectives import interpolants, recipes
from diffusion.objectives.decoders import gaussian
from diffusion.parameterizations import Prediction
from diffusion.training.alternating import Player
from tests import oracles
from tests.objectives import short_training as short

pytestmark = pytest.mark.slow

FLOW = schedules.rectified_flow()
COSINE = schedules.cosine()
UNIFORM = timesteps.uniform_density(FLOW, strata=256)
INSIDE = timesteps.from_quantile(lambda u: 1e-3 + 0.998 * u, strata=256)  # of bridges, whose ends are singular


def _train(objective, schedule=FLOW, outputs=2, **options):
    player = Player(objective, "model", short.optimizer(steps=options.get("steps", 2000)))
    params = {"model": short.parameters(outputs=outputs), **options.pop("frozen", {})}
    return short.train({"model": player}, params, schedule, **options)["ema"]


def _recipe(name):
    recipe = recipes.RECIPES[name](strata=256)
    schedule, parameterization = recipe.schedule, recipe.parameterization
    # The network's own clock is made for times up to 1, not for 999 steps.
    scale = 1e-3 if name in ("ddpm", "latent_diffusion", "min_snr") else 1.0
    slow_clock = lambda params, x, clock, condition=None: short.network(params, x, scale * clock)
    model = _train(
        objectives.denoising(parameterization, recipe.weighting, recipe.density), schedule, apply={"model": slow_clock}
    )
    if name == "edm":
        grid = timesteps.karras(schedule, 32)
    elif scale < 1:
        return short.generate(model, schedule, parameterization, samplers.dpmpp_2m(), 64)
    else:
        grid = timesteps.uniform(schedule, 32)
    return short.generate(model, schedule, parameterization, grid=grid)


def _hybrid():
    schedule = schedules.linear_beta()
    p = parameterizations.epsilon()
    objective = objectives.hybrid(p, timesteps.discrete_density(schedule, strata=256), vlb_weight=1e-3)
    model = _train(objective, schedule, outputs=4)
    return short.generate(model, schedule, parameterizations.learned_variance(p), samplers.ddpm("learned"), 250)


def _variational_bound():
    density = timesteps.uniform_density(COSINE._replace(t_min=1e-3), strata=256)
    objective = objectives.variational_bound(parameterizations.v(), density, 1e-3, gaussian())
    return short.generate(_train(objective, COSINE), COSINE, parameterizations.v())


def _reflow():
    """From the exact teacher, in a single step."""

    def teacher(x, t):
        alpha = FLOW.alpha(t)
        sigma = FLOW.sigma(t)
        return Prediction(*(f(short.DATA, alpha, sigma, x) for f in (oracles.mean_x0, oracles.mean_eps)))

    plan = timesteps.plan(timesteps.uniform(FLOW, 64))
    keys = jax.random.split(jax.random.key(11), 2**15)
    made = jax.jit(lambda keys: objectives.reflow_pairs(teacher, FLOW, plan, keys, (2,)))(keys)

    def extend(key, batch):
        rows = jax.random.choice(key, len(made["x"]), batch["index"].shape)
        return {**batch, "x": made["x"][rows], "noise": made["noise"][rows]}

    model = _train(objectives.reflow(UNIFORM), extend=extend, steps=4000)
    return short.generate(model, FLOW, sampler=samplers.euler(), steps=1)


def _ring(key, size):
    """Data of another kind, for paths between two distributions; of some width, or a flow would only bend a line."""
    angle_key, radius_key = jax.random.split(key)
    angle = 2 * np.pi * jax.random.uniform(angle_key, (size, 1))
    radius = 1.5 + 0.2 * jax.random.normal(radius_key, (size, 1))
    return radius * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)


def _to_ring(key, batch):
    return {**batch, "noise": _ring(key, batch["x"].shape[0])}


def _trajectory(slope, noise, steps=200):
    """From the ring at t = 1 to t = 0 by x_s = x_t + (s - t) slope(x_t, t) + noise sqrt(t - s) w."""
    keys = jax.random.split(jax.random.key(5), steps + 1)
    grid = jnp.linspace(1 - 1e-3, 1e-3, steps + 1)

    def body(x, step):
        t, s, key = step
        x = x + (s - t) * slope(x, jnp.full(len(x), t))
        return x + noise * jnp.sqrt(t - s) * jax.random.normal(key, x.shape), None

    start = _ring(keys[-1], short.SAMPLES)
    return jax.jit(lambda: jax.lax.scan(body, start, (grid[:-1], grid[1:], keys[:-1]))[0])()


def _interpolant_flow():
    objective = objectives.stochastic_interpolant(interpolants.smooth_bridge(), UNIFORM, ("velocity",))
    model = _train(objective, extend=_to_ring)
    return _trajectory(lambda x, t: model(x, t, None), 0.0)


def _interpolant_in_parts():
    """The flow's velocity from its parts, b = v + gamma' eta."""
    path = interpolants.smooth_bridge()
    model = _train(
        objectives.stochastic_interpolant(path, UNIFORM, ("mean_velocity", "denoiser")), outputs=4, extend=_to_ring
    )

    def slope(x, t):
        v, eta = jnp.split(model(x, t, None), 2, axis=-1)
        gamma_dot = jax.jvp(path.gamma, (t,), (jnp.ones_like(t),))[1]
        return v + gamma_dot[:, None] * eta

    return _trajectory(slope, 0.0)


def _schroedinger_bridge():
    sigma = 0.6
    objective = objectives.schroedinger_bridge(sigma, INSIDE)
    model = _train(objective, outputs=4, extend=_to_ring)

    def slope(x, t):
        b, eta = jnp.split(model(x, t, None), 2, axis=-1)
        score = -eta / (sigma * jnp.sqrt(t * (1 - t)))[:, None]
        return b - sigma**2 / 2 * score

    return _trajectory(slope, sigma)


def _with_features(term):
    def apply(params, x, clock, condition=None, features=()):
        output = short.network(params["output"], x, clock)
        return (output, (short.network(params["features"], x, clock)[:, None],)) if features else output

    encoder = lambda params, x, clock, condition=None: jnp.concatenate([x, jnp.sin(3 * x)], axis=-1)[:, None]
    itself = lambda params, h, shape: h
    player = Player(objectives.added(objectives.flow_matching(UNIFORM), term), "model", short.optimizer())
    params = {"output": short.parameters(), "features": short.parameters(1, outputs=4)}
    model = short.train(
        {"model": player},
        {"model": params, "encoder": {}, "term": {}},
        FLOW,
        apply={"model": apply, "encoder": encoder, "term": itself},
    )["ema"]
    return short.generate(model, FLOW)


TRAININGS = {
    **{f"recipe {name}": (lambda name=name: _recipe(name)) for name in recipes.RECIPES},
    "hybrid": _hybrid,
    "variational_bound": _variational_bound,
    "flow_matching": lambda: short.generate(_train(objectives.flow_matching(UNIFORM)), FLOW),
    "flow_matching, optimal transport": lambda: short.generate(
        _train(objectives.flow_matching(UNIFORM, couplings.optimal_transport(64)), steps=1000), FLOW
    ),
    "denoising, score": lambda: short.generate(
        _train(
            objectives.denoising(
                parameterizations.score(),
                weightings.constant(parameterizations.epsilon()),
                timesteps.discrete_density(schedules.linear_beta(), strata=256),
            ),
            schedules.linear_beta(),
        ),
        schedules.linear_beta(),
        parameterizations.score(),
        samplers.dpmpp_2m(),
        64,
    ),
    "reflow": _reflow,
    "stochastic_interpolant": _interpolant_flow,
    "stochastic_interpolant, in parts": _interpolant_in_parts,
    "schroedinger_bridge": _schroedinger_bridge,
    "contrastive_flow_matching": lambda: short.generate(_train(objectives.contrastive_flow_matching(UNIFORM)), FLOW),
    "alignment": lambda: _with_features(objectives.alignment()),
    "dispersive": lambda: _with_features(objectives.dispersive(1, 64)),
}


@pytest.mark.parametrize("name", list(TRAININGS))
def test_samples_are_near_the_data(name):
    assert short.distance(TRAININGS[name]()) < short.BOUND


def test_one_step_needs_reflow():
    """The same single step that reflow's samples take, with a network of flow matching."""
    model = _train(objectives.flow_matching(UNIFORM), steps=1000)
    assert short.distance(short.generate(model, FLOW, sampler=samplers.euler(), steps=1)) > 5 * short.BOUND

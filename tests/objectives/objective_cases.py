"""Every objective whose best network is linear on Gaussian data: a new one is one line in OBJECTIVES."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, objectives, parameterizations, schedules, timesteps, weightings
from tests import oracles

# They end a little before alpha = 0, so that every parameterization can be read at every time.
SCHEDULES = {
    make.__name__: make()._replace(t_max=0.999)
    for make in (schedules.linear_beta, schedules.cosine, schedules.rectified_flow, schedules.edm)
}
DATA = oracles.tilted_gaussian()


def at(t):
    """The density of one time, as an objective takes any density."""
    return timesteps.Density(
        init=tuple,
        sample=lambda state, keys, index: (jnp.full(len(keys), t), jnp.ones(len(keys))),
        update=lambda state, t, losses: state,
    )


class Case(NamedTuple):
    """An objective on linear combinations of independent Gaussian draws, and its optimum by the paper.

    An objective's input is x_t = sum_i state_i u_i and its targets are sum_i target_i u_i, where the draws u are the
    data and the noises named in `draws`. The best outputs are then the linear regressions of the targets on x_t, and
    the least loss is weight times their mean variance given x_t, plus `offset` times the targets' own.

    Attributes:
        make: density -> objective.
        targets: (coefficients) -> one vector `[len(draws)]` for each C channels of the output.
        weight: (coefficients) -> weight on the squared error of each target.
        draws: "data" or "noise" for each of u.
        state: (coefficients, t) -> `[len(draws)]`; (alpha, sigma) if None.
        input_scale: (coefficients) -> what multiplies x_t before the network sees it.
        part: the metric that is a function of the network, where the losses have further terms; None for the losses.
        offset: (coefficients) -> see above.
        batch: what the batch of this objective needs beside "x", from the data.
        features: (x `[B, D]`) -> what the network returns beside its output; None for nothing.

    coefficients are (alpha, sigma, alpha', sigma', t).
    """

    make: Callable[[timesteps.Density], objectives.Objective]
    targets: Callable[..., list]
    weight: Callable[..., float]
    draws: tuple[str, ...] = ("data", "noise")
    state: Callable[..., list] | None = None
    input_scale: Callable[..., float] = lambda *_: 1.0
    part: str | None = None
    offset: Callable[..., float] = lambda *_: 0.0
    batch: Callable[[np.ndarray], dict] = lambda x: {}
    features: Callable | None = None


def _denoising(name, weighting, weight):
    p = getattr(parameterizations, name)()
    scale = {"edm": lambda a, s, *_: 1 / np.sqrt(0.25 * a**2 + s**2)}.get(name, lambda *_: 1.0)
    return Case(
        lambda density: objectives.denoising(p, weighting, density),
        _target(name),
        _of_output(name, weight),
        input_scale=scale,
    )


def _target(name):
    """The published target's coefficients of x_0 and eps."""
    return lambda a, s, a_dot, s_dot, t: [[oracles.TARGETS[name](a, s, a_dot, s_dot, *u) for u in ((1, 0), (0, 1))]]


def _of_output(name, weight):
    """The weight on the output's error, from that on the error of x_0: along x_t = 0, x_0 = 1 and eps = -a / s."""
    return lambda a, s, a_dot, s_dot, t: (
        weight(a, s, a_dot, s_dot) / oracles.TARGETS[name](a, s, a_dot, s_dot, 1, -a / s) ** 2
    )


def _bridge(t, sigma=0.7):
    """(1 - t) x_0 + t x_1 + sigma sqrt(t (1 - t)) z, and the noise's derivative."""
    return [1 - t, t, sigma * np.sqrt(t * (1 - t))], sigma * (1 - 2 * t) / (2 * np.sqrt(t * (1 - t)))


_velocity = _target("velocity")
_with_noise = lambda x: {"noise": jnp.asarray(np.random.default_rng(1).standard_normal(x.shape), x.dtype)}
_flow = Case(objectives.flow_matching, _velocity, lambda *_: 1.0)

OBJECTIVES = {
    "ddpm": _denoising("epsilon", weightings.constant(parameterizations.epsilon()), lambda a, s, *_: a**2 / s**2),
    "x0": _denoising("x0", weightings.constant(parameterizations.x0()), lambda a, s, *_: 1.0),
    "v, min-snr": _denoising("v", weightings.min_snr(5.0), lambda a, s, *_: min(a**2 / s**2, 5.0)),
    "score": _denoising("score", weightings.truncated_snr(), lambda a, s, *_: max(a**2 / s**2, 1.0)),
    "edm": _denoising("edm", weightings.edm(0.5), lambda a, s, *_: ((s / a) ** 2 + 0.25) / (0.5 * s / a) ** 2),
    "velocity": _denoising("velocity", weightings.edm(0.5), lambda a, s, *_: a**2 / s**2 + 4.0),
    "flow_matching": _flow,
    # -SNR' / 2 |x_0 - x0_hat|^2 in bits, on an interval of length 0.999 - 1e-3; the other terms know no network.
    "variational_bound": Case(
        lambda density: objectives.variational_bound(
            parameterizations.v(), density, 1e-3, objectives.decoders.gaussian()
        ),
        _target("v"),
        _of_output("v", lambda a, s, a_dot, s_dot: -0.998 * a / s * (a_dot * s - a * s_dot) / s**2 / np.log(2)),
        part="diffusion",
    ),
    "reflow": _flow._replace(make=objectives.reflow, batch=_with_noise),
    "stochastic_interpolant": Case(
        lambda density: objectives.stochastic_interpolant(
            objectives.interpolants.smooth_bridge(), density, ("mean_velocity", "velocity", "denoiser")
        ),
        lambda a, s, a_dot, s_dot, t: [[-1, 1, 0], [-1, 1, np.pi * np.sin(2 * np.pi * t)], [0, 0, 1]],
        lambda *_: 1.0,
        draws=("data", "noise", "noise"),
        state=lambda a, s, a_dot, s_dot, t: [1 - t, t, np.sin(np.pi * t) ** 2],
        batch=_with_noise,
    ),
    "schroedinger_bridge": Case(
        lambda density: objectives.schroedinger_bridge(0.7, density, couplings.independent()),
        lambda a, s, a_dot, s_dot, t: [[-1, 1, _bridge(t)[1]], [0, 0, 1]],
        lambda *_: 1.0,
        draws=("data", "noise", "noise"),
        state=lambda a, s, a_dot, s_dot, t: _bridge(t)[0],
        batch=_with_noise,
    ),
    # |u - p|^2 - 0.05 |u - n|^2 = 0.95 |u - (p - 0.05 n) / 0.95|^2 - 0.05 / 0.95 |p - n|^2, with p and n alike.
    "contrastive_flow_matching": Case(
        objectives.contrastive_flow_matching,
        lambda *c: [np.append(np.array(_velocity(*c)[0]) / 0.95, np.array(_velocity(*c)[0]) * -0.05 / 0.95)],
        lambda *_: 0.95,
        draws=("data", "noise", "data", "noise"),
        state=lambda a, s, *_: [a, s, 0, 0],
        # Var (p - n) = 2 Var p, of which Var of the target is (1 + 0.05^2) / 0.95^2.
        offset=lambda *_: -0.05 / 0.95 * 2 * 0.95**2 / (1 + 0.05**2),
    ),
    # Features that do not depend on the parameters, so that the terms are constants: 0 here, and metrics of their own.
    "alignment": _flow._replace(
        make=lambda density: objectives.added(objectives.flow_matching(density), objectives.alignment()),
        features=lambda x: jnp.ones((len(x), 3, 4)) * jnp.array([1.0, -1, 1, -1]),
    ),
    "dispersive": _flow._replace(
        make=lambda density: objectives.added(objectives.flow_matching(density), objectives.dispersive(1, 2)),
        features=lambda x: jnp.zeros((len(x), 5)),
    ),
}
every_objective = pytest.mark.parametrize("name", list(OBJECTIVES))


def losses_of(objective, network, schedule, keys, x, **batch):
    batch = {"x": x, "condition": None, "index": jnp.arange(len(x)), **batch}
    networks = {"model": network, "encoder": lambda x, clock, condition: jnp.ones((len(x), 3, 4))}
    networks["term"] = lambda h, shape: h  # the projector
    return objective(networks, schedule, keys, batch, 0)


def network_of(case, output):
    """The network of a case from a function (x, clock, condition) -> output for C channels."""

    def network(x, clock, condition, features=()):
        y = jnp.concatenate([output(x, clock, condition)] * len(case.targets(0.6, 0.8, -1, 1, 0.4)), axis=-1)
        return (y, (case.features(x),) * len(features)) if features else y

    return network


def spy(seen):
    def network(x, clock, condition):
        seen.append((x, clock, condition))
        return jnp.zeros_like(x)

    return network

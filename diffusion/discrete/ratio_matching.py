"""Categorical ratio matching: the law of each noised symbol by the others, whose ratios are the concrete score.

    p_t(y | x_t^others) = sum over a of p(a | x_t^others) q_t(y | a)

Here p(a | x_t^others) is what a network says of the clean symbol that sees the other positions alone. With
`from_context`, `ancestral` draws from it as the paper's analytical sampler does.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.discrete.bounds import check_ratios, noised
from diffusion.discrete.predictions import Reading, from_context, from_logits, predictor
from diffusion.discrete.processes import over_positions
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.symbol_objectives import in_nats
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective
from diffusion.timesteps import Density


def marginal_cross_entropy(process: AnyProcess, log_p: Array, x_t: Array, t: Array) -> Array:
    """The cross-entropy of each noised symbol with its law by the others.

        sum over positions of -log sum over a of p(a | x_t^others) q_t(x_t | a)

    Args:
        process: a process without a mask.
        log_p: float `[B, ..., K]` log-probabilities of each clean symbol by the other positions of x_t.
        x_t: int `[B, ...]` symbols at time t.
        t: `[B]` times in [0, 1].

    Returns:
        float32 `[B]` in nats an example.

    The paper: Sun et al. 2022, "Score-based Continuous-time Discrete Diffusion Models", its categorical ratio matching;
    the terms are those of the authors' code with a network of the clean symbols.
    """
    likelihood = process.likelihood(x_t, t)
    log_q = jnp.where(likelihood > 0, jnp.log(jnp.where(likelihood > 0, likelihood, 1.0)), -jnp.inf)
    return -over_positions(jax.nn.logsumexp(log_p + log_q, axis=-1))


def ratio_matching(process: AnyProcess, density: Density, reading: Reading = from_context) -> Objective:
    """Categorical ratio matching of a process without masks, for a network that leaves out the position it speaks of.

        loss = -log p_t(x_t | the other positions of x_t) / positions

    The clean data are seen through their noised symbols alone. It is no bound on -log p(x_0).

    Facts:
        loss: nats a symbol, `discrete.marginal_cross_entropy`
        networks: model, which puts out logits of x_0 and is hollow: a position sees the others alone
        optimum: p_t(x_t | the other positions), to which p(x_0 | the other positions) leads
        paper: Sun et al. 2022, "Score-based Continuous-time Discrete Diffusion Models"

    Args:
        process: the process, without a mask.
        density: the density of t in (0, 1).
        reading: the meaning of the network's output when it samples.

    Returns:
        An objective, whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: for masks or a path of distances; when called, for symbols out of range.
    """
    check_ratios("ratio_matching", process)
    if process.mask is not None:
        raise ValueError("ratio_matching: symbols that others cannot replace have no ratios. Valid: e.g. uniform")

    def nats(networks: Any, condition: Any, keys: Array, x0: Array, t: Array, step: Any) -> Array:
        x_t = noised(process, keys, x0, t)
        log_p = predictor(player(networks, "model"), process, from_logits, condition)(x_t, t)
        return marginal_cross_entropy(process, log_p, x_t, t)

    return in_nats(process, density, reading, nats, hollow=True)

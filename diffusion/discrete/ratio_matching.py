"""Categorical ratio matching: learns the distribution of each noised symbol given the others.

    p_t(y | x_t^others) = sum over a of p(a | x_t^others) q_t(y | a)

The ratios of this distribution are the concrete score. p(a | x_t^others) is predicted by a network that sees only the
other positions. With `from_context`, `ancestral` samples from it like the paper's analytical sampler.
"""

from typing import Any

import jax
from jax import Array

from diffusion.discrete.bounds import check_ratios, noised
from diffusion.discrete.categorical import log_probabilities
from diffusion.discrete.predictions import Reading, from_context, from_logits, predictor
from diffusion.discrete.processes import over_positions
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.symbol_objectives import in_nats
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective
from diffusion.timesteps import Density


def marginal_cross_entropy(process: AnyProcess, log_p: Array, x_t: Array, t: Array) -> Array:
    """The cross-entropy of each noised symbol under its distribution given the others.

        sum over positions of -log sum over a of p(a | x_t^others) q_t(x_t | a)

    Args:
        process: a process without a mask.
        log_p: float `[B, ..., K]` log-probabilities of each clean symbol given the other positions of x_t.
        x_t: int `[B, ...]` symbols at time t.
        t: `[B]` times in [0, 1].

    Returns:
        The cross-entropy, float32 `[B]` in nats per example.

    The paper: Sun et al. 2022, "Score-based Continuous-time Discrete Diffusion Models", its categorical ratio matching;
    the terms are those of the authors' code for a network that predicts clean symbols.
    """
    log_q = log_probabilities(process.likelihood(x_t, t))
    return -over_positions(jax.nn.logsumexp(log_p + log_q, axis=-1))


def ratio_matching(process: AnyProcess, density: Density, reading: Reading = from_context) -> Objective:
    """Categorical ratio matching of a process without masks, for a hollow network.

        loss = -log p_t(x_t | the other positions of x_t) / positions

    A hollow network's output at a position does not depend on the symbol there. The loss uses the clean data only
    through the noised symbols. It is not a bound on -log p(x_0).

    Facts:
        loss: nats per symbol, `discrete.marginal_cross_entropy`
        networks: model, which returns logits of x_0 and is hollow
        optimum: p(x_0 | the other positions), which gives p_t(x_t | the other positions)
        paper: Sun et al. 2022, "Score-based Continuous-time Discrete Diffusion Models"

    Args:
        process: the process, without a mask.
        density: density of t in (0, 1).
        reading: meaning of the network's output in sampling.

    Returns:
        An objective whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if the process has a mask or is a metric path; when called, if symbols are out of range.
    """
    check_ratios("ratio_matching", process)
    if process.mask is not None:
        raise ValueError("ratio_matching: symbols that others cannot replace have no ratios. Valid: e.g. uniform")

    def nats(networks: Any, condition: Any, keys: Array, x0: Array, t: Array, step: Any) -> Array:
        x_t = noised(process, keys, x0, t)
        log_p = predictor(player(networks, "model"), process, from_logits, condition)(x_t, t)
        return marginal_cross_entropy(process, log_p, x_t, t)

    return in_nats(process, density, reading, nats, hollow=True)

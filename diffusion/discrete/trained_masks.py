"""Masks whose schedules are trained with the network: the gradient of the bound trains the powers of `token_masks`.

    d/dw E_q [f_w(x_t)] = E_q [d/dw f_w(x_t)] + E_q [f_w(x_t) d/dw log q_w(x_t | x_0)]

The first term is the derivative of the bound's rates. The second is a REINFORCE term with two draws of x_t, which serve
as baselines for each other.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.discrete.bounds import noised, token_masked_at
from diffusion.discrete.predictions import Reading, from_logits, predictor
from diffusion.discrete.processes import over_positions
from diffusion.discrete.symbol_objectives import in_nats
from diffusion.discrete.token_masks import TokenMasks, token_masks
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import split
from diffusion.objectives.objective import Objective
from diffusion.objectives.objective_facts import Head
from diffusion.timesteps import Density


class TrainedMasks(TokenMasks):
    """The initial `TokenMasks`; the method `trained` returns the masks for trained parameters."""

    @staticmethod
    def trained(parameters: Array) -> TokenMasks:
        """The masks with the powers w = log(1 + exp(parameters)), for parameters float `[K - 1]`."""
        return TokenMasks(jax.nn.softplus(parameters))


def trained_masks(size: int, density: Density, power: float = 1.0, reading: Reading = from_logits) -> Objective:
    """The bound of token-dependent masks, whose powers are trained with the network.

        loss = (f_1 + f_2) / 2,    f_i = the sum of `token_masked_bound` at x_t^i, for two draws of x_t
        gradient = d loss + (f_1 - f_2) (d log q(x_t^1 | x_0) - d log q(x_t^2 | x_0)) / 2

    Sampling uses the trained powers. A training step evaluates the network twice.

    Facts:
        loss: nats per symbol, `discrete.token_masked_bound` with the trained powers
        networks: model; powers, called without arguments, which returns w `[K - 1]`
        optimum: p(x_0 | x_t), and the powers that minimise the bound
        paper: Shi et al. 2024, "Simplified and Generalized Masked Diffusion for Discrete Data", GenMD4; the estimator
            and the softplus are those of the authors' code, without its smallest time of 0.001

    Args:
        size: number K of symbols, at least 2, including the mask, which is the last symbol.
        density: density of t in (0, 1); only the uniform density gives the bound.
        power: initial exponent w of every symbol, > 0.
        reading: meaning of the network's output.

    Returns:
        An objective whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if a number is out of range; when called, if symbols are out of range.
    """
    if size < 2:
        raise ValueError(f"trained_masks: {size} symbols. Valid: at least 2, the mask among them")
    first = TrainedMasks(token_masks(np.full(size - 1, power)).powers)

    def nats(networks: Any, condition: Any, keys: Array, x0: Array, t: Array, step: Any) -> Array:
        process = TokenMasks(player(networks, "powers")())
        predict = predictor(player(networks, "model"), process, reading, condition)
        draws = [noised(process, keys, x0, t) for keys in split(keys, 2)]
        f_1, f_2 = (token_masked_at(process, predict(x_t, t), x_t, x0, t) for x_t in draws)
        log_q_1, log_q_2 = (_log_probability(process, x_t, x0, t) for x_t in draws)
        pull = jax.lax.stop_gradient(f_1 - f_2) * (log_q_1 - log_q_2) / 2
        return (f_1 + f_2) / 2 + pull - jax.lax.stop_gradient(pull)

    begin = lambda key, *sizes: jnp.full(size - 1, power + math.log(-math.expm1(-power)), jnp.float32)
    head = Head(None, begin, lambda parameters: TrainedMasks.trained(parameters).powers)
    return in_nats(first, density, reading, nats, heads={"powers": head})


def _log_probability(process: TokenMasks, x_t: Array, x0: Array, t: Array) -> Array:
    """log q(x_t | x_0) for each example, `[B]`."""
    here = x_t == process.mask
    masked = process.masked(x0, t)
    # The logarithm of an event that did not happen may be infinite, and its derivative NaN.
    log_q = jnp.where(here, jnp.log(jnp.where(here, masked, 1.0)), jnp.log1p(-jnp.where(here, 0.0, masked)))
    return over_positions(log_q)

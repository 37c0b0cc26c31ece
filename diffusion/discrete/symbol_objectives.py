"""Objectives of models of symbols, for runs.

Losses are in nats per symbol, as means over the positions of an example. If an objective is a bound, the mean of its
losses over the data is at least the entropy of the data divided by the number of positions.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import is_number, traced
from diffusion.discrete import block_by_block, bounds
from diffusion.discrete.chunked_likelihood import states_in_chunks
from diffusion.discrete.flow_paths import flow_cross_entropy
from diffusion.discrete.metric_paths import AnyPath, check_path
from diffusion.discrete.predictions import Predictor, Reading, from_logits, predictor
from diffusion.discrete.processes import check_symbols
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.token_masks import TokenMasks
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import split, times
from diffusion.objectives.objective import Objective, Restores, Teacher
from diffusion.objectives.objective_facts import Head, Trained
from diffusion.timesteps import Density


def masked_diffusion(
    process: AnyProcess | TokenMasks, density: Density, reading: Reading = from_logits, chunk: int = 0
) -> Objective:
    """Cross-entropy of the masked symbols, weighted to be the bound of a masked process in continuous time.

        loss = -alpha'(t) / (1 - alpha(t)) sum over masks of -log p(x_0 | x_t) / positions

    Facts:
        loss: nats per symbol, `discrete.masked_bound`, or `discrete.token_masked_bound` for token masks
        networks: model
        optimum: p(x_0 | x_t)
        paper: Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models"; Shi et al. 2024, "Simplified
            and Generalized Masked Diffusion for Discrete Data"

    Args:
        process: the process, which has a mask.
        density: density of t in (0, 1), such as `timesteps.uniform_density(schedule)`; only the uniform density gives
            the bound.
        reading: meaning of the network's output.
        chunk: number of positions whose logits are computed at once, so that no array has all positions and all
            symbols; it needs a network whose calls take `states`, such as `SymbolTransformer`. 0 for all positions.

    Returns:
        An objective whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if the process has no mask, or chunk > 0 with token masks or a reading other than logits; when
            called, if symbols are out of range.
    """
    check_path(process)
    if process.mask is None:
        raise ValueError("masked_diffusion: the process has no mask. Valid: absorbing, or another objective")
    if chunk < 0 or (chunk and (isinstance(process, TokenMasks) or reading is not from_logits)):
        raise ValueError(
            f"masked_diffusion: chunk = {chunk}. Valid: 0, or a number of positions where logits of a process with one "
            "schedule are read"
        )
    if isinstance(process, TokenMasks):
        bound = lambda predict, keys, x0, t: bounds.token_masked_bound(predict, process, keys, x0, t)
    elif chunk:
        return _chunked(process, process.mask, density, chunk)
    else:
        bound = lambda predict, keys, x0, t: bounds.masked_bound(predict, process, keys, x0, t)
    return _objective(process, density, reading, bound)


def block_diffusion(
    process: AnyProcess, density: Density, block: int = 16, reading: Reading = from_logits
) -> Objective:
    """The bound of block diffusion: each block by masked diffusion given the earlier blocks.

    Facts:
        loss: nats per symbol, `discrete.block_bound`
        networks: model
        optimum: p(x_0 | x_t), given clean earlier blocks and a partly masked block
        paper: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
            Models"

    Args:
        process: the process, which has a mask.
        density: density of t in (0, 1); only the uniform density gives the bound.
        block: number of positions in a block, at least 1, which must equal that of a block-causal network.
        reading: meaning of the network's output.

    Returns:
        An objective whose batch has symbols, int `[B, L]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if the process has no mask; when called, if symbols or block are out of range.
    """
    if process.mask is None:
        raise ValueError("block_diffusion: the process has no mask. Valid: absorbing, or another objective")
    return _objective(
        process,
        density,
        reading,
        lambda predict, keys, x0, t: block_by_block.block_bound(predict, process, keys, x0, t, block),
        causal=block,
    )


def score_entropy(process: AnyProcess, density: Density, reading: Reading = from_logits) -> Objective:
    """Score entropy of the ratios p_t(y) / p_t(x_t), the bound of any process in continuous time.

    Facts:
        loss: nats per symbol, `discrete.score_entropy_bound`
        networks: model
        optimum: p(x_0 | x_t)
        paper: Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution"; for
            uniform processes Schiff et al. 2024, "Simple Guidance Mechanisms for Discrete Diffusion Models"

    Args:
        process: the process.
        density: density of t in (0, 1); only the uniform density gives the bound.
        reading: meaning of the network's output; SEDD's networks predict ratios, `discrete.from_ratios`.

    Returns:
        An objective whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if the process is a metric path or token masks; when called, if symbols are out of range.
    """
    bounds.check_ratios("score_entropy", process)
    return _objective(
        process,
        density,
        reading,
        lambda predict, keys, x0, t: bounds.score_entropy_bound(predict, process, keys, x0, t),
    )


def hybrid_bound(
    process: AnyProcess, density: Density, steps: int = 1000, cross_entropy: float = 1.0, reading: Reading = from_logits
) -> Objective:
    """The bound of a process of T steps, plus a weighted cross-entropy of the clean symbols.

        loss = (T KL(q(x_s | x_t, x_0) || p(x_s | x_t)) + lambda sum over positions of -log p(x_0 | x_t)) / positions

    at t = (i + 1) / T and s = i / T, with i = floor(T u) for u drawn from the density.

    Facts:
        loss: nats per symbol, `discrete.discrete_time_bound` if lambda = 0
        networks: model
        optimum: p(x_0 | x_t)
        paper: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces", eq. 5

    Args:
        process: the process.
        density: density of u in (0, 1); only the uniform density gives the bound.
        steps: number T of steps, at least 1.
        cross_entropy: weight lambda of the cross-entropy, at least 0. The authors' code has the mean over steps instead
            of the sum, so its 0.001 is T 0.001 here.
        reading: meaning of the network's output.

    Returns:
        An objective whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if a number is out of range or the process is a metric path; when called, if symbols are out of
            range.
    """
    bounds.check_bounded("hybrid_bound", process)
    if steps < 1 or not (traced(cross_entropy) or cross_entropy >= 0):
        raise ValueError(
            f"hybrid_bound: {steps} steps, cross_entropy = {cross_entropy}. Valid: at least 1 step, and cross_entropy "
            "at least 0"
        )

    def loss(predict: Predictor, keys: Array, x0: Array, t: Array) -> Array:
        i = jnp.minimum((t * steps).astype(jnp.int32), steps - 1)
        bound = bounds.discrete_time_bound(predict, process, keys, x0, i, steps)
        if is_number(cross_entropy, 0):
            return bound
        at = (i + 1) / steps
        x_t = bounds.noised(process, keys, x0, at)  # the same draw as in the bound
        return bound + cross_entropy * flow_cross_entropy(predict, x0, x_t, at)

    return _objective(process, density, reading, loss)


def discrete_flow_matching(process: AnyPath, density: Density, reading: Reading = from_logits) -> Objective:
    """Cross-entropy of the clean symbol at every position, on the mixture path or a metric path; not a bound.

    Facts:
        loss: nats per symbol, `discrete.flow_cross_entropy`
        networks: model
        optimum: p(x_0 | x_t)
        paper: Gat et al. 2024, "Discrete Flow Matching"; for metric paths Shaul et al. 2024, "Flow Matching with
            General Discrete Paths"

    Args:
        process: the process, whose prior is the source and whose schedule is the paper's kappa, or a metric path.
        density: density of t in (0, 1).
        reading: meaning of the network's output.

    Returns:
        An objective whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: when called, if symbols are out of range.
    """

    def loss(predict: Predictor, keys: Array, x0: Array, t: Array) -> Array:
        return flow_cross_entropy(predict, x0, bounds.noised(process, keys, x0, t), t)

    return _objective(process, density, reading, loss)


def _chunked(process: AnyProcess, mask: int, density: Density, chunk: int) -> Objective:
    """`masked_diffusion` whose logits are computed for `chunk` positions at once."""

    def nats(networks: Any, condition: Any, keys: Array, x0: Array, t: Array, step: Any) -> Array:
        network: Any = player(networks, "model")
        states = lambda x_t, t: network(x_t, t, condition, states=True)
        likelihood = states_in_chunks(states, mask, chunk)
        return bounds.masked_bound_of(likelihood, process, keys, x0, t)

    return in_nats(process, density, from_logits, nats, last_layer=True)


def _objective(
    process: AnyPath, density: Density, reading: Reading, of_times: Callable[..., Array], causal: int = 0
) -> Objective:
    """The objective for nats `[B]` per example, a function of (predict, keys `[B]`, x0 `[B, ...]`, t `[B]`)."""

    def nats(networks: Any, condition: Any, keys: Array, x0: Array, t: Array, step: Any) -> Array:
        return of_times(predictor(player(networks, "model"), process, reading, condition), keys, x0, t)

    return in_nats(process, density, reading, nats, causal=causal)


def in_nats(
    process: AnyPath,
    density: Density,
    reading: Reading,
    nats: Callable[..., Array],
    teacher: Teacher | None = None,
    hollow: bool = False,
    last_layer: bool = False,
    causal: int = 0,
    heads: Mapping[str, Head] | None = None,
) -> Objective:
    """The objective for nats per example, divided by the number of positions.

    Args:
        process: the process.
        density: density of t in (0, 1).
        reading: meaning of the network's output.
        nats: (networks, condition, keys `[B]`, x0 `[B, ...]`, t `[B]`, step) -> nats `[B]`.
        teacher: the objective's use of a teacher, or None.
        hollow: whether the network's output at a position must depend only on the other positions.
        last_layer: whether the loss evaluates the network's last layer.
        causal: number of positions in a block that a block-causal network must have; 0 if the network must not be
            block-causal.
        heads: networks that train with the model, by name.
    """

    check_path(process)

    @entry(symbols=True)
    def loss(networks, schedule, keys, batch, step):
        x0, noise_keys, t, importance = drawn_times(process, density, schedule, keys, batch)
        losses = nats(networks, batch.get("condition"), noise_keys, x0, t, step)
        return importance * losses / math.prod(x0.shape[1:]), {"t": t}

    reads = Restores(process, reading)
    network = Trained(channels=1, hollow=hollow, last_layer=last_layer, causal=causal)
    return Objective(loss, reads=reads, density=density, network=network, heads=heads, teacher=teacher)


def drawn_times(
    process: AnyPath, density: Density, schedule: Any, keys: Array, batch: Any
) -> tuple[Array, Array, Array, Array]:
    """The symbols of a batch, the keys of their noise, their times and importance weights, each `[B, ...]`.

    Raises:
        ValueError: if the schedule's t_max is not 1, or symbols are out of range.
    """
    if schedule.t_max != 1:
        raise ValueError(
            f"symbols have times in [0, 1], but this schedule has t_max = {schedule.t_max:g}. Valid: rectified_flow()"
        )
    x0 = batch["x"]
    check_symbols(process, x0, 'batch["x"]')
    time_keys, noise_keys = split(keys, 2)
    return x0, noise_keys, *times(density, time_keys, batch)

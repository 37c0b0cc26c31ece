"""Objectives of models of symbols: how a run trains them, and how it reads the trained network.

Losses are in nats a symbol: the mean over the positions of an example. Where an objective is a bound, the mean of its
losses over the data is at least the entropy of the data by the number of positions.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion.discrete import block_by_block, bounds
from diffusion.discrete.chunked_likelihood import states_in_chunks
from diffusion.discrete.flow_paths import flow_cross_entropy
from diffusion.discrete.metric_paths import AnyPath
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
    """Cross-entropy of the masked symbols, weighted so that it is the bound of a masked process in continuous time.

        loss = -alpha'(t) / (1 - alpha(t)) sum over masks of -log p(x_0 | x_t) / positions

    Facts:
        loss: nats a symbol, `discrete.masked_bound`, or `discrete.token_masked_bound` of token masks
        networks: model
        optimum: p(x_0 | x_t)
        paper: Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models"; Shi et al. 2024, "Simplified
            and Generalized Masked Diffusion for Discrete Data"

    Args:
        process: the process, which has a mask.
        density: the density of t in (0, 1), such as `timesteps.uniform_density(schedule)`; only the uniform one gives
            the bound.
        reading: the meaning of the network's output.
        chunk: number of positions whose logits are computed at once, so that no array has all positions and all
            symbols, by a network whose calls take `states` as those of `SymbolTransformer` do; 0: all positions.

    Returns:
        An objective, whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if the process has no mask, and for chunks of token masks or of another reading than logits; when
            called, for symbols out of range.
    """
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
    """The bound of blocks one after another, each by masked diffusion beside the blocks before it.

    Facts:
        loss: nats a symbol, `discrete.block_bound`
        networks: model
        optimum: p(x_0 | x_t), of blocks whose last is masked in part
        paper: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
            Models"

    Args:
        process: the process, which has a mask.
        density: the density of t in (0, 1); only the uniform one gives the bound.
        block: number of positions of a block, at least 1; a block-causal network has the same number.
        reading: the meaning of the network's output.

    Returns:
        An objective, whose batch has symbols, int `[B, L]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if the process has no mask; when called, for symbols or a block out of range.
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
        loss: nats a symbol, `discrete.score_entropy_bound`
        networks: model
        optimum: p(x_0 | x_t)
        paper: Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution"; for
            uniform processes Schiff et al. 2024, "Simple Guidance Mechanisms for Discrete Diffusion Models"

    Args:
        process: the process.
        density: the density of t in (0, 1); only the uniform one gives the bound.
        reading: the meaning of the network's output; SEDD's networks put out ratios, `discrete.from_ratios`.

    Returns:
        An objective, whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: for a path of distances or token masks; when called, for symbols out of range.
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
    """The bound of a process of T steps, with a share of the cross-entropy of the clean symbols.

        loss = (T KL(q(x_s | x_t, x_0) || p(x_s | x_t)) + lambda sum over positions of -log p(x_0 | x_t)) / positions

    at t = (i + 1) / T and s = i / T, with i = floor(T u) for a draw u of the density.

    Facts:
        loss: nats a symbol, `discrete.discrete_time_bound` where lambda = 0
        networks: model
        optimum: p(x_0 | x_t)
        paper: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces", eq. 5

    Args:
        process: the process.
        density: the density of u in (0, 1); only the uniform one gives the bound.
        steps: number T of steps, at least 1.
        cross_entropy: share lambda of the cross-entropy, at least 0. The authors' code takes the mean over the steps in
            place of their sum: its 0.001 is T 0.001 here.
        reading: the meaning of the network's output.

    Returns:
        An objective, whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: for a number out of range or a path of distances; when called, for symbols out of range.
    """
    bounds.check_bounded("hybrid_bound", process)
    if steps < 1 or not cross_entropy >= 0:
        raise ValueError(
            f"hybrid_bound: {steps} steps, cross_entropy = {cross_entropy}. Valid: at least 1 step, and cross_entropy "
            "at least 0"
        )

    def loss(predict: Predictor, keys: Array, x0: Array, t: Array) -> Array:
        i = jnp.minimum((t * steps).astype(jnp.int32), steps - 1)
        bound = bounds.discrete_time_bound(predict, process, keys, x0, i, steps)
        if cross_entropy == 0:
            return bound
        at = (i + 1) / steps
        x_t = bounds.noised(process, keys, x0, at)  # the same draw as that of the bound
        return bound + cross_entropy * flow_cross_entropy(predict, x0, x_t, at)

    return _objective(process, density, reading, loss)


def discrete_flow_matching(process: AnyPath, density: Density, reading: Reading = from_logits) -> Objective:
    """Cross-entropy of every position's clean symbol on the mixture path or a path of distances; no bound.

    Facts:
        loss: nats a symbol, `discrete.flow_cross_entropy`
        networks: model
        optimum: p(x_0 | x_t)
        paper: Gat et al. 2024, "Discrete Flow Matching"; for paths of distances Shaul et al. 2024, "Flow Matching with
            General Discrete Paths"

    Args:
        process: the process, whose prior is the source and whose schedule is the paper's kappa, or a path of distances.
        density: the density of t in (0, 1).
        reading: the meaning of the network's output.

    Returns:
        An objective, whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: when called, for symbols out of range.
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
    """The objective of the nats of an example `[B]`, a function of (predict, keys `[B]`, x0 `[B, ...]`, t `[B]`)."""

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
    """The objective of the nats of an example, which are divided by its positions.

    Args:
        process: the process.
        density: the density of t in (0, 1).
        reading: the meaning of the network's output.
        nats: (networks, condition, keys `[B]`, x0 `[B, ...]`, t `[B]`, step) -> nats `[B]`.
        teacher: the use of a trained network.
        hollow: whether the network must say of each position what the others tell.
        last_layer: whether the loss computes the network's last layer.
        causal: number of positions of a block that a block-causal network must have; 0: the network must be none.
        heads: networks that train with the model, by name.
    """

    @entry(symbols=True)
    def loss(networks, schedule, keys, batch, step):
        x0, noise_keys, t, importance = drawn_times(process, density, schedule, keys, batch)
        losses = nats(networks, batch.get("condition"), noise_keys, x0, t, step)
        return importance * losses / x0[0].size, {"t": t}

    reads = Restores(process, reading)
    network = Trained(channels=1, hollow=hollow, last_layer=last_layer, causal=causal)
    return Objective(loss, reads=reads, density=density, network=network, heads=heads, teacher=teacher)


def drawn_times(
    process: AnyPath, density: Density, schedule: Any, keys: Array, batch: Any
) -> tuple[Array, Array, Array, Array]:
    """The symbols of a batch, the keys of their noise, their times and the importance of these, each `[B, ...]`.

    Raises:
        ValueError: for a schedule of other times than [0, 1], and symbols out of range.
    """
    if schedule.t_max != 1:
        raise ValueError(
            f"symbols have times in [0, 1], but this schedule has t_max = {schedule.t_max:g}. Valid: rectified_flow()"
        )
    x0 = batch["x"]
    check_symbols(process, x0, 'batch["x"]')
    time_keys, noise_keys = split(keys, 2)
    return x0, noise_keys, *times(density, time_keys, batch)

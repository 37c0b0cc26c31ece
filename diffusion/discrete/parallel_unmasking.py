"""Parallel unmasking: the network chooses which masks a step fills in, by its confidence or by its entropy."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import require_keys
from diffusion.discrete.categorical import draw
from diffusion.discrete.predictions import Predictor
from diffusion.discrete.processes import check_symbols
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.discrete.steps import Law, stepped

Choice = Callable[[Array, Array], Array]
"""(log p(x_0 | x_t) `[B, L, K]`, masked Bool `[B, L]`) -> masks to fill in, Bool `[B, L]`, at least one of any."""


def unmasking(choose: Choice) -> SymbolSampler:
    """Fills in the masks that a choice names, each from its own probabilities; a step that ends at t = 0 fills in all.

    Only the end of a plan's last step is read from its times: the number of steps is the greatest that it may take.
    `until_unmasked` takes as many as are needed.

    Facts:
        nfe: steps
        paper: Wu et al. 2025 for `confident`, Ben-Hamu et al. 2025 for `low_entropy`

    Args:
        choose: the masks to fill in, `confident(...)`, `low_entropy(...)` or your own.
    """
    return stepped(unmasking_law(choose), masked=True)


def unmasking_law(choose: Choice) -> Law:
    """The law of a step of `unmasking`."""

    def law(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array) -> Array:
        log_x0 = predict(x, mask_time(process, x))
        masked = (x == process.mask).reshape(len(x), -1)
        chosen = choose(log_x0.reshape(*masked.shape, -1), masked) | (s <= 0)[:, None]
        filled = (masked & chosen).reshape(x.shape)
        return jnp.where(filled[..., None], jnp.exp(log_x0), jax.nn.one_hot(x, process.size))

    return law


def until_unmasked(
    choose: Choice, predict: Predictor, process: AnyProcess, x: Array, keys: Array
) -> tuple[Array, Array]:
    """Takes steps of `unmasking` until no example has a mask.

    Args:
        choose: the masks to fill in, `confident(...)`, `low_entropy(...)` or your own.
        predict: (x_t, t) -> log p(x_0 | x_t).
        process: a masked process.
        x: int `[B, ...]` symbols, for example all masks.
        keys: `[B]` typed random keys. Sample i depends on x[i] and keys[i] alone.

    Returns:
        int32 `[B, ...]` symbols without masks, and int32 `[B]` numbers of evaluations that each example needed. The
        network is evaluated on the whole batch, as often as the greatest of them says.

    Raises:
        TypeError: for symbols that are no whole numbers.
        ValueError: for a process without masks, symbols out of range, or keys that are not one for each sample.
    """
    check_symbols(process, x, "x")
    require_keys(keys, len(x), "a sampler of symbols needs one key for each sample")
    if process.mask is None:
        raise ValueError("until_unmasked fills in masks, but this process has none. Valid: discrete.absorbing")
    law = unmasking_law(choose)
    masks = lambda x: jnp.any((x == process.mask).reshape(len(x), -1), -1)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, x, evaluations = state
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        going = jnp.ones(len(x))  # no step is the last
        return i + 1, draw(step_keys, law(predict, process, x, going, going)), evaluations + masks(x)

    start = (jnp.int32(0), x.astype(jnp.int32), jnp.zeros(len(x), jnp.int32))
    _, x, evaluations = jax.lax.while_loop(lambda state: jnp.any(masks(state[1])), step, start)
    return x, evaluations


def confident(threshold: float) -> Choice:
    """All masks whose likeliest symbol has a probability of at least the threshold, and the surest mask.

    Facts:
        paper: Wu et al. 2025, "Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel
            Decoding", its confidence-aware parallel decoding

    Args:
        threshold: least probability, in (0, 1]; at 1 nearly every step fills in one mask.

    Raises:
        ValueError: if the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"confident: threshold = {threshold}. Valid: a probability in (0, 1], e.g. 0.9")

    def choose(log_x0: Array, masked: Array) -> Array:
        confidence = jnp.where(masked, jnp.max(log_x0, -1), -jnp.inf)
        surest = jax.nn.one_hot(jnp.argmax(confidence, -1), masked.shape[-1], dtype=bool)
        return masked & (surest | (confidence >= math.log(threshold)))

    return choose


def low_entropy(bound: float) -> Choice:
    """The masks of least entropy, as many as keep their dependence below a bound.

        the greatest n with H_1 + ... + H_n - max(H_1, ..., H_n) <= bound,    H_1 <= H_2 <= ...

    The left side bounds the mutual information of the n symbols in nats, which independent draws neglect.

    Facts:
        paper: Ben-Hamu et al. 2025, "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking"

    Args:
        bound: number of nats, at least 0; at 0 a step fills in what is certain, and one mask more.

    Raises:
        ValueError: if the bound is below 0 or not finite.
    """
    if not 0 <= bound < math.inf:
        raise ValueError(f"low_entropy: bound = {bound}. Valid: at least 0, in nats, e.g. 0.1")

    def choose(log_x0: Array, masked: Array) -> Array:
        terms = jnp.where(log_x0 > -jnp.inf, jnp.exp(log_x0) * log_x0, 0.0)
        entropy = jnp.where(masked, jnp.maximum(-jnp.sum(terms, -1), 0.0), jnp.inf)
        order = jnp.argsort(entropy, -1)
        ordered = jnp.take_along_axis(entropy, order, -1)
        before = jnp.cumsum(jnp.where(jnp.isfinite(ordered), ordered, 0.0), -1) - ordered  # the sum without the largest
        allowed = jnp.isfinite(ordered) & (before <= bound)
        return jnp.take_along_axis(allowed, jnp.argsort(order, -1), -1)

    return choose


def surest(number: int) -> Choice:
    """The masks whose likeliest symbols have the greatest probabilities, a fixed number of them.

    With the likeliest symbol alone (`top_k` of 1) it is LLaDA's low-confidence remasking.

    Facts:
        paper: Nie et al. 2025, "Large Language Diffusion Models", its low-confidence remasking; Chang et al. 2022,
            "MaskGIT"

    Args:
        number: number of masks, at least 1; all where fewer are left.

    Raises:
        ValueError: if the number is below 1.
    """
    if number < 1:
        raise ValueError(f"surest: number = {number}. Valid: at least 1")

    def choose(log_x0: Array, masked: Array) -> Array:
        confidence = jnp.where(masked, jnp.max(log_x0, -1), -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-confidence, -1), -1)
        return masked & (rank < number)

    return choose


def blockwise(choose: Choice, block: int) -> Choice:
    """A choice among the masks of the first block that has any: blocks are filled in from left to right.

    Facts:
        paper: Nie et al. 2025, "Large Language Diffusion Models", its semi-autoregressive remasking

    Args:
        choose: the choice within a block, such as `surest(1)`.
        block: number of positions of a block, at least 1.

    Raises:
        ValueError: if the block is below 1.
    """
    if block < 1:
        raise ValueError(f"blockwise: block = {block}. Valid: at least 1")

    def choose_there(log_x0: Array, masked: Array) -> Array:
        numbers = jnp.arange(masked.shape[-1]) // block
        first = jnp.argmax(masked, -1)[:, None] // block
        return choose(log_x0, masked & (numbers == first))

    return choose_there


def mask_time(process: AnyProcess, x: Array) -> Array:
    """The time `[B]` at which as many masks are expected as x `[B, ...]` has: where 1 - alpha(t) is their share."""
    share = jnp.mean((x == process.mask).reshape(len(x), -1), -1)
    return process.keeping.time(1 - share)

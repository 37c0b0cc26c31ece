"""Parallel unmasking: each step unmasks the positions where the network is confident, or its entropy is low."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import require_keys
from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import functions_of, traced
from diffusion.discrete.categorical import draw
from diffusion.discrete.predictions import Predictor, only_normalised
from diffusion.discrete.processes import check_symbols
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.discrete.steps import Law, stepped

Choice = Callable[[Array, Array], Array]
"""(log p(x_0 | x_t) `[B, L, K]`, masked Bool `[B, L]`) -> Bool `[B, L]`: the masks to fill in.

At least one mask is chosen in each example that has any.
"""


def unmasking(choose: Choice) -> SymbolSampler:
    """Fills in the masks that `choose` selects, independently of each other; a step to t = 0 fills in all masks.

    Of a plan's times only the last one matters, and the plan's number of steps is an upper limit. `until_unmasked`
    takes as many steps as are needed.

    Facts:
        nfe: steps
        paper: Wu et al. 2025 for `confident`, Ben-Hamu et al. 2025 for `low_entropy`

    Args:
        choose: choice of the masks to fill in, such as `confident(...)` or `low_entropy(...)`.
    """
    return stepped(unmasking_law(choose), masked=True)


def unmasking_law(choose: Choice) -> Law:
    """The distribution of a step of `unmasking`."""

    def law(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array) -> Array:
        log_x0 = predict(x, mask_time(process, x))
        masked = flattened(x == process.mask)
        flat = log_x0.reshape(*masked.shape, process.size)
        lost = jnp.isnan(flat).any(-1)  # a choice might never take these, and then the loop would not end
        chosen = choose(flat, masked) | lost | (s <= 0)[:, None]
        filled = (masked & chosen).reshape(x.shape)
        return jnp.where(filled[..., None], jnp.exp(log_x0), jax.nn.one_hot(x, process.size))

    return law


def until_unmasked(
    choose: Choice, predict: Predictor, process: AnyProcess, x: Array, keys: Array
) -> tuple[Array, Array]:
    """Runs steps of `unmasking` until no example has a mask.

    Args:
        choose: choice of the masks to fill in, such as `confident(...)` or `low_entropy(...)`.
        predict: (x_t int `[B, ...]`, t `[B]`) -> log p(x_0 | x_t) `[B, ..., K]` for K symbols.
        process: a process with a mask.
        x: int `[B, ...]` symbols in [0, K), for example all masks.
        keys: `[B]` typed random keys. Sample i depends only on x[i] and keys[i].

    Returns:
        (symbols int32 `[B, ...]` without masks, -1 where the prediction was NaN or its probabilities did not sum to 1;
        number of evaluations that each example needed, int32 `[B]`). The network is evaluated on the whole batch, as
        often as the slowest example needs.

    Raises:
        TypeError: if symbols are not integers.
        ValueError: if the process has no mask, symbols are out of range, or there is not one key for each sample.
    """
    check_symbols(process, x, "x")
    require_keys(keys, len(x), "a sampler of symbols needs one key for each sample")
    if process.mask is None:
        raise ValueError("until_unmasked fills in masks, but this process has none. Valid: discrete.absorbing")
    law = unmasking_law(choose)
    masks = lambda x: jnp.any(flattened(x == process.mask), -1)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, x, evaluations = state
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        going = jnp.ones(len(x), jnp.float32)  # end times above 0, because a step to t = 0 fills in all masks
        drawn = draw(step_keys, law(lambda x, t: only_normalised(predict(x, t)), process, x, going, going))
        return i + 1, jnp.where(x < 0, x, drawn), evaluations + masks(x).astype(jnp.int32)

    start = (jnp.int32(0), x.astype(jnp.int32), jnp.zeros(len(x), jnp.int32))
    _, x, evaluations = jax.lax.while_loop(lambda state: jnp.any(masks(state[1])), step, start)
    return x, evaluations


def confident(threshold: float) -> Choice:
    """Chooses all masks whose likeliest symbol is at least as probable as a threshold, and always the surest mask.

    Facts:
        paper: Wu et al. 2025, "Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel
            Decoding", its confidence-aware parallel decoding

    Args:
        threshold: smallest probability, in (0, 1]; at 1, nearly every step fills in a single mask.

    Raises:
        ValueError: if threshold is not in (0, 1].
    """
    if not traced(threshold) and not 0 < threshold <= 1:
        raise ValueError(f"confident: threshold = {threshold}. Valid: a probability in (0, 1], e.g. 0.9")

    def choose(log_x0: Array, masked: Array) -> Array:
        confidence = jnp.where(masked, jnp.max(log_x0, -1), -jnp.inf)
        surest = jax.nn.one_hot(jnp.argmax(confidence, -1), masked.shape[-1], dtype=bool)
        return masked & (surest | (confidence >= functions_of(threshold).log(threshold)))

    return choose


def low_entropy(bound: float) -> Choice:
    """Chooses the masks with the least entropy, as many as a bound on their mutual information allows.

        the greatest n with H_1 + ... + H_n - max(H_1, ..., H_n) <= bound,    H_1 <= H_2 <= ...

    The left side is an upper bound of the mutual information of the n symbols in nats, which independent draws neglect.

    Facts:
        paper: Ben-Hamu et al. 2025, "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking"

    Args:
        bound: bound in nats, at least 0; at 0, a step fills in all certain masks and one more.

    Raises:
        ValueError: if bound is below 0 or not finite.
    """
    if not traced(bound) and not 0 <= bound < math.inf:
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
    """Chooses a fixed number of masks, those whose likeliest symbols have the largest probabilities.

    With greedy draws (`top_k` with number 1) this is LLaDA's low-confidence remasking.

    Facts:
        paper: Nie et al. 2025, "Large Language Diffusion Models", its low-confidence remasking; Chang et al. 2022,
            "MaskGIT"

    Args:
        number: number of masks, at least 1; if fewer are left, all of them are chosen.

    Raises:
        ValueError: if number is below 1.
    """
    if number < 1:
        raise ValueError(f"surest: number = {number}. Valid: at least 1")

    def choose(log_x0: Array, masked: Array) -> Array:
        confidence = jnp.where(masked, jnp.max(log_x0, -1), -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-confidence, -1), -1)
        return masked & (rank < number)

    return choose


def blockwise(choose: Choice, block: int) -> Choice:
    """Restricts a choice to the first block with masks, so that blocks are filled in from left to right.

    Facts:
        paper: Nie et al. 2025, "Large Language Diffusion Models", its semi-autoregressive remasking

    Args:
        choose: the choice within a block, such as `surest(1)`.
        block: number of positions in a block, at least 1.

    Raises:
        ValueError: if block is below 1.
    """
    if block < 1:
        raise ValueError(f"blockwise: block = {block}. Valid: at least 1")

    def choose_there(log_x0: Array, masked: Array) -> Array:
        numbers = jnp.arange(masked.shape[-1]) // block
        first = jnp.argmax(masked, -1)[:, None] // block
        return choose(log_x0, masked & (numbers == first))

    return choose_there


def mask_time(process: AnyProcess, x: Array) -> Array:
    """The time `[B]` at which the expected share of masks, 1 - alpha(t), equals that of x `[B, ...]`."""
    share = jnp.mean(flattened(x == process.mask), -1)
    return process.keeping.time(1 - share)

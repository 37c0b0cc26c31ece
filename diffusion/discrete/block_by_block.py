"""Block diffusion: generates blocks of positions in order, each by masked diffusion given the earlier blocks.

    -log p(x) = sum over blocks b of -log p(x^b | x^1 .. x^(b-1))

A network that reads all positions can be used. It sees the earlier blocks unmasked, the current block partly masked,
and masks in all later blocks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.discrete.bounds import noised
from diffusion.discrete.categorical import draw
from diffusion.discrete.predictions import Predictor, check_normalised
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.sampling_loop import SymbolSampler, sample
from diffusion.discrete.steps import ancestral_law
from diffusion.timesteps import Plan


def block_bound(predict: Predictor, process: AnyProcess, keys: Array, x0: Array, t: Array, block: int) -> Array:
    """The bound of block diffusion in continuous time, estimated at one block and one time for each example.

        -log p(x_0) <= B E_b E_t [-alpha'(t) / (1 - alpha(t)) sum over masks of block b of -log p(x_0 | x^<b, x^b_t)]

    with b uniform over the blocks, B in number, and t uniform in (0, 1). With the exact predictor the mean of the bound
    over the data is the entropy of the data; with one block the bound is `masked_bound`.

    Args:
        predict: (x_t int `[N, L]`, t `[N]`) -> log p(x_0 | x_t) `[N, L, K]` of all positions; t is the block's time.
        process: a process with a mask.
        keys: `[N]` typed random keys, one for each of the N examples.
        x0: int `[N, L]` symbols of the data, without masks.
        t: `[N]` times in (0, 1); to estimate the bound, they must be uniform.
        block: number of positions in a block, from 1 to L; the last block may be shorter.

    Returns:
        The estimate of each example, float32 `[N]` in nats.

    Raises:
        ValueError: if the process has no mask or block is out of range, and under the conditions of `noised`.

    The paper: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
    Models", eq. 8. The authors compute all blocks of an example in one call, by an attention mask.
    """
    number = _blocks(process, x0.shape[-1], block)
    noise_keys, block_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    block_numbers = jnp.arange(x0.shape[-1]) // block
    chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, number))(block_keys)[:, None]
    mask = jnp.asarray(process.mask)  # `_blocks` refuses processes without a mask
    x_t = jnp.where(block_numbers < chosen, x0, noised(process, noise_keys, x0, t))
    x_t = jnp.where(block_numbers > chosen, mask, x_t)
    log_x0 = jnp.take_along_axis(check_normalised(predict(x_t, t)), x0[..., None], -1)[..., 0]
    errors = jnp.where((x_t == mask) & (block_numbers == chosen), -log_x0, 0.0)
    return number * process.keeping.unmasking_rate(t) * jnp.sum(errors, -1)


def semi_autoregressive(block: int) -> SymbolSampler:
    """Unmasks block after block, each in the same number of ancestral steps, given the earlier blocks.

    Only the number of steps in a plan matters: every block uses the same number of equal steps from t = 1 to 0. With
    blocks of one position and one step per block, the distribution is exact, as in an autoregressive model.

    Facts:
        nfe: steps
        paper: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
            Models"; Nie et al. 2025, "Large Language Diffusion Models", its semi-autoregressive remasking

    Args:
        block: number of positions in a block, at least 1; the last block may be shorter.

    Raises:
        ValueError: if block is out of range; when sampling, if the number of steps is not a multiple of the number of
            blocks.
    """
    if block < 1:
        raise ValueError(f"semi_autoregressive: block = {block}. Valid: at least 1")

    def init(x: Array, process: AnyProcess, plan: Plan) -> tuple[Array]:
        number, steps = _blocks(process, x.shape[-1], block), len(plan.t)
        if steps % number:
            raise ValueError(
                f"semi_autoregressive: {steps} steps cannot be shared equally by {number} blocks. Valid: a multiple "
                f"of {number}"
            )
        return (x,)

    def step(
        state: tuple[Array], predict: Predictor, process: AnyProcess, plan: Plan, i: ArrayLike, keys: Array
    ) -> tuple[Array]:
        (x,) = state
        parts = len(plan.t) // _blocks(process, x.shape[-1], block)
        now, within = jnp.divmod(jnp.asarray(i), parts)
        t, s = (jnp.full(len(x), 1 - (within + more) / parts, jnp.float32) for more in (0, 1))
        return (draw(keys, semi_autoregressive_law(predict, process, x, t, s, block, now)),)

    return SymbolSampler(init, step, lambda steps: steps, masked=True)


def semi_autoregressive_law(
    predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array, block: int, now: ArrayLike
) -> Array:
    """The distribution of a step of `semi_autoregressive` in the block `now`: float32 `[B, L, K]`.

    The positions of the block take a step of `ancestral`; the others do not change.
    """
    law = ancestral_law(predict, process, x, t, s)
    here = (jnp.arange(x.shape[-1]) // block == now)[:, None]
    return jnp.where(here, law, jax.nn.one_hot(x, process.size))


def sample_blocks(
    sampler: SymbolSampler,
    predict: Callable[[Any], Predictor],
    remember: Callable[[Array, Any], Any],
    process: AnyProcess,
    x: Array,
    plan: Plan,
    keys: Array,
    memory: Any,
    block: int,
) -> Array:
    """Samples block after block by a block-causal network that stores keys and values and evaluates only the new block.

        x[b] = sample(sampler, predict(memory_b), x[b]),    memory_{b + 1} = remember(x[b], memory_b)

    The samples are those that an evaluation of all positions would give, but each position is evaluated steps + 1 times
    instead of steps times the number of blocks. With `ancestral` in equal steps, the distribution equals that of
    `semi_autoregressive`.

    Args:
        sampler: any sampler that fits the process; it runs its steps for each block.
        predict: memory -> a predictor of the next block `[B, block]`, see `models.layers.key_value_memory.reading`.
        remember: (x `[B, block]`, memory) -> the memory with these symbols added; see
            `models.symbol_memory.remembered`.
        process: the process.
        x: int `[B, L]` symbols at plan.t[0], where L is a multiple of block.
        plan: the steps for each block.
        keys: `[B]` typed random keys. Sample i depends only on x[i] and keys[i].
        memory: memory of earlier symbols, or `models.symbol_memory.empty`.
        block: number of positions in a block, at least 1.

    Returns:
        int32 `[B, L]` symbols at plan.s[-1].

    Raises:
        ValueError: if block does not divide the number of positions, and under the conditions of `sample`.

    The paper: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
    Models", algorithm 2, which keeps keys and values.
    """
    if block < 1 or x.shape[1] % block:
        raise ValueError(f"sample_blocks: block = {block} does not divide {x.shape[1]} positions. Valid: a divisor")

    def next_block(memory: Any, step: tuple[Array, Array]) -> tuple[Any, Array]:
        i, start = step
        block_keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        symbols = sample(sampler, predict(memory), process, start, plan, block_keys)
        return remember(symbols, memory), symbols

    blocks = jnp.moveaxis(x.reshape(len(x), -1, block), 1, 0)
    _, samples = jax.lax.scan(next_block, memory, (jnp.arange(len(blocks)), blocks))
    return jnp.moveaxis(samples, 0, 1).reshape(x.shape)


def _blocks(process: AnyProcess, length: int, block: int) -> int:
    """The number of blocks in `length` positions."""
    if process.mask is None:
        raise ValueError("block diffusion masks blocks, but this process has no mask. Valid: discrete.absorbing")
    if not 1 <= block <= length:
        raise ValueError(f"block = {block} of a sequence of {length} positions. Valid: 1 .. {length}")
    return -(-length // block)

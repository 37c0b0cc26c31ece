"""Block diffusion: blocks of positions one after another, each by masked diffusion beside the blocks before it.

    -log p(x) = sum over blocks b of -log p(x^b | x^1 .. x^(b-1))

A network of all positions serves: it sees the blocks before as they are, the block itself masked in part, and masks
behind it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.discrete.bounds import noised
from diffusion.discrete.categorical import draw
from diffusion.discrete.predictions import Predictor
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.sampling_loop import SymbolSampler, sample
from diffusion.discrete.steps import ancestral_law
from diffusion.timesteps import Plan


def block_bound(predict: Predictor, process: AnyProcess, keys: Array, x0: Array, t: Array, block: int) -> Array:
    """The bound of block diffusion in continuous time, at one block and one time for each example.

        -log p(x_0) <= B E_b E_t [-alpha'(t) / (1 - alpha(t)) sum over masks of block b of -log p(x_0 | x^<b, x^b_t)]

    with b uniform over the B blocks and t uniform in (0, 1). With the exact predictor its mean over the data is the
    entropy of the data; with one block it is `masked_bound`.

    Args:
        predict: (x_t, t) -> log p(x_0 | x_t), of all positions; t is the time of the block.
        process: a masked process.
        keys: `[B]` typed random keys.
        x0: int `[B, L]` symbols of the data, no masks.
        t: `[B]` times in (0, 1), uniform for the bound.
        block: number of positions of a block, at least 1; the last block may be shorter.

    Returns:
        float32 `[B]` in nats an example.

    Raises:
        ValueError: for a process without masks or a block out of range, and as `noised`.

    The paper: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
    Models", eq. 8; it computes all blocks of an example in one call, by an attention mask.
    """
    number = _blocks(process, x0.shape[-1], block)
    noise_keys, block_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    block_numbers = jnp.arange(x0.shape[-1]) // block
    chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, number))(block_keys)[:, None]
    mask = jnp.asarray(process.mask)  # `_blocks` has refused processes without one
    x_t = jnp.where(block_numbers < chosen, x0, noised(process, noise_keys, x0, t))
    x_t = jnp.where(block_numbers > chosen, mask, x_t)
    log_x0 = jnp.take_along_axis(predict(x_t, t), x0[..., None], -1)[..., 0]
    errors = jnp.where((x_t == mask) & (block_numbers == chosen), -log_x0, 0.0)
    return number * process.keeping.unmasking_rate(t) * jnp.sum(errors, -1)


def semi_autoregressive(block: int) -> SymbolSampler:
    """Fills in block after block, each in an equal number of ancestral steps, beside the blocks before it.

    Only the number of steps is read from a plan: every block takes the same number, from t = 1 to 0 in equal parts.
    With blocks of one position and one step for each, the distribution is exact, as in an autoregressive model.

    Facts:
        nfe: steps
        paper: Arriola et al. 2025, "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language
            Models"; Nie et al. 2025, "Large Language Diffusion Models", its semi-autoregressive remasking

    Args:
        block: number of positions of a block, at least 1; the last block may be shorter.

    Raises:
        ValueError: for a block out of range; when it samples, if the steps are no multiple of the number of blocks.
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
    """The law of a step of `semi_autoregressive` in the block `now`: float32 `[B, L, K]`.

    That of `ancestral` in the block, and x as it is elsewhere.
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
    """Block after block by a block-causal network, which keeps what it saw and evaluates the new block alone.

        x[b] = sample(sampler, predict(memory_b), x[b]),    memory_{b + 1} = remember(x[b], memory_b)

    It makes what evaluations of all positions would make, with steps + 1 evaluations of each position in place of steps
    times the number of blocks. With `ancestral` in equal steps `semi_autoregressive` has the same distribution.

    Args:
        sampler: any sampler that the process has; its steps are those of a block.
        predict: memory -> a predictor of `[B, block]`, which follow it, by `models.layers.key_value_memory.reading`.
        remember: (x `[B, block]`, memory) -> the memory with these symbols; `models.symbol_memory.remembered`.
        process: the process.
        x: int `[B, L]` symbols at plan.t[0], L a multiple of the block.
        plan: the steps of a block.
        keys: `[B]` typed random keys. Sample i depends on x[i] and keys[i] alone.
        memory: memory of the symbols before, or `models.symbol_memory.empty`.
        block: number of positions of a block.

    Returns:
        int32 `[B, L]` symbols at plan.s[-1].

    Raises:
        ValueError: for a block that does not divide the positions, and as `sample`.

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
    """The number of blocks of `length` positions."""
    if process.mask is None:
        raise ValueError("block diffusion masks blocks, but this process has no mask. Valid: discrete.absorbing")
    if not 1 <= block <= length:
        raise ValueError(f"block = {block} of a sequence of {length} positions. Valid: 1 .. {length}")
    return -(-length // block)

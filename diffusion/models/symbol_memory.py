"""Keys and values that a block-causal network of symbols keeps of finished blocks, so that it evaluates only new ones.

    memory = symbol_memory.empty(network, batch, length)
    remember = lambda x, memory: symbol_memory.remembered(network, variables, x, condition, memory)
    predict = lambda memory: discrete.predictor(
        key_value_memory.reading(network, variables, memory), process, discrete.from_logits, condition
    )
    x = discrete.sample_blocks(sampler, predict, remember, process, masks, plan, keys, memory, block)

No position depends on later blocks, so that the stored keys and values stay valid.
"""

from typing import Any

from jax import Array

from diffusion.models.layers import key_value_memory
from diffusion.models.layers.attention_records import KEYS_VALUES
from diffusion.models.layers.key_value_memory import KeyValueMemory


def empty(network: Any, batch: int, length: int) -> KeyValueMemory:
    """The memory of no symbol.

    Args:
        network: a `SymbolTransformer` with `causal`.
        batch: number B of texts.
        length: positions for which there is room.

    Raises:
        ValueError: for a network that is not causal.
    """
    return key_value_memory.empty(network, batch, length)


def remembered(network: Any, variables: Any, x: Array, condition: Any, memory: KeyValueMemory) -> KeyValueMemory:
    """The memory extended by further symbols.

    Args:
        network: a `SymbolTransformer` with `causal`.
        variables: its variables.
        x: int `[B, n]` symbols, a multiple of `causal` for which there is room.
        condition: passed to the network unchanged.
        memory: memory of the symbols before.

    Raises:
        ValueError: as `key_value_memory.extended`.
    """
    _, shown = network.apply(variables, x, None, condition, memory=memory, mutable=[KEYS_VALUES])
    return key_value_memory.extended(network, memory, shown, "attention", x.shape[1])

"""Stacks of equal layers as one scan, which compiles once whatever their number, and their rematerialisation."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from diffusion.models.layers import attention_records, bfloat16_products

UNROLLED = {"cpu": 12, "gpu": 32}  # layers that one turn of the scan takes at most, where the stack has no more
KEPT, NARROW = "kept", "narrow"  # see `keep` and `keep_narrow`
FUSED = "dot_product_attention_fwd"  # cuDNN's attention
PRODUCTS = ("dot_general", "conv_general_dilated", FUSED)  # names of primitives
_differentiated = contextvars.ContextVar("differentiated", default=False)
_dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
REMAT = {  # what the forward pass keeps for the backward pass, layer by layer; the rest is computed again
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": lambda primitive, *a, **k: primitive.name == bfloat16_products.NAME or _dots(primitive, *a, **k),
    "elementwise": lambda primitive, *_, **fields: (  # keeps every product
        primitive.name.startswith(PRODUCTS) or fields.get("name") in (KEPT, NARROW)
    ),
    "narrow": lambda primitive, *_, **fields: primitive.name.startswith(FUSED) or fields.get("name") == NARROW,
}


def rematerialised(module: Any, remat: str, prevent_cse: bool = True) -> Any:
    """A module class whose backward pass recomputes all values except those that the policy `REMAT[remat]` keeps."""
    return nn.remat(module, policy=REMAT[remat], prevent_cse=prevent_cse) if REMAT[remat] else module


def keep(x: jax.Array) -> jax.Array:
    """Returns x, which "elementwise" keeps for the backward pass as it does products, in place of what x comes from."""
    return checkpoint_name(x, KEPT)


def keep_narrow(x: jax.Array) -> jax.Array:
    """Returns x, an array as wide as the layer's tokens, which "narrow" also keeps; it computes wider arrays again."""
    return checkpoint_name(x, NARROW)


def scanned(
    block: type[nn.Module],
    length: int,
    remat: str,
    initializing: bool,
    in_axes: Any = (nn.broadcast, nn.broadcast, 0),
    unroll: int = 0,
    kept: Sequence[int] = (),
    pick: Callable[[Any], jax.Array] = lambda carry: carry,
) -> Any:
    """The stack of `length` layers, as a scan; the parameters of all layers are stacked along a first axis.

    Args:
        block: a layer, called with the carry and further arguments; it returns (carry, None or an output).
        length: number of layers.
        remat: a name in `REMAT`.
        initializing: whether the network makes its parameters, `self.is_initializing()`. Flax then traces the layer
            once more, to check that what all layers share depends on none; the initial parameters depend on that
            trace, and an application needs none of it.
        in_axes: axis of the layers in each further argument: `nn.broadcast` if all layers share it, 0 if its first axis
            counts the layers. The default is for (c, angles, the layer's entries of the condition).
        unroll: number of layers in one turn of the scan; 0: the number of `turn`.
        kept: layers, 1 .. length in order, whose features the stack returns in place of its outputs.
        pick: carry -> the features.

    Returns:
        A module class with the fields of `block`; where layers are kept, a function of them, which makes the module.
    """
    layers = min(unroll, length) or turn(length, remat)
    # A loop parts the passes. Without it XLA would find the forward pass in the backward pass, and keep all of it.
    block = rematerialised(block, remat, prevent_cse=layers > 1)
    options: dict[str, Any] = {
        "variable_axes": dict.fromkeys(
            ("params", attention_records.MAPS, attention_records.STATES, attention_records.KEYS_VALUES), 0
        ),
        "split_rngs": {"params": True},
        "length": length,
        "unroll": layers,
        "check_constancy_invariants": initializing,
    }
    if not kept:
        return nn.scan(block, in_axes=in_axes, **options)
    axes: Any = (0, *(in_axes if isinstance(in_axes, tuple) else (in_axes,)))  # 0: of the row that a layer writes
    return _keeping(nn.scan(_kept_class(block, pick), in_axes=axes, **options), length, kept, pick)


def _kept_class(block: Any, pick: Callable[[Any], jax.Array]) -> type[nn.Module]:
    """The block whose carry is its own carry and the kept features [K + 1, ...]; it writes one of these.

    The carry has room only for what is kept: an output of each layer would be an array of all layers.
    """

    class Kept(block):
        def __call__(self, both, row, *arguments):
            carry, rows = both
            carry, _ = super().__call__(carry, *arguments)
            return (carry, jax.lax.dynamic_update_index_in_dim(rows, pick(carry), row, 0)), None

    return Kept


def _keeping(stack: Any, length: int, kept: Sequence[int], pick: Callable[[Any], jax.Array]) -> Any:
    """fields -> module, (carry, *arguments) -> (carry, features of the kept layers)."""
    row = np.full(length, len(kept), np.int32)  # the last row is for what nobody requested
    row[np.asarray(kept) - 1] = np.arange(len(kept))

    def build(*fields: Any, **names: Any) -> Callable:
        module = stack(*fields, **names)

        def call(carry: Any, *arguments: Any) -> tuple[Any, list[jax.Array]]:
            # Zeros of x's own, so that over a mesh they lie where x does.
            rows = jnp.broadcast_to(jnp.zeros_like(pick(carry)), (len(kept) + 1, *pick(carry).shape))
            (carry, rows), _ = module((carry, rows), row, *arguments)
            return carry, [rows[i] for i in range(len(kept))]

        return call

    return build


@contextlib.contextmanager
def differentiated() -> Iterator[None]:
    """Says, to the networks that are traced within, that a backward pass follows; the train step does. See `turn`."""
    token = _differentiated.set(True)
    try:
        yield
    finally:
        _differentiated.reset(token)


def turn(length: int, remat: str = "none") -> int:
    """Returns the default number of layers in one turn of the scan.

    A scan copies what each layer keeps for the backward pass into arrays of all layers, which it first fills with
    zeros, and out of them again. On CPU that takes a third of the step of DiT-S/2, whose compilation takes 17 s scanned
    and 20 s unrolled. On an H100 it takes a quarter of the step of DiT-XL/2, 165 ms in place of 123; there a stack is
    one turn where a backward pass follows (`differentiated`, or `remat`). Without one the scan is as fast on a GPU, and
    compiles in less than half the time. Stacks deeper than UNROLLED are scanned, and on a TPU all stacks are, because
    compiling them would take minutes.

    Args:
        length: number of layers.
        remat: a name in `REMAT`.
    """
    backend = jax.default_backend()
    unrolled = backend == "cpu" or _differentiated.get() or remat != "none"
    return length if unrolled and length <= UNROLLED.get(backend, 0) else 1

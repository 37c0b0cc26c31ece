"""Bytes that a DiT keeps between its forward and its backward pass, by formula.

The table has the number of values that a layer keeps for one image, with N tokens of D features, hidden width M and H
heads:

| remat  | part                  | of the compute type            | of float32                     | split over       |
|--------|-----------------------|--------------------------------|--------------------------------|------------------|
| "full" | its input             | N D                            |                                | sequence         |
| "dots" | products, and input   | 3 N D + 6 D                    |                                | sequence         |
|        | q, k, v; MLP          | 3 N D + N M (SwiGLU: 2 N M)    |                                | sequence, tensor |
| "elementwise" | as "dots", and attention "cudnn", "splash" | N D | H N | sequence, tensor |
|        | as "dots", and another attention | N D | H N^2 | sequence, tensor |
| "narrow" | input and the two that are added | 3 N D |  | sequence |
|        | attention "cudnn", "splash" | N D  | H N                            | sequence, tensor |
| "none" | tokens                | 6 N D + 4 D                    | 2 N D + 4 N                    | sequence         |
|        | norms with scales     |                                | 4 N D                          | sequence         |
|        | MLP                   | 6 N M (GELU: 1 + JAX keeps)    |                                | sequence, tensor |
|        | normalised q, k       |                                | 6 N D + 4 H N                  | sequence, tensor |
|        | attention "xla"       | 4 N D + H N^2                  | H N^2 + 2 H N                  | sequence, tensor |
|        | attention "matmul"    | 5 N D + H N^2 (0 in float32)   | H N^2                          | sequence, tensor |
|        | attention "cudnn", "splash" | 4 N D                    | H N                            | sequence, tensor |

The M of a SwiGLU is two thirds (see `flops.hidden`). The rest of the network keeps, once, N (D + p^2 C) and 8 D of the
compute type and 2 N D of float32, or 4 N D if norms have learned scales. JAX's linearisation of the code in `blocks`
keeps these arrays, which a test compares term by term. XLA may keep fewer where two are equal, but does not on a TPU.
"""

import functools

import jax

from diffusion.models.budget.flops import hidden, tokens
from diffusion.models.dit import DiT
from diffusion.models.layers.activations import gelu
from diffusion.models.layers.norms import NORMS

BYTES = {"float32": 4, "bfloat16": 2}


def kept_bytes(
    model: DiT, image_shape: tuple[int, int, int], attention: str, sequence: int = 1, tensor: int = 1
) -> float:
    """Returns the bytes that the forward pass keeps for the backward pass of one image; see the table above.

    Args:
        model: the network.
        image_shape: height, width and channels of one image.
        attention: implementation of attention, never "auto" (see `attention.choice`).
        sequence: devices over which the tokens of an image are split.
        tensor: devices over which heads and hidden features are split.

    Returns:
        Bytes on each device.
    """
    n = tokens(model, image_shape)
    d = model.width
    size = BYTES[model.dtype]
    pixels = model.patch**2 * image_shape[2]
    wide = 2 if model.norm in NORMS else 4
    rest = size * (n * (d + pixels) / sequence + 8 * d) + 4 * wide * n * d / sequence
    return model.depth * layer_bytes(model, image_shape, attention, model.remat, sequence, tensor) + rest


def layer_bytes(
    model: DiT, image_shape: tuple[int, int, int], attention: str, remat: str, sequence: int = 1, tensor: int = 1
) -> float:
    """The bytes on each device that one layer keeps for one image, with a choice of `remat`.

    Args:
        model: the network.
        image_shape: height, width and channels of one image.
        attention: implementation of attention, see `kept_bytes`.
        remat: the parts to compute again in the backward pass, a row of the table above.
        sequence: devices over which the tokens of an image are split.
        tensor: devices over which heads and hidden features are split.
    """
    n = tokens(model, image_shape)
    d = model.width
    m = hidden(model)
    h = model.heads
    size = BYTES[model.dtype]
    if remat == "full":
        return size * n * d / sequence
    scores = h * n * n
    fused = attention in ("cudnn", "splash")
    if remat == "narrow":
        return size * 3 * n * d / sequence + fused * (size * n * d + 4 * h * n) / (sequence * tensor)
    if remat in ("dots", "elementwise"):
        products = size * (3 * n * d + n * m * (2 if model.mlp == "swiglu" else 1))
        if remat == "elementwise":
            products += size * n * d + 4 * (h * n if fused else scores)
        return size * (3 * n * d / sequence + 6 * d) + products / (sequence * tensor)
    wide = 2 if model.norm in NORMS else 6
    token_bytes = size * (6 * n * d / sequence + 4 * d) + 4 * (wide * n * d + 4 * n) / sequence
    head_bytes = {
        "xla": size * (4 * n * d + scores) + 4 * (scores + 2 * h * n),
        "matmul": size * (5 * n * d + (scores if size < 4 else 0)) + 4 * scores,
        "cudnn": size * 4 * n * d + 4 * h * n,
        "splash": size * 4 * n * d + 4 * h * n,
    }[attention]
    inside = 1 + _kept_by_gelu(model.dtype) if model.mlp == "gelu" else 6  # the second dense layer keeps its input
    normalised = 4 * (6 * n * d + 4 * h * n) if model.qk_norm else 0
    return token_bytes + (size * inside * n * m + head_bytes + normalised) / (sequence * tensor)


@functools.cache
def _kept_by_gelu(dtype: str) -> int:
    """The number of arrays of GELU's size that its backward pass needs, which depends on JAX's version in float32."""
    x = jax.ShapeDtypeStruct((2, 3), dtype)
    residuals = jax.eval_shape(lambda x: jax.vjp(gelu, x)[1], x)
    return sum(leaf.shape == x.shape for leaf in jax.tree.leaves(residuals))

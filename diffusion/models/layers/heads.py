"""The projection of tokens into the heads of an attention."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from diffusion.models.layers import layout
from diffusion.models.layers.products import rows_first
from diffusion.models.layers.scan import keep


class Heads(nn.Module):
    """Queries, keys and values of tokens, [B, N, D] -> [q, k, v], each [B, N, H, S]; with `beside` one more output.

    That is [B, N, beside, H, S]. The parameters form one dense layer: a kernel [D, P, H, S] and by choice a
    bias [P, H, S], with P = 3 + beside. On a GPU each output is a separate product. Fused attention reads queries,
    keys and values as three arrays: cut out of one product they would be copied in the forward pass, and their
    cotangents joined in the backward pass. Elsewhere there is one product.

    Attributes:
        heads: number H of heads.
        head_size: number S of features of a head.
        dtype: compute type.
        bias: whether the layer has a bias.
        beside: number of parts of an output beside q, k and v; with 0 there is none.
        kernel_init: initializer of the kernel as a matrix [D, P H S].
    """

    heads: int
    head_size: int
    dtype: str
    bias: bool = True
    beside: int = 0
    kernel_init: Callable = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        shape = (3 + self.beside, self.heads, self.head_size)
        matrix = lambda key, shape: self.kernel_init(key, (shape[0], math.prod(shape[1:]))).reshape(shape)
        kernel = self.param("kernel", matrix, (x.shape[-1], *shape))
        bias = self.param("bias", nn.initializers.zeros_init(), shape) if self.bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)

        def part(start: int, stop: int) -> jax.Array:
            return _project(x, kernel[:, start:stop], None if bias is None else bias[start:stop])

        if jax.default_backend() == "gpu":
            return [
                *(keep(_attended(part(i, i + 1))).squeeze(2) for i in range(3)),
                *([keep(part(3, shape[0]))] if self.beside else ()),
            ]
        outputs = part(0, shape[0])
        q, k, v = (one.squeeze(2) for one in jnp.split(_attended(outputs[:, :, :3]), 3, axis=2))
        return [q, k, v, *([outputs[:, :, 3:]] if self.beside else ())]


def norm_over_heads(x: jax.Array, name: str, dtype: str, epsilon: float = 1e-5) -> jax.Array:
    """Queries or keys, RMS-normalised over the features of all heads of a token, with a learned scale [H, S].

    Called inside a module's `__call__`, whose module of that name it is.

    Args:
        x: [B, N, H, S].
        name: name of the module.
        dtype: compute type.
        epsilon: epsilon of the norm, > 0.
    """
    axes = (-2, -1)
    return nn.RMSNorm(epsilon, dtype=dtype, reduction_axes=axes, feature_axes=axes, name=name)(x)


def _attended(x: jax.Array) -> jax.Array:
    return layout.attended(x)  # softmax needs all tokens of a head


def _project(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """[B, N, D], [D, P, H, S], [P, H, S] -> [B, N, P, H, S]."""
    last = (((x.ndim - 1,), (0,)), ((), ()))
    if layout.is_split():  # dimensions that lie on several devices are not joined
        out = rows_first(x, kernel, last)
        out = out if bias is None else out + bias
    else:  # cuBLAS adds a bias that is one vector
        out = rows_first(x, kernel.reshape(len(kernel), -1), last)
        out = out if bias is None else out + bias.reshape(-1)
        out = out.reshape(*x.shape[:-1], *kernel.shape[1:])
    return layout.split(out, "batch", "tokens", None, "heads", None)

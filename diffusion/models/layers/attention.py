"""Scaled dot-product attention: one function, with the implementation chosen by name.

    attention(q, k, v) = softmax(q k^T / sqrt(D)) v          for each example and head

| name        | runs on | forward mode (jvp) | computation                                                         |
|-------------|---------|--------------------|---------------------------------------------------------------------|
| "matmul"    | all     | yes                | batched matmuls, heads first, with a hand-written derivative        |
| "xla"       | all     | yes                | the einsum over [B, N, H, D], differentiated by JAX                 |
| "cudnn"     | NVIDIA  | no                 | the fused kernel: never holds the [N, M] scores; bfloat16, float16  |
| "cudnn_jvp" | NVIDIA  | yes                | the same kernel, and that of `attention_tangent` in forward mode    |
| "splash"    | TPU     | no                 | Pallas kernels that never hold the scores; see `attention_splash`   |
| "auto"      | all     | see the choice     | "matmul" on CPU, "cudnn" on GPU where it can, "splash" on a TPU     |
|             |         |                    | where sequences are long, else "xla"; over a mesh whose devices     |
|             |         |                    | share tokens but no heads, `attention_ring`, without a forward mode |
| "auto_jvp"  | all     | yes                | "matmul" on CPU, "cudnn_jvp" on GPU where it can, else "xla"        |

Objectives that differentiate the network in forward mode (`jax.jvp`: MeanFlow, continuous consistency) need one that
has it; a run that finds "auto" takes "auto_jvp". cuDNN's kernel defines only its reverse-mode derivative, so that with
"cudnn" JAX raises "can't apply forward-mode autodiff (jvp) to a custom_vjp function".
"cudnn_jvp", and "auto_jvp" where it takes that, has no derivative under `jax.vmap`, in either mode: JAX raises
"Batching rule for 'linear_call' not implemented".
"""

import jax
import jax.numpy as jnp

from diffusion.arrays.promotion import promoted
from diffusion.models.layers import attention_splash, layout
from diffusion.models.layers.attention_ring import ring
from diffusion.models.layers.attention_tangent import with_tangent
from diffusion.models.layers.choices import look_up

LONG = 1024  # queries and keys from which "auto" takes Splash on a TPU: 2 MB of bfloat16 scores for each head


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, implementation: str = "auto", bias: jax.Array | None = None
) -> jax.Array:
    """Softmax attention of queries over keys, for each example and head separately.

        out[b, n, h] = sum_m softmax_m(q[b, n, h] . k[b, m, h] / sqrt(D) + bias[b, h, n, m]) v[b, m, h]

    The softmax is computed in float32 (or wider) whatever the dtype of the arguments.

    Args:
        q: queries [B, N, H, D], floating point.
        k: keys [B, M, H, D], of the dtype of q.
        v: values [B, M, H, D], of the dtype of q.
        implementation: "auto" or a name in `IMPLEMENTATIONS`.
        bias: added to the scores, [B or 1, H or 1, N or 1, M], floating point; -inf, or a large negative number, where
            a query must not see a key (see `mask_bias`). None adds nothing.

    Returns:
        [B, N, H, D], of the dtype of q.

    Raises:
        ValueError: for shapes or dtypes that do not match, an unknown name, "cudnn", "cudnn_jvp" or "splash" where it
            cannot run, and "cudnn_jvp" or "splash" with a bias.
        TypeError: from JAX, when "cudnn" or "splash" is differentiated in forward mode (see the table above).

    Reference: Vaswani et al., "Attention Is All You Need", 2017, equation 1.
    """
    if q.ndim != 4 or k.ndim != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]) or k.shape != v.shape:
        raise ValueError(
            f"attention needs q [B, N, H, D] and k, v [B, M, H, D]; got q {q.shape}, k {k.shape}, v {v.shape}"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"attention needs one dtype for q, k and v; got {q.dtype}, {k.dtype}, {v.dtype}")
    in_a_ring = implementation == "auto" and layout.in_a_ring(q.shape[2])
    if in_a_ring:
        implementation = "xla"  # the queries read a text, whose keys every device has
    elif implementation == "auto":
        implementation = choice(q, keys=k.shape[1])
        odd = q.shape[1] % 2 or k.shape[1] % 2
        if bias is not None and (implementation == "splash" or (implementation == "cudnn" and odd)):
            implementation = "xla"  # cuDNN does not differentiate a bias over odd lengths, such as CLIP's 77
    scores = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    if bias is not None and (bias.ndim != 4 or any(a not in (1, b) for a, b in zip(bias.shape, scores))):
        raise ValueError(f"attention's bias must broadcast to [B, H, N, M] = {scores}; got {bias.shape}")
    if in_a_ring and k.shape[1] == q.shape[1]:
        return ring(q, k, v, bias)
    return look_up({"auto": xla, **IMPLEMENTATIONS}, implementation, "attention")(q, k, v, bias)


def mask_bias(mask: jax.Array) -> jax.Array:
    """The bias that hides keys: 0 where the mask is True, otherwise a negative number that outweighs every score.

    A query that may attend to no key attends equally to all keys, without NaN.

    Args:
        mask: Bool [B, M] over keys, or [B or 1, N, M] over queries and keys.

    Returns:
        float32 [B, 1, 1, M] or [B or 1, 1, N, M].
    """
    bias = jnp.where(mask, 0, jnp.finfo(jnp.float32).min / 2).astype(jnp.float32)
    return bias[:, None, None] if mask.ndim == 2 else bias[:, None]


def probabilities(q: jax.Array, k: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """The maps of an attention, softmax_m(q . k / sqrt(D) + bias), [B, H, N, M] in float32 or wider.

    Args:
        q, k, bias: queries, keys and bias of the scores, as in `attention`.
    """
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=_wide(q)) / q.shape[-1] ** 0.5
    return jax.nn.softmax(scores if bias is None else scores + bias)


def xla(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Attention as the einsum of its definition; arguments as `attention`."""
    return jnp.einsum("bhnm,bmhd->bnhd", probabilities(q, k, bias).astype(v.dtype), v)


def matmul(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Attention as batched matmuls over [B, H, N, D] with a hand-written derivative; arguments as `attention`.

    On CPU the einsum over [B, N, H, D] reads memory with the stride of all heads; putting the heads first costs four
    transposes and gives each matmul contiguous operands.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    if bias is None:
        return _heads_first(q, k, v).swapaxes(1, 2)
    scores = jnp.matmul(q * q.shape[-1] ** -0.5, k.mT, preferred_element_type=_wide(q)) + bias
    return jnp.matmul(jax.nn.softmax(scores).astype(v.dtype), v).swapaxes(1, 2)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Attention by cuDNN's fused kernel (NVIDIA GPUs; bfloat16 or float16; no jvp); arguments as `attention`."""
    _check_cudnn(q, "cudnn")
    if bias is not None:  # the kernel broadcasts examples and heads, but no queries
        bias = jnp.broadcast_to(bias.astype(q.dtype), (*bias.shape[:2], q.shape[1], k.shape[1]))
    return jax.nn.dot_product_attention(q, k, v, bias, implementation="cudnn")


def cudnn_jvp(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`cudnn`, with our own kernel in forward mode, which takes no bias; arguments as `attention`."""
    _check_cudnn(q, "cudnn_jvp")
    if bias is not None:
        raise ValueError(
            f"attention='cudnn_jvp' takes no bias, and so no mask; got a bias of shape {bias.shape}. Choose 'matmul', "
            "'xla' or 'auto_jvp'"
        )
    return with_tangent(cudnn)(q, k, v)


def splash(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Attention by Splash kernels (TPUs; no jvp), which take no bias; arguments as `attention`."""
    if jax.default_backend() != "tpu":
        raise ValueError(
            f"attention='splash' runs only on TPUs, and this process computes on {jax.default_backend()!r}; choose "
            "'matmul', 'xla' or 'auto'"
        )
    if bias is not None:
        raise ValueError(
            f"attention='splash' takes no bias, and so no mask; got a bias of shape {bias.shape}. Choose 'xla' or "
            "'auto'"
        )
    return attention_splash.splash(q, k, v)


def auto_jvp(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """The best implementation here that has a forward mode; arguments as `attention`."""
    name = choice(q, jvp=True)
    if name == "cudnn_jvp" and (bias is not None or layout.in_a_ring(q.shape[2])):
        name = "xla"
    return IMPLEMENTATIONS[name](q, k, v, bias)


IMPLEMENTATIONS = {
    "matmul": matmul,
    "xla": xla,
    "cudnn": cudnn,
    "cudnn_jvp": cudnn_jvp,
    "splash": splash,
    "auto_jvp": auto_jvp,
}


def choice(q: jax.Array | jax.ShapeDtypeStruct, jvp: bool = False, keys: int = 0) -> str:
    """Returns the implementation that "auto" selects on this process's default backend.

    Args:
        q: queries [B, N, H, D].
        jvp: whether it is differentiated in forward mode, as by "auto_jvp".
        keys: number M of keys; 0: the number of queries.
    """
    backend = jax.default_backend()
    if backend == "cpu":
        return "matmul"
    if backend == "tpu":
        return "splash" if not jvp and min(q.shape[1], keys or q.shape[1]) >= LONG else "xla"
    fused = backend == "gpu" and not _cudnn_refuses(q)
    return ("cudnn_jvp" if jvp else "cudnn") if fused else "xla"


def _check_cudnn(q: jax.Array, name: str) -> None:
    """Refuses what cuDNN does not compute."""
    if jax.default_backend() != "gpu":
        raise ValueError(
            f"attention={name!r} runs only on NVIDIA GPUs, and this process computes on {jax.default_backend()!r}; "
            "choose 'matmul', 'xla' or 'auto'"
        )
    if reason := _cudnn_refuses(q):
        raise ValueError(f"attention={name!r} {reason}; choose 'matmul', 'xla' or 'auto'")


def _cudnn_refuses(q: jax.Array | jax.ShapeDtypeStruct) -> str:
    """Returns why cuDNN cannot take arguments like q [B, N, H, D], or an empty string where it can."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"takes bfloat16 or float16, not {q.dtype}"
    # 128 is the limit of every generation since Ampere. Hopper's 256 is not used, so that the choice does not depend on
    # the card.
    if q.shape[-1] % 8 or q.shape[-1] > 128:
        return f"takes head widths up to 128 that 8 divides, not {q.shape[-1]}"
    return ""


def _wide(x: jax.Array) -> jnp.dtype:
    return promoted(x.dtype)


def _probabilities(q: jax.Array, k: jax.Array) -> jax.Array:
    return jax.nn.softmax(jnp.matmul(q, k.mT, preferred_element_type=_wide(q)))


# The derivative is a tangent rule, not a cotangent rule (custom_vjp). It is linear in the tangents, and JAX transposes
# it into the matmuls of a hand-written cotangent rule. Reverse mode is equally fast (measured, within the noise), and
# forward mode works too.
@jax.custom_jvp
def _heads_first(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention over q [B, H, N, D] and k, v [B, H, M, D]."""
    return jnp.matmul(_probabilities(q * q.shape[-1] ** -0.5, k).astype(v.dtype), v)


@_heads_first.defjvp
def _heads_first_tangent(primals, tangents):
    """With P = softmax(S): dP = P * dS - P rowsum(P * dS), and so dO = (P * dS) V - rowsum(P * dS) O + P dV."""
    q, k, v = primals
    dq, dk, dv = tangents
    scale = q.shape[-1] ** -0.5
    q = q * scale
    dq = dq * scale
    wide = _wide(q)
    p = _probabilities(q, k)
    ds = jnp.matmul(dq, k.mT, preferred_element_type=wide) + jnp.matmul(q, dk.mT, preferred_element_type=wide)
    p_ds = p * ds
    p = p.astype(v.dtype)
    out = jnp.matmul(p, v)
    mean_ds = p_ds.sum(-1, keepdims=True).astype(v.dtype)
    return out, jnp.matmul(p_ds.astype(v.dtype), v) - mean_ds * out + jnp.matmul(p, dv)

"""Parts that many published networks share, in float64 numpy, for tests that write the equations of a family out.

Tokens are [N, D], without a batch; parameters are those of one layer.
"""

from unittest import mock

import jax
import numpy as np
from scipy import special

from diffusion.models.layers import stacks
from tests import numpy_programs
from tests.models.dit_oracle import silu

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state  # to which tests/published/conftest.py returns


def normal(*shape: int) -> np.ndarray:
    """Gaussian numbers, float32."""
    return RNG.normal(size=shape).astype(np.float32)


def applied(module, *arguments):
    """(the parameters of a module in float64, its output by numpy); none of the parameters is zero.

    Args:
        module: the module.
        *arguments: the arguments of its call, pytrees of arrays.
    """
    shapes = jax.eval_shape(lambda *arguments: module.init(jax.random.key(0), *arguments), *arguments)["params"]
    params = jax.tree.map(lambda leaf: 0.5 * normal(*leaf.shape), shapes)
    call = lambda params, *arguments: module.apply({"params": params}, *arguments)
    return jax.tree.map(np.float64, params), numpy_programs.outputs(call, params, *arguments)


def without_layers(network, *arguments):
    """What a transformer computes before and behind its layers, as if these returned their tokens.

    Args:
        network: the network.
        *arguments: the arguments of its call.

    Returns:
        (the parameters in float64 without the layers', the output, [(tokens, further arguments) of each stack]).
    """
    entered: list = []

    def run(stack, network, carry, recorded):
        entered.append((carry, stack.arguments))
        return stack.enter(carry)

    class Around:
        """The network, which also returns what its stacks receive."""

        init = staticmethod(network.init)

        @staticmethod
        def apply(*arguments):
            entered.clear()
            return network.apply(*arguments), tuple(entered)

    with mock.patch.object(stacks.Stack, "run", run):
        params, (output, received) = applied(Around, *arguments)
    return params, output, received


def layer_of(params, index: int):
    """The parameters of one layer of a stack."""
    return jax.tree.map(lambda leaf: leaf[index], params)


def one_layer(block, *how, **more):
    """In place of `scan.scanned`, for stacks of one layer: a scan takes longer to trace than the layer to compute."""
    return block


def dense(p, x: np.ndarray) -> np.ndarray:
    """x [.., D] times a kernel [D, ..], plus the bias, if any; the outputs keep their axes."""
    return np.tensordot(x, p["kernel"], 1) + p.get("bias", 0)


def out_of_heads(p, x: np.ndarray) -> np.ndarray:
    """x [N, H, S] times a kernel [H, S, D], plus the bias, if any: [N, D]."""
    return np.tensordot(x, p["kernel"], 2) + p.get("bias", 0)


def rms(x: np.ndarray, epsilon: float) -> np.ndarray:
    """x over the root of its mean square."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


def normalised(x: np.ndarray, epsilon: float) -> np.ndarray:
    """x without its mean, over its standard deviation."""
    x = x - x.mean(-1, keepdims=True)
    return rms(x, epsilon)


def group_norm(p, x: np.ndarray, groups: int, epsilon: float = 1e-6) -> np.ndarray:
    """Pictures [H, W, C], each group of channels over all pixels without its mean and over its deviation; then p."""
    parts = x.reshape(-1, groups, x.shape[-1] // groups).swapaxes(0, 1)
    flat = normalised(parts.reshape(groups, -1), epsilon).reshape(parts.shape)
    return flat.swapaxes(0, 1).reshape(x.shape) * p["scale"] + p["bias"]


def swiglu(p, x: np.ndarray) -> np.ndarray:
    """out(silu(a) b), [a, b] = hidden(x)."""
    a, b = np.moveaxis(dense(p["hidden"], x), -2, 0)
    return dense(p["out"], silu(a) * b)


def exact_gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution function of x."""
    return x * special.ndtr(x)


def convolution(p, x: np.ndarray, stride: int = 1) -> np.ndarray:
    """Pictures [H, W, C] with a kernel [3, 3, C, D], behind a border of one zero on every side."""
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    parts = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::stride, ::stride]
    return np.einsum("hwcij,ijcd->hwd", parts, p["kernel"]) + p["bias"]


def depthwise(p, x: np.ndarray, border: str) -> np.ndarray:
    """Pictures [H, W, C] with a kernel [K, K, 1, C], K odd, for each channel; `border` is a mode of np.pad."""
    side = len(p["kernel"])
    padded = np.pad(x, [(side // 2, side // 2)] * 2 + [(0, 0)], mode=border)
    parts = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
    return np.einsum("hwcij,ijc->hwc", parts, p["kernel"][:, :, 0]) + p["bias"]


def wave(t: float, size: int = 256) -> np.ndarray:
    """[cos(w t), sin(w t)], w_i = 10000^(-2 i / size)."""
    angles = t * 10_000.0 ** (-np.arange(size // 2) / (size // 2))
    return np.concatenate([np.cos(angles), np.sin(angles)])


def timestep(p, t: float, size: int = 256) -> np.ndarray:
    """out(silu(hidden(wave(t))))."""
    return dense(p["out"], silu(dense(p["hidden"], wave(t, size))))


def conditioning(p, t: float, pooled: np.ndarray, strength: float | None = None) -> np.ndarray:
    """silu of the embeddings of the time, the pooled text and the strength of guidance together."""
    total = timestep(p["time"], t) + dense(p["pooled"]["out"], silu(dense(p["pooled"]["hidden"], pooled)))
    return silu(total if strength is None else total + timestep(p["strength"], strength))


def turned(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Heads [N, H, S] whose features 2 i and 2 i + 1 are a complex number, which turns by the angle i of its token."""
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles[:, None])
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
    """The mixed values [N, H, S] of queries [N, H, S]; each of the G heads of keys [M, G, S] serves H / G of them.

    `shown`, Bool [M] or [N, M], is True where a query sees a key; None: everywhere.
    """
    mixed = np.empty((len(q), q.shape[1], v.shape[-1]))
    for head in range(q.shape[1]):
        group = head * k.shape[1] // q.shape[1]
        scores = q[:, head] @ k[:, group].T / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True)) * (1 if shown is None else shown)
        mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, group]
    return mixed


def wide_attention(p, x: np.ndarray, context: np.ndarray, angles: np.ndarray | None, shown, epsilon: float):
    """Attention of x [N, D] to a context whose queries and keys are normalised over all heads before they turn.

    `angles` are [N, D / 2], other ones for each head, or None.
    """

    def wide(name: str, source: np.ndarray) -> np.ndarray:
        projected = dense(p[name], source)
        flat = rms(projected.reshape(len(source), -1), epsilon) * p[f"{name}_norm"]["scale"].ravel()
        flat = flat if angles is None else turned(flat[:, None], angles)[:, 0]
        return flat.reshape(projected.shape)

    return out_of_heads(p["out"], attention(wide("query", x), wide("key", context), dense(p["value"], context), shown))


def sandwich(p, x: np.ndarray, c: np.ndarray | None, angles: np.ndarray, shown, epsilon: float) -> np.ndarray:
    """A layer of Lumina-Image 2 or Z-Image: x <- x + tanh(gate) norm(f((1 + scale) norm(x))), f = attention, MLP."""
    norm = lambda name, x: p[name]["scale"] * rms(x, epsilon)
    vectors = np.zeros(4) if c is None else dense(p["modulation"]["dense"], c)
    gates = [1, 1] if c is None else np.tanh(vectors[1::2])
    heads = p["attention"]
    read = (1 + vectors[0]) * norm("attention_norm", x)
    if "qkv" in heads:
        q, k, v = np.moveaxis(dense(heads["qkv"], read), 1, 0)
    else:
        q, (k, v) = dense(heads["query"], read), np.moveaxis(dense(heads["key_value"], read), 1, 0)
    q, k = (turned(heads[name]["scale"] * rms(a, 1e-5), angles) for name, a in (("query_norm", q), ("key_norm", k)))
    x = x + gates[0] * norm("after_attention", out_of_heads(heads["out"], attention(q, k, v, shown)))
    return x + gates[1] * norm("after_mlp", swiglu(p["mlp"], (1 + vectors[2]) * norm("mlp_norm", x)))


def patches(x: np.ndarray, side: int = 2) -> np.ndarray:
    """The squares of a picture [H, W, C], row by row, each with its pixels row by row: [N, side^2 C]."""
    height, width, _ = x.shape
    return np.array(
        [x[i : i + side, j : j + side].reshape(-1) for i in range(0, height, side) for j in range(0, width, side)]
    )


def close(found, expected, within: float = 2e-4) -> None:
    """Asserts that an output is the expected one, up to a part of its largest number."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=within * np.abs(expected).max())

"""DiT written a second time, from the paper and its figure 3, in float64 numpy with loops over layers and heads."""

import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layernorm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def rmsnorm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def dense(p, x):
    """A dense layer whose outputs may have several axes: they are flattened."""
    kernel = p["kernel"].reshape(x.shape[-1], -1)
    return x @ kernel + p["bias"].reshape(-1)


def sincos(rows, columns, width):
    w = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    return np.array(
        [
            np.concatenate([np.sin(column * w), np.cos(column * w), np.sin(row * w), np.cos(row * w)])
            for row in range(rows)
            for column in range(columns)
        ]
    )


def turn(x, rows, columns):
    """Rotary embedding of one head [N, D]: pairs as complex numbers."""
    quarter = x.shape[-1] // 4
    w = 10000.0 ** (-np.arange(quarter) / quarter)
    out = np.zeros_like(x)
    for n in range(rows * columns):
        for axis, place in enumerate((n // columns, n % columns)):
            a = 2 * axis * quarter
            b = (2 * axis + 1) * quarter
            z = (x[n, a:b] + 1j * x[n, b : b + quarter]) * np.exp(1j * place * w)
            out[n, a:b], out[n, b : b + quarter] = z.real, z.imag
    return out


def attend(p, x, heads, rope):
    """Self-attention of one image's tokens [N, D], head by head."""
    n, width = x.shape
    qkv = dense(p["qkv"], x).reshape(n, 3, heads, width // heads)
    mixed = np.zeros((n, heads, width // heads))
    for head in range(heads):
        q, k, v = (qkv[:, i, head] for i in range(3))
        if "query_norm" in p:
            q = rmsnorm(q) * p["query_norm"]["scale"]
            k = rmsnorm(k) * p["key_norm"]["scale"]
        if rope:
            q = turn(q, *rope)
            k = turn(k, *rope)
        weights = np.exp(q @ k.T / np.sqrt(width // heads))
        mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ v
    return mixed.reshape(n, width) @ p["out"]["kernel"].reshape(width, width) + p["out"]["bias"]


def feed_forward(p, x, kind):
    h = dense(p["hidden"], x)
    if kind == "swiglu":
        gate, value = np.split(h, 2, axis=-1)
        return dense(p["out"], silu(gate) * value)
    return dense(p["out"], gelu(h))


def modulate(x, shift, scale):
    return x * (1 + scale) + shift


def forward(params, image, t, label, *, patch, heads, depth, norm="layernorm", mlp="gelu", positions="sincos"):
    """One image [H, W, C], one time, one label (or None) -> the network's output [H, W, C_out]."""
    norm = {"layernorm": layernorm, "rmsnorm": rmsnorm}[norm]
    rows = image.shape[0] // patch
    columns = image.shape[1] // patch
    patches = [
        image[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].ravel()
        for i in range(rows)
        for j in range(columns)
    ]
    x = dense(params["patch_embedding"], np.array(patches))
    if positions == "sincos":
        x = x + sincos(rows, columns, x.shape[-1])
    rope = (rows, columns) if positions == "rope" else None

    w = 10000.0 ** (-np.arange(128) / 128)
    features = np.concatenate([np.cos(t * w), np.sin(t * w)])
    time = params["timestep_embedding"]
    c = dense(time["out"], silu(dense(time["hidden"], features)))
    if label is not None:
        c = c + params["label_embedding"]["embedding"][label]
    c = silu(c)

    for layer in range(depth):
        p = slice_layer(params["blocks"], layer)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(dense(p["modulation"]["dense"], c), 6)
        x = x + gate_1 * attend(p["attention"], modulate(norm(x), shift_1, scale_1), heads, rope)
        x = x + gate_2 * feed_forward(p["mlp"], modulate(norm(x), shift_2, scale_2), mlp)

    shift, scale = np.split(dense(params["final_modulation"]["dense"], c), 2)
    x = dense(params["final"], modulate(norm(x), shift, scale))
    channels = x.shape[-1] // patch**2
    out = np.zeros((*image.shape[:2], channels))
    for n in range(rows * columns):
        i = n // columns * patch
        j = n % columns * patch
        out[i : i + patch, j : j + patch] = x[n].reshape(patch, patch, channels)
    return out


def slice_layer(tree, layer):
    return {k: slice_layer(v, layer) if isinstance(v, dict) else v[layer] for k, v in tree.items()}

"""FID's Inception-v3 in NumPy and float64, loop by loop and with pytorch-fid's names; channels come second."""

import numpy as np


def convolution(x, kernel, stride, pad):
    """Sum over the pixels of the kernel [out, in, h, w], with `pad` = (rows, columns) of zeros on each side."""
    outputs, _, high, wide = kernel.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
    rows = (x.shape[2] - high) // stride + 1
    columns = (x.shape[3] - wide) // stride + 1
    total = np.zeros((len(x), outputs, rows, columns))
    for i in range(high):
        for j in range(wide):
            part = x[:, :, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
            total += np.einsum("bchw,oc->bohw", part, kernel[:, :, i, j], optimize=True)
    return total


def pool(x, reduce, stride=1, pad=0):
    """Reduces each 3 x 3 window of the pixels that are there, one window at a time."""
    height, width = x.shape[2:]
    rows = (height + 2 * pad - 3) // stride + 1
    columns = (width + 2 * pad - 3) // stride + 1
    out = np.empty((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            top = i * stride - pad
            left = j * stride - pad
            out[:, :, i, j] = reduce(x[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3], axis=(2, 3))
    return out


def layer(state, name, x, outputs, kernel, stride=1, pad=(0, 0), weight=None):
    """Convolution, batch norm, ReLU. A `weight` makes the tensors, which `state` then keeps."""
    shapes = {"conv.weight": (outputs, x.shape[1], *kernel)}
    shapes |= {f"bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    if weight is not None:
        state.update({f"{name}.{part}": weight(f"{name}.{part}", shape) for part, shape in shapes.items()})
    kernel, scale, shift, mean, var = (state[f"{name}.{part}"].astype(np.float64) for part in shapes)
    y = convolution(x, kernel, stride, pad)
    per_channel = lambda a: a[None, :, None, None]
    y = (y - per_channel(mean)) / np.sqrt(per_channel(var) + 1e-3) * per_channel(scale) + per_channel(shift)
    return np.maximum(y, 0)


def network(state, x, weight=None):
    """x [B, 3, H, W] -> the maps after each of pytorch-fid's four blocks, that of Mixed_6d.branch1x1, and logits.

    Args:
        state: pytorch-fid's state dictionary, or a dictionary to fill by `weight`.
        x: images in [-1, 1].
        weight: (name, shape) -> tensor.
    """
    conv = lambda name, x, outputs, kernel=(1, 1), **options: layer(
        state, name, x, outputs, kernel, weight=weight, **options
    )
    three = dict(kernel=(3, 3))
    one_pixel = dict(pad=(1, 1))
    wide = dict(kernel=(1, 7), pad=(0, 3))
    high = dict(kernel=(7, 1), pad=(3, 0))
    found = {}

    x = conv("Conv2d_1a_3x3", x, 32, **three, stride=2)
    x = conv("Conv2d_2a_3x3", x, 32, **three)
    x = conv("Conv2d_2b_3x3", x, 64, **three, **one_pixel)
    x = found["64"] = pool(x, np.max, stride=2)
    x = conv("Conv2d_3b_1x1", x, 80)
    x = conv("Conv2d_4a_3x3", x, 192, **three)
    x = found["192"] = pool(x, np.max, stride=2)

    for n, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        one = conv(f"{n}.branch1x1", x, 64)
        five = conv(f"{n}.branch5x5_2", conv(f"{n}.branch5x5_1", x, 48), 64, kernel=(5, 5), pad=(2, 2))
        double = conv(f"{n}.branch3x3dbl_2", conv(f"{n}.branch3x3dbl_1", x, 64), 96, **three, **one_pixel)
        double = conv(f"{n}.branch3x3dbl_3", double, 96, **three, **one_pixel)
        average = conv(f"{n}.branch_pool", pool(x, np.mean, pad=1), pooled)
        x = np.concatenate([one, five, double, average], 1)

    n = "Mixed_6a"
    one = conv(f"{n}.branch3x3", x, 384, **three, stride=2)
    double = conv(f"{n}.branch3x3dbl_2", conv(f"{n}.branch3x3dbl_1", x, 64), 96, **three, **one_pixel)
    double = conv(f"{n}.branch3x3dbl_3", double, 96, **three, stride=2)
    x = np.concatenate([one, double, pool(x, np.max, stride=2)], 1)

    for n, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        one = conv(f"{n}.branch1x1", x, 192)
        if n == "Mixed_6d":
            found["spatial"] = one[:, :7]
        seven = conv(f"{n}.branch7x7_2", conv(f"{n}.branch7x7_1", x, inner), inner, **wide)
        seven = conv(f"{n}.branch7x7_3", seven, 192, **high)
        double = conv(f"{n}.branch7x7dbl_2", conv(f"{n}.branch7x7dbl_1", x, inner), inner, **high)
        double = conv(f"{n}.branch7x7dbl_3", double, inner, **wide)
        double = conv(f"{n}.branch7x7dbl_4", double, inner, **high)
        double = conv(f"{n}.branch7x7dbl_5", double, 192, **wide)
        average = conv(f"{n}.branch_pool", pool(x, np.mean, pad=1), 192)
        x = np.concatenate([one, seven, double, average], 1)
    found["768"] = x

    n = "Mixed_7a"
    three_ = conv(f"{n}.branch3x3_2", conv(f"{n}.branch3x3_1", x, 192), 320, **three, stride=2)
    seven = conv(f"{n}.branch7x7x3_2", conv(f"{n}.branch7x7x3_1", x, 192), 192, **wide)
    seven = conv(f"{n}.branch7x7x3_4", conv(f"{n}.branch7x7x3_3", seven, 192, **high), 192, **three, stride=2)
    x = np.concatenate([three_, seven, pool(x, np.max, stride=2)], 1)

    for n, reduce in (("Mixed_7b", np.mean), ("Mixed_7c", np.max)):  # the maximum is a mistake of 2015 to be kept
        one = conv(f"{n}.branch1x1", x, 320)
        three_ = conv(f"{n}.branch3x3_1", x, 384)
        double = conv(f"{n}.branch3x3dbl_2", conv(f"{n}.branch3x3dbl_1", x, 448), 384, **three, **one_pixel)
        pairs = []
        for branch, y in (("branch3x3_2", three_), ("branch3x3dbl_3", double)):
            pairs.append(conv(f"{n}.{branch}a", y, 384, kernel=(1, 3), pad=(0, 1)))
            pairs.append(conv(f"{n}.{branch}b", y, 384, kernel=(3, 1), pad=(1, 0)))
        pooled = conv(f"{n}.branch_pool", pool(x, reduce, pad=1), 192)
        x = np.concatenate([one, *pairs, pooled], 1)
    found["2048"] = x

    if weight is not None:
        state.update({"fc.weight": weight("fc.weight", (1008, 2048)), "fc.bias": weight("fc.bias", (1008,))})
    averages = {tap: found[tap].mean((2, 3)) for tap in ("64", "192", "768", "2048")}
    spatial = found["spatial"].transpose(0, 2, 3, 1)
    spatial = spatial.reshape(len(x), np.prod(spatial.shape[1:]))  # as TensorFlow lays out its pixels
    return averages | {"spatial": spatial, "logits": averages["2048"] @ state["fc.weight"].astype(np.float64).T}

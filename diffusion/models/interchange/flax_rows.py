"""Rows of networks that others train in Flax, whose kernels have our layout, and of their module `TorchLinear`."""

from diffusion.models.interchange.rows import VECTOR, Layout, Row

# A dense layer: theirs [in, out], ours [in, *out] or [*in, out].
OUTPUTS = Layout(lambda a, shape: a.reshape(shape), lambda a: a.reshape(a.shape[0], -1))
INPUTS = Layout(lambda a, shape: a.reshape(shape), lambda a: a.reshape(-1, a.shape[-1]))


def flax_linear(theirs: str, ours: str, several: str = "", at: tuple = (), bias: bool = True) -> list[Row]:
    """The rows of a dense layer of theirs, a module `_flax_linear` within one of that name.

    Args:
        theirs: its name, "blocks.layers_0.attn.proj".
        ours: its path, "blocks/attention/out".
        several: "inputs" if our kernel has several axes of inputs.
        at: index of the part in our kernel; the bias omits the axis of inputs.
        bias: whether it has one.
    """
    kernel = INPUTS if several == "inputs" else OUTPUTS
    rows = [Row(f"{theirs}._flax_linear.kernel", f"{ours}/kernel", kernel, at)]
    outputs = tuple(index for index in at if index != slice(None))
    return rows + [Row(f"{theirs}._flax_linear.bias", f"{ours}/bias", VECTOR, outputs)] * bias


def flax_patches(theirs: str, ours: str, side: int) -> list[Row]:
    """The rows of a patch embedding: theirs a strided convolution [p, p, C, out], ours a dense layer [p p C, out].

    Args:
        theirs: its name.
        ours: its path.
        side: p, of a patch in pixels.
    """
    kernel = Layout(lambda a, shape: a.reshape(shape), lambda a: a.reshape(side, side, -1, a.shape[-1]))
    return [Row(f"{theirs}.kernel", f"{ours}/kernel", kernel), Row(f"{theirs}.bias", f"{ours}/bias")]

"""Tensors that files store in few bits, as values and a scale for each block of values."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffusion.io import limits
from diffusion.io.safetensors_files import Stored

# The last parts of tensors' names in ComfyUI's files, the newer files' second.
SCALES = ("scale_weight", "weight_scale")
IN_PRODUCTS = ("scale_input", "input_scale", "comfy_quant")  # scales of activations, and a description of the format
MARK = "scaled_fp8"  # the name of a tensor that marks a file with scales
EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
WHOLE = ("I8", "U8")  # integers of 8 bits, or pairs of 4 bits, which mean nothing without a scale


class Quantised(NamedTuple):
    """A tensor as the product of values and scales.

    Attributes:
        values: the values, int8 or float8 [out, in ...].
        scale: the scales, with as many axes as `values`; each side is 1 or divides the side of `values`.
    """

    values: np.ndarray
    scale: np.ndarray

    def repeated(self) -> np.ndarray:
        """The scale of each value, float32, in the shape of `values`."""
        scale = self.scale.astype(np.float32)
        for axis, side in enumerate(self.values.shape):
            if scale.shape[axis] not in (1, side):
                scale = np.repeat(scale, side // scale.shape[axis], axis)
        return np.broadcast_to(scale, self.values.shape)

    def numbers(self) -> np.ndarray:
        """The tensor, float32."""
        return self.values.astype(np.float32) * self.repeated()


class _Scaled(NamedTuple):
    """A tensor in fp8 or int8, and the tensor with its scale."""

    weight: Stored
    scale: Stored

    def quantised(self) -> Quantised | None:
        """The 8-bit values and their scale; None if the weight has another type."""
        return self._parts() if self.weight.kind in (*EIGHT_BITS, "I8") else None

    def _parts(self) -> Quantised:
        """The weight and its scale, which is one number for all values, or one for each output."""
        values, scale = self.weight.read(), self.scale.read().astype(np.float32)
        if scale.size not in (1, values.shape[0]):
            raise limits.Refused(
                f"{self.scale.path}: {self.scale.name} has {scale.size} numbers for {self.weight.name} "
                f"{list(values.shape)}. Valid: 1, or one for each of the {values.shape[0]} outputs."
            )
        return Quantised(values, scale.reshape(-1, *[1] * (values.ndim - 1)))

    def read(self) -> np.ndarray:
        """The tensor, float32."""
        return self._parts().numbers()

    path = property(lambda self: self.weight.path)
    shape = property(lambda self: self.weight.shape)
    dtype = property(lambda self: np.dtype(np.float32))


def scaled(stored: Mapping[str, Stored]) -> dict[str, Stored | _Scaled]:
    """The tensors of a file, in which layers in fp8 or int8 are joined with their scales.

        blocks.0.attn.qkv.weight        F8_E4M3 [out, in]
        blocks.0.attn.qkv.scale_weight  F32 [], the number by which the weight is multiplied; also weight_scale

    Args:
        stored: tensors by name, from their file's header.

    Returns:
        The tensors by name, without scales and without tensors that only guide a computation in fp8.

    Raises:
        limits.Refused: if a weight is stored in 4 bits, or as integers without a scale, so that its values are unknown.
    """
    if not any(one.kind in (*EIGHT_BITS, *WHOLE) for one in stored.values()):
        return dict(stored)
    tensors: dict[str, Stored | _Scaled] = {}
    for name, one in stored.items():
        layer, _, end = name.rpartition(".")
        if end == MARK or (end in (*SCALES, *IN_PRODUCTS) and f"{layer}.weight" in stored):
            continue
        scale = next((f"{layer}.{other}" for other in SCALES if f"{layer}.{other}" in stored), "")
        if end == "weight" and not scale and (kind := _of_bitsandbytes(name, stored)):
            raise limits.Refused(
                f"{one.path}: {name} is stored by bitsandbytes in {kind}, which is not supported; use the file in "
                "fp8, float16 or bfloat16."
            )
        if end == "weight" and not scale and one.kind in WHOLE:
            raise limits.Refused(
                f"{one.path}: {name} is stored as integers ({one.kind}) without a scale beside it "
                f"({' or '.join(f'{layer}.{other}' for other in SCALES)}); use the file in fp8, float16 or bfloat16."
            )
        if end != "weight" or not scale:
            tensors[name] = one
            continue
        if one.kind == "U8":
            kind = " (NVFP4)" if f"{name}_scale_2" in stored else ""
            raise limits.Refused(
                f"{one.path}: {name} is stored in 4 bits with scales{kind}, which is not supported; use the file in "
                "fp8, float16 or bfloat16."
            )
        tensors[name] = _Scaled(one, stored[scale])
    return tensors


def _of_bitsandbytes(name: str, stored: Mapping[str, Stored]) -> str:
    """The format of bitsandbytes in which a weight is stored, found by the tensors beside it; "" for other formats."""
    if f"{name.removesuffix('weight')}SCB" in stored:
        return "int8"
    state = f"{name}.quant_state.bitsandbytes__"
    return next((other.removeprefix(state) for other in stored if other.startswith(state)), "")

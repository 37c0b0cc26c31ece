"""A tensor of a file that is stored in few bits: values and a scale for each block of them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffusion.io import limits
from diffusion.io.safetensors_files import Stored

# ComfyUI's files, and the ends that their newer ones have.
SCALES = ("scale_weight", "weight_scale")
IN_PRODUCTS = ("scale_input", "input_scale", "comfy_quant")  # how activations are rounded, and what was done
MARK = "scaled_fp8"  # a tensor that says that the file has scales
EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
WHOLE = ("I8", "U8")  # 8 bits, or pairs of 4, which mean nothing without their scale


class Quantised(NamedTuple):
    """values * scale.

    Attributes:
        values: int8 or float8 [out, in ...].
        scale: scales with the same number of axes; each of its sides divides that side of `values`, or is 1.
    """

    values: np.ndarray
    scale: np.ndarray

    def repeated(self) -> np.ndarray:
        """The scale of each value, float32, of the shape of `values`."""
        scale = self.scale.astype(np.float32)
        for axis, side in enumerate(self.values.shape):
            if scale.shape[axis] not in (1, side):
                scale = np.repeat(scale, side // scale.shape[axis], axis)
        return np.broadcast_to(scale, self.values.shape)

    def numbers(self) -> np.ndarray:
        """The tensor, float32."""
        return self.values.astype(np.float32) * self.repeated()


class _Scaled(NamedTuple):
    """A tensor in fp8 or int8 and the tensor of its scale."""

    weight: Stored
    scale: Stored

    def quantised(self) -> Quantised | None:
        """Values of 8 bits and their scale; None for a weight of another type."""
        return self._parts() if self.weight.kind in (*EIGHT_BITS, "I8") else None

    def _parts(self) -> Quantised:
        """The weight and its scale: one for all values, or one for each output."""
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
    """The tensors of a file; layers in fp8 or int8 are joined with the scales beside them.

        blocks.0.attn.qkv.weight        F8_E4M3 [out, in]
        blocks.0.attn.qkv.scale_weight  F32 [], the number that the weight is multiplied with; also weight_scale

    Args:
        stored: tensors by name, from their file's header.

    Returns:
        The same without scales, and without what tells a program how to compute in fp8.

    Raises:
        limits.Refused: for a weight in 4 bits, or in whole numbers without a scale: its numbers are not known.
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
    """The format of bitsandbytes that a weight is stored in, as tensors beside it say; "" for another."""
    if f"{name.removesuffix('weight')}SCB" in stored:
        return "int8"
    state = f"{name}.quant_state.bitsandbytes__"
    return next((other.removeprefix(state) for other in stored if other.startswith(state)), "")

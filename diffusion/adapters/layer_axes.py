"""How the inputs and outputs of another library's layer become axes of our kernel, from the layout of a table's row.

A layout permutes the numbers of a matrix [out, in, ..]. An update of low rank, B A, can follow it when every input of
theirs becomes one of our inputs, and every output one of our outputs. Two arrays of indices that pass through the
layout show the mapping.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from diffusion.models.interchange.rows import Layout


class Separation(NamedTuple):
    """The map from their weight [out, in, ..] to our kernel [*inputs, *outputs].

    Attributes:
        inputs: shape of our axes of inputs.
        outputs: shape of our axes of outputs.
        source_inputs: int `[in]`, for each of our inputs, flat, the flat index of theirs.
        source_outputs: int `[out]`, likewise.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    source_inputs: np.ndarray
    source_outputs: np.ndarray

    def to_ours(self, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Theirs, A [r, in, ..] and B [out, r, ..], as ours, down [*inputs, r] and up [r, *outputs]."""
        rank = down.shape[0]
        down = down.reshape(rank, -1)[:, self.source_inputs].T.reshape(*self.inputs, rank)
        return down, up.reshape(-1, rank)[self.source_outputs].T.reshape(rank, *self.outputs)

    def outputs_to_ours(self, values: np.ndarray) -> np.ndarray:
        """Their vector with a number for each output, [out], as ours, [*outputs]."""
        return values[self.source_outputs].reshape(self.outputs)

    def inputs_to_ours(self, values: np.ndarray, theirs: tuple[int, ...]) -> np.ndarray | None:
        """Their vector with a number for each input, [in], as ours, [*inputs] with 1 along axes of pixels.

        `theirs` is the shape [out, in, ..] of their tensor. The result is None where our axes mix inputs and pixels.
        """
        pixels = theirs[2:]
        spread = np.broadcast_to(values.reshape(-1, *[1] * len(pixels)), theirs[1:]).reshape(-1)
        vector = spread[self.source_inputs].reshape(self.inputs)
        if math.prod(pixels) == 1:
            return vector
        return vector[(slice(0, 1),) * len(pixels)] if self.inputs == (*pixels, theirs[1]) else None

    def to_theirs(self, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Our factors as theirs, A [r, in] and B [out, r]: the inverse of `to_ours`."""
        rank = down.shape[-1]
        a = np.empty((rank, self.source_inputs.size), down.dtype)
        b = np.empty((self.source_outputs.size, rank), up.dtype)
        a[:, self.source_inputs] = down.reshape(-1, rank).T
        b[self.source_outputs] = up.reshape(rank, -1).T
        return a, b


@functools.lru_cache(maxsize=256)
def separation(layout: Layout, theirs: tuple[int, ...], ours: tuple[int, ...]) -> Separation | None:
    """The mapping of inputs and outputs by a layout; None where it mixes them.

    Args:
        layout: the layout of a row.
        theirs: the shape of their tensor, [out, in, ..].
        ours: the shape of our part.
    """
    outputs = theirs[0]
    inputs = math.prod(theirs[1:])
    axes = next((n for n in range(1, len(ours)) if math.prod(ours[:n]) == inputs), None)
    if len(theirs) < 2 or axes is None:
        return None
    sent = lambda indices: np.asarray(layout.to_ours(np.broadcast_to(indices, theirs), ours)).reshape(inputs, outputs)
    from_inputs = sent(np.arange(inputs, dtype=np.int32).reshape(1, *theirs[1:]))
    from_outputs = sent(np.arange(outputs, dtype=np.int32).reshape(-1, *[1] * (len(theirs) - 1)))
    if (from_inputs != from_inputs[:, :1]).any() or (from_outputs != from_outputs[:1]).any():
        return None
    return Separation(ours[:axes], ours[axes:], from_inputs[:, 0].copy(), from_outputs[0].copy())

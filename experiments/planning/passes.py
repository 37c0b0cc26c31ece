"""Counts the passes over arrays in a compiled training step, besides its matrix products, by kind of array.

A pass reads or writes an array once, and takes its bytes over the bandwidth of the memory. What XLA hides behind
products does not count, nor what stays in a cache or in a TPU's scratch memory, so that the numbers differ by machine.
`python -m benchmarks.programs.planned` fits them to the compiled programs of docs/programs.json.
"""

from typing import NamedTuple


class Passes(NamedTuple):
    """The number of passes of a step over each kind of array.

    Attributes:
        state: passes over parameters, optimizer and averages on a device.
        weights: passes over the kernels of all layers in the compute type, as a device uses them.
        tokens: passes over the tokens of all layers, [examples on a device, tokens, width] in the compute type.
        scores: passes over the scores of attention in float32, where attention is not fused.
        exchanged: passes over what an all-to-all sends, before and after it.
        windows: further passes over the tokens, where a TPU's products take the kernels in turns, beside their
            permutes.
    """

    state: float
    weights: float
    tokens: float
    scores: float
    exchanged: float
    windows: float


# The state by the arrays of its update (docs/programs.md); the tokens between S/2's 98 and XL/2's 90.
GPU = Passes(state=2.75, weights=0.0, tokens=94.0, scores=0.0, exchanged=0.0, windows=0.0)
V5P = Passes(state=3.6, weights=4.9, tokens=25.3, scores=17.0, exchanged=12.1, windows=73.2)
# Fitted to two compiled steps, both over a whole torus; state, exchanged and windows are the v5p's.
V6E = Passes(state=3.6, weights=7.2, tokens=0.0, scores=0.0, exchanged=12.1, windows=73.2)

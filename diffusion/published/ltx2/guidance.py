"""LTX-2's guidance: by the text, away from perturbed layers and from modalities apart, each modality with its scales.

    g = x0 + (w - 1) (x0 - x0_negative) + s (x0 - x0_perturbed) + (m - 1) (x0 - x0_apart)
    out = g (phi std(x0) / std(g) + 1 - phi)

Layers are perturbed by the layer mask "identity": their tokens attend to themselves alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from diffusion.arrays import pytrees
from diffusion.guidance.branches import Branches, evaluate
from diffusion.guidance.prediction_changes import deviation_ratio, replace_x0
from diffusion.parameterizations import Denoiser
from diffusion.schedules import NoiseSchedule

BRANCHES = ("text", "perturbed", "apart")
"""The branches beside the conditional one, in their order."""


class Scales(NamedTuple):
    """The scales of one modality's guidance.

    Attributes:
        text: w, 1 for none.
        perturbed: s, 0 for none.
        apart: m, 1 for none.
        rescale: phi in [0, 1], see `guidance.rescaled`.
    """

    text: float = 3.0
    perturbed: float = 1.0
    apart: float = 3.0
    rescale: float = 0.7

    @property
    def strengths(self) -> dict[str, float]:
        """The factor of each branch's difference."""
        return {"text": self.text - 1, "perturbed": self.perturbed, "apart": self.apart - 1}


SCALES: Mapping[str, Scales] = {"video": Scales(), "sound": Scales(text=7.0)}
"""The scales of LTX2Pipeline's `__call__`."""
ALONE: Mapping[str, Scales] = dict.fromkeys(("video", "sound"), Scales(1.0, 0.0, 1.0, 0.0))
"""The scales of a distilled model, without guidance."""


def needed(scales: Mapping[str, Scales]) -> tuple[str, ...]:
    """The branches that some modality's scales need, in the order of `BRANCHES`."""
    return tuple(name for name in BRANCHES if any(one.strengths[name] for one in scales.values()))


def guided(
    branches: Branches, schedule: NoiseSchedule, shape: Any, scales: Mapping[str, Scales], names: Sequence[str]
) -> Denoiser:
    """The guided denoiser of packed pytrees.

    Args:
        branches: evaluates the condition, and then the branches of `names`.
        schedule: the process.
        shape: the pytree of the leaves' shapes, without the batch.
        scales: scales of each leaf.
        names: names of the branches, see `BRANCHES`.

    Reference: HaCohen et al., "LTX-2", 2026; Hong et al., "Spatiotemporal Skip Guidance for Enhanced Video Diffusion
    Sampling", 2025; Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024, section 3.4.
    """
    sizes = dict(zip(sorted(shape), pytrees.sizes_of(shape)))

    def strengths_of(branch: str) -> np.ndarray:
        """The strength of a branch for each number of x."""
        sides = [np.full(size, scales[leaf].strengths[branch], np.float32) for leaf, size in sizes.items()]
        return np.concatenate(sides)

    strengths = [strengths_of(name) for name in names]

    def rescaled(x0: Array, conditional: Array, share: float) -> Array:
        return x0 * (share * deviation_ratio(conditional, x0) + 1 - share)

    def denoise(x_t: Array, t: Any) -> Any:
        order = f"(condition, {', '.join(names)})"
        conditional, *others = evaluate(branches, x_t, t, (1 + len(names),), order)
        x0 = conditional.x0
        for strength, other in zip(strengths, others):
            x0 = x0 + strength * (conditional.x0 - other.x0)
        leaves = jax.tree.map(
            lambda combined, plain, leaf: rescaled(combined, plain, scales[leaf].rescale),
            pytrees.unpack(x0, shape),
            pytrees.unpack(conditional.x0, shape),
            {leaf: leaf for leaf in shape},
        )
        return replace_x0(conditional, schedule, t, pytrees.pack(leaves))

    return denoise

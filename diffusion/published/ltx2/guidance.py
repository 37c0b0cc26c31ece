"""LTX-2's guidance: by the text, and away from perturbed layers and from modalities that ignore each other.

    g = x0 + (w - 1) (x0 - x0_negative) + s (x0 - x0_perturbed) + (m - 1) (x0 - x0_apart)
    out = g (phi std(x0) / std(g) + 1 - phi)

Clip and sound have separate scales. Layers are perturbed by the layer mask "identity": a token attends only to itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax import Array

from diffusion.arrays import pytrees
from diffusion.guidance.branches import Branches, evaluate
from diffusion.guidance.prediction_changes import deviation_ratio, replace_x0
from diffusion.parameterizations import Denoiser
from diffusion.schedules import NoiseSchedule


class Scales(NamedTuple):
    """The scales of one modality's guidance.

    Attributes:
        text: scale w of the guidance by the text; 1 for none.
        perturbed: scale s of the guidance away from perturbed layers; 0 for none.
        apart: scale m of the guidance away from modalities that ignore each other; 1 for none.
        rescale: strength phi of the rescaling, in [0, 1], see `guidance.rescaled`.
    """

    text: Any = 3.0
    perturbed: Any = 1.0
    apart: Any = 3.0
    rescale: Any = 0.7

    @property
    def strengths(self) -> dict[str, Any]:
        """The factor of each branch's difference."""
        return {"text": self.text - 1, "perturbed": self.perturbed, "apart": self.apart - 1}


SCALES: Mapping[str, Scales] = {"video": Scales(), "sound": Scales(text=7.0)}
"""The scales of LTX2Pipeline's `__call__`."""


def guided(
    branches: Branches,
    schedule: NoiseSchedule,
    shape: Mapping[str, Any],
    scales: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
) -> Denoiser:
    """The guided denoiser of packed pytrees.

    Args:
        branches: evaluates the condition, and then the branches of `names`.
        schedule: the process.
        shape: the shapes of the leaves, {"video", "sound"}, without the batch.
        scales: the fields of `Scales` for each leaf; those that are left out are as in `SCALES`.
        names: names of the branches, "text", "perturbed", "apart" or some of them.

    Reference: HaCohen et al., "LTX-2", 2026; Hong et al., "Spatiotemporal Skip Guidance for Enhanced Video Diffusion
    Sampling", 2025; Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024, section 3.4.
    """
    settled = {leaf: SCALES[leaf]._replace(**scales[leaf]) for leaf in shape}

    def combined(leaf: str, plain: Array, others: Sequence[Array]) -> Array:
        strengths, share = settled[leaf].strengths, settled[leaf].rescale
        x0 = plain + sum(strengths[name] * (plain - other) for name, other in zip(names, others))
        return x0 * (share * deviation_ratio(plain, x0) + 1 - share)

    def denoise(x_t: Array, t: Any) -> Any:
        order = f"(condition, {', '.join(names)})"
        conditional, *others = evaluate(branches, x_t, t, (1 + len(names),), order)
        plain, *away = (pytrees.unpack(one.x0, shape) for one in (conditional, *others))
        x0 = {leaf: combined(leaf, plain[leaf], [one[leaf] for one in away]) for leaf in shape}
        return replace_x0(conditional, schedule, t, pytrees.pack(x0))

    return denoise

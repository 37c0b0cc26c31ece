"""FDr^k: the mean over k feature spaces of the Frechet distance of samples, divided by that of held-out real images."""

from collections.abc import Mapping

FLOORS = {"adm": 1.68, "fdr-convnext": 56.87, "dinov2": 14.19, "fdr-mae": 0.04, "siglip": 0.60, "clip": 5.60}
"""Frechet distances of ImageNet's validation images from its training images in the six spaces of FDr^6.

The values are those of eval_all_fds.py in the authors' code. "adm", "fdr-convnext" and "fdr-mae" are also names of
protocols of this package. "dinov2" and "clip" are DINOv2-L and CLIP-L at 256 pixels, and "siglip" is SigLIP 2
So400m/16 at 224 pixels; no protocol of this package has these resolutions, so that these three values do not apply to
`dgm-eval`, `cmmd` or `cmmd-siglip2`.
"""


def representation_ratio(distances: Mapping[str, float], floors: Mapping[str, float]) -> float:
    """The mean over feature spaces of FD(samples, training images) / FD(validation images, training images).

    A ratio of one means that the samples are as far from the training images as held-out real images are. All spaces
    have the same weight, whatever the scale of their features is. The paper's FDr^6 uses Inception-v3 under ADM's
    protocol (`adm`), ConvNeXt V2-B (`fdr-convnext`), DINOv2-L, MAE-L (`fdr-mae`), SigLIP 2 So400m/16 and CLIP-L.
    DINOv2-L and CLIP-L see pictures of 256 pixels, padded to whole patches, and SigLIP 2 sees 224 pixels; no protocol
    of this package does the same. The paper divides by the distances of the validation images in `FLOORS`.

    Args:
        distances: the distances of the samples, by the name of the space.
        floors: the distances of as many held-out real images, in the same spaces, each above zero.

    Returns:
        The mean ratio; smaller is better.

    Raises:
        ValueError: if the spaces differ, there are no spaces, or a floor is not positive.

    Reference: Yang et al., "Representation Frechet Loss for Visual Generation", 2026.
    """
    if distances.keys() != floors.keys() or not distances:
        raise ValueError(
            "a ratio needs the distances of the samples and of real images in each space; the samples have "
            f"{', '.join(sorted(distances)) or 'none'}, and the real images {', '.join(sorted(floors)) or 'none'}"
        )
    for name, floor in floors.items():
        if not floor > 0:
            raise ValueError(f"the distance of real images in {name} is {floor}. Valid: a positive number")
    return sum(distances[name] / floors[name] for name in distances) / len(distances)

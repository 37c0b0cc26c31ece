"""FDr^k: a Frechet distance in each of k feature spaces, as a multiple of the real images' distance, averaged."""

from collections.abc import Mapping

FLOORS = {"adm": 1.68, "fdr-convnext": 56.87, "dinov2": 14.19, "fdr-mae": 0.04, "siglip": 0.60, "clip": 5.60}
"""FDr^6's distances of ImageNet's validation images from its training images: eval_all_fds.py of the authors' code.

The names are those of protocols here, but for DINOv2-L and CLIP-L at 256 pixels and SigLIP 2 So400m/16 at 224, which
none has so: these three floors hold only at the authors' resolutions, not for `dgm-eval`, `cmmd` or `cmmd-siglip2`.
"""


def representation_ratio(distances: Mapping[str, float], floors: Mapping[str, float]) -> float:
    """The mean over feature spaces of FD(samples, training images) / FD(validation images, training images).

    A ratio of one says that the samples are as far from the training images as held-out real images are. The spaces
    weigh the same, whatever the scale of their features. The paper's FDr^6 has Inception-v3 under ADM's protocol
    (`adm`), ConvNeXt V2-B (`fdr-convnext`), DINOv2-L, MAE-L (`fdr-mae`), SigLIP 2 So400m/16 and CLIP-L. Its DINOv2 and
    CLIP see 256 pixels, padded to whole patches, and SigLIP 2 sees 224: no protocol here has them so. `FLOORS` are the
    distances of the validation set that it divides by.

    Args:
        distances: the distances of the samples, by the name of the space.
        floors: the distances of as many held-out real images, in the same spaces; each above zero.

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

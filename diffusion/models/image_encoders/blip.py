"""BLIP's image tower: a plain vision transformer, whose tokens a text encoder attends to."""

from diffusion.models.image_encoders.plain_vit import PlainViT
from diffusion.models.text_encoders.clip import MEAN, STD


class BLIP(PlainViT):
    """BLIP's image tower: images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the class token.

    The images are normalised inside by the mean and standard deviation of CLIP's training pictures. Fields as
    `PlainViT`; the epsilon of the norms is 1e-6 in the authors' code, 1e-5 in transformers' configs.

    Reference: Li et al., "BLIP: Bootstrapping Language-Image Pre-training", 2022; salesforce/BLIP, models/vit.py.
    """

    statistics = (MEAN, STD)

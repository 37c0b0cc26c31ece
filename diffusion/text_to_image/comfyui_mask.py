"""The masks in ComfyUI's workflows: a channel of a picture, and how the nodes keep the rest of the picture.

    mask = Mask("input/cat.png", "alpha", keeps=True)
    painted, colours = mask.read()                         # Bool [H, W], True where the picture is painted, and uint8

With SetLatentNoiseMask, ComfyUI replaces the kept latents before each evaluation of the network by the picture's
latents with the initial noise: `kept_noise="one"`. With InpaintModelConditioning and noise_mask = False, the network
reads the mask and the picture without the painted part, and nothing is replaced.
"""

from typing import NamedTuple

import numpy as np

from diffusion.io import pictures
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.requests import Request

CHANNELS = ("alpha", "red", "green", "blue")


class Mask(NamedTuple):
    """A mask of a workflow.

    Attributes:
        file: the path of a picture.
        channel: one of CHANNELS; alpha is 0 where the picture is painted, and the others are 1 there.
        keeps: whether the kept latents are replaced, as by SetLatentNoiseMask.
    """

    file: str
    channel: str
    keeps: bool

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The mask Bool [H, W], and the colours of its file uint8 [H, W, 3], also of transparent pixels.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that is no sound picture, or paints nothing.
        """
        picture = pictures.read_with_alpha(self.file)
        levels = picture[..., "rgba".index(self.channel[0])]
        mask = levels < 128 if self.channel == "alpha" else levels >= 128
        if not mask.any():
            raise ValueError(f"{self.file} paints nothing by its channel {self.channel}; draw a mask into it")
        return mask, picture[..., :3]


def check(request: Request, model: TextToImage) -> None:
    """Refuses a request with a mask whose result would differ from ComfyUI's.

    Raises:
        ValueError: naming the setting and what is valid.
    """
    if not request.keeps or model.sees_mask:
        return
    if request.kept_noise != "one":
        raise ValueError(f"kept_noise = {request.kept_noise!r}: ComfyUI uses one noise in all steps. Valid: one")
    if request.sampler == "heun":
        raise ValueError("with a mask ComfyUI's heun keeps latents within its steps too. Valid: another sampler")
    if not request.first_step(request.steps or 1) and "shift" not in model.process.fields:
        raise ValueError(
            "with a mask and all steps, ComfyUI starts the kept part from the noised picture, but this model starts it "
            "from noise. "
            "Valid: a denoise, or a strength, that leaves out the first step"
        )

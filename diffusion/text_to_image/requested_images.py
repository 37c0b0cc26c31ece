"""The images of a request as a model sees them: under the result, in its denoiser, and in its prompts."""

from typing import NamedTuple

import numpy as np

from diffusion.data.transforms import to_model
from diffusion.text_to_image.canvas import Canvas, edited_images, scaled
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.requests import Request


class RequestedImages(NamedTuple):
    """The images of a request, opened and scaled as its model reads them.

    Attributes:
        canvas: the image with its margins, and the mask of the part that is painted.
        edited: the images that the denoiser sees beside the latents, each uint8 [h, w, 3].
        last: the last frame of a clip as the request states it, () or of one image.
        in_prompt: the images that the text encoder sees in the prompts, each uint8 [h, w, 3].
    """

    canvas: Canvas
    edited: tuple[np.ndarray, ...] = ()
    last: tuple[str | np.ndarray, ...] = ()
    in_prompt: tuple[np.ndarray, ...] = ()

    def denoiser_images(self, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """The images that the denoiser sees, each float32 [1, h, w, 3] in [-1, 1]; of a clip the last frame.

        Args:
            size: (height, width) of the clip.

        Raises:
            ValueError: for a last frame of another size.
        """
        return network_pictures(self.edited) + tuple(
            sized_picture("the last image", image, size) for image in self.last
        )


def open_images(model: TextToImage, request: Request) -> RequestedImages:
    """Opens the images of a request.

    Args:
        model: the model that the request is for.
        request: a request that this model takes.

    Raises:
        FileNotFoundError, ValueError: for an image that cannot be read, or too many of them.
    """
    first, *last = request.images if model.kind.video is not None and request.images else (request.image,)
    canvas = Canvas.open(first, request.mask).extended(request.margins)
    edits = None if last else model.kind.pictures.several
    if edits:
        originals = [np.asarray(Canvas.open(image, None).image) for image in request.edited(edits)]
        edited = edited_images(originals, edits, model.multiple)
        if model.sight is None:
            return RequestedImages(canvas, edited)
        in_prompt = tuple(model.sight(scaled(image, edits.prompt_pixels, edits.divisor)) for image in originals)
        return RequestedImages(canvas, edited, in_prompt=in_prompt)
    in_prompt = () if model.sight is None or canvas.image is None else (model.sight(canvas.image),)
    return RequestedImages(canvas, last=tuple(last), in_prompt=in_prompt)


def network_pictures(pictures: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Pictures uint8 [h, w, 3] as a network reads them, each float32 [1, h, w, 3] in [-1, 1]."""
    return tuple(np.asarray(to_model(picture))[None] for picture in pictures)


def sized_picture(what: str, image: str | np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image as the autoencoder reads it, float32 [1, h, w, 3] in [-1, 1].

    Args:
        what: the name of the image in the message.
        image: the file or the picture.
        size: the (height, width) that it must have.

    Raises:
        ValueError: for another size.
    """
    picture = np.asarray(Canvas.open(image, None).image)
    if picture.shape[:2] != tuple(size):
        raise ValueError(
            f"{what} has {picture.shape[0]} x {picture.shape[1]} pixels (height x width), but the pictures "
            f"have {size[0]} x {size[1]}: scale or crop it"
        )
    return network_pictures((picture,))[0]

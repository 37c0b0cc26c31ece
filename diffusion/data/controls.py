"""Controls: pictures that are computed from a picture, for a network that learns to follow them.

    control = controls.edges()(picture)    # uint8 [H, W, 3] -> uint8 [H, W, 3]

Each function here returns such a pure function. A config names them in `{"name": "controlled", "control": ...}`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy  # reads its parts where they are first used

Control = Callable[[np.ndarray], np.ndarray]
"""A picture uint8 [H, W, 3] -> its control, uint8 [H, W, 3]."""


def edges(low: float = 100.0, high: float = 200.0, blur: float = 1.0) -> Control:
    """Edges, white on black: steepest pixels across the gradient, above `high` or connected with such above `low`.

    Args:
        low, high: bounds of the norm of Sobel's gradient of the grey picture, in 0 .. 1442; 0 <= low <= high.
        blur: the standard deviation in pixels of a Gaussian before it, >= 0.

    Raises:
        ValueError: for thresholds in the wrong order, or a value out of range.

    Reference: Canny, "A Computational Approach to Edge Detection", 1986.
    """
    if not (0 <= low <= high and blur >= 0):
        raise ValueError(f"low = {low}, high = {high}, blur = {blur}. Valid: 0 <= low <= high, and blur at least 0.")

    def control(picture: np.ndarray) -> np.ndarray:
        grey = scipy.ndimage.gaussian_filter(_grey(picture), blur)
        down = scipy.ndimage.sobel(grey, axis=0)
        right = scipy.ndimage.sobel(grey, axis=1)
        steep = np.round(np.hypot(down, right), 6)  # rounded, so that equal slopes compare as equal
        # The gradient is rounded to one of four directions; a pixel stays if no neighbour in that direction is steeper.
        turn = np.round(np.arctan2(down, right) / (np.pi / 4)).astype(int) % 4
        padded = np.pad(steep, 1)
        rows, columns = steep.shape
        at = lambda i, j: padded[1 + i : 1 + i + rows, 1 + j : 1 + j + columns]
        steepest = np.zeros(steep.shape, bool)
        for direction, (i, j) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
            steepest |= (turn == direction) & (steep >= at(i, j)) & (steep > at(-i, -j))
        labelled: Any = scipy.ndimage.label(steepest & (steep >= low), np.ones((3, 3)))
        parts, number = labelled
        strong = np.zeros(number + 1, bool)
        strong[np.unique(parts[steepest & (steep >= high)])] = True
        strong[0] = False
        return coloured(255.0 * strong[parts])

    return control


def sketch(blur: float = 3.0) -> Control:
    """A pencil drawing, dark on white: grey / (the mean of its surroundings), at most 1.

    Args:
        blur: the standard deviation in pixels of the Gaussian that weights the surroundings, > 0.

    Raises:
        ValueError: for a blur that is not positive.
    """
    if not blur > 0:
        raise ValueError(f"blur = {blur}. Valid: above 0.")

    def control(picture: np.ndarray) -> np.ndarray:
        grey = _grey(picture)
        around = scipy.ndimage.gaussian_filter(grey, blur)
        return coloured(255 * np.minimum((grey + 1) / (around + 1), 1))

    return control


def downsampled(factor: int = 8) -> Control:
    """Means of squares of pixels, each as large as before: the control of models for larger pictures or for tiles.

    Args:
        factor: the side of a square in pixels, >= 1.

    Raises:
        ValueError: for a factor below 1; from the function, for sides that it does not divide.
    """
    if factor < 1:
        raise ValueError(f"factor = {factor}. Valid: at least 1.")

    def control(picture: np.ndarray) -> np.ndarray:
        height, width, channels = picture.shape
        if height % factor or width % factor:
            raise ValueError(f"factor = {factor} does not divide the sides of a picture of {height} x {width}.")
        squares = picture.reshape(height // factor, factor, width // factor, factor, channels).astype(np.float64)
        means = np.round(squares.mean((1, 3), keepdims=True)).astype(np.uint8)
        return np.broadcast_to(means, squares.shape).reshape(picture.shape)

    return control


def _grey(picture: np.ndarray) -> np.ndarray:
    """float64 [H, W] in 0 .. 255 of uint8 [H, W, 1 or 3], by ITU-R BT.601."""
    weights = (0.299, 0.587, 0.114) if picture.shape[-1] == 3 else (1.0,)
    return picture.astype(np.float64) @ np.array(weights)


def coloured(grey: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of grey numbers [H, W] in 0 .. 255."""
    return np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=-1)

"""Handwritten digits of 8x8 pixels, and two measures of pictures of them.

The 1,797 digits are scikit-learn's. 1,300 are for training, and 497 are held out.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from diffusion.metrics import frechet

CLASSES = 10
TRAIN = 1300
_pixels, _labels = load_digits(return_X_y=True)
_order = np.random.default_rng(0).permutation(len(_pixels))
_images = (_pixels[_order] / 8 - 1).astype(np.float32).reshape(-1, 8, 8, 1)  # in [-1, 1]

images, held_out = _images[:TRAIN], _images[TRAIN:]
"""`[1300, 8, 8, 1]` and `[497, 8, 8, 1]`."""

labels, held_out_labels = np.split(_labels[_order], [TRAIN])
"""Their classes, 0 .. 9."""


def draw(key, number):
    """A batch of training digits with their classes, as `small_training.train` takes it."""
    rows = jax.random.randint(key, (number,), 0, TRAIN)
    return {"x": jnp.asarray(images)[rows], "condition": jnp.asarray(labels)[rows]}


def distance(pictures):
    """The Fréchet distance of 497 pictures to the held-out digits, over that of 497 training digits (the floor)."""
    reference = _moments(held_out)
    floor = frechet.frechet_distance(_moments(images[: len(held_out)]), reference)
    return float(frechet.frechet_distance(_moments(np.clip(pictures, -1, 1)), reference) / floor)


def recognised(pictures, classes):
    """The share of pictures whose nearest training digit is of the class that is asked for."""
    judge = KNeighborsClassifier(1).fit(images.reshape(TRAIN, -1), labels)
    return judge.score(np.clip(pictures, -1, 1).reshape(len(pictures), -1), classes)


def _moments(pictures):
    return frechet.update(frechet.init(64), np.asarray(pictures).reshape(len(pictures), -1))

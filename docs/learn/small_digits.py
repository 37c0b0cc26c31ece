"""Handwritten digits of 8x8 pixels, and two measures of pictures of them.

The 1,797 digits are scikit-learn's, in the split of the dataset `digits`, which the weights of the package were trained
on: 1,258 for training, 359 held out. The notebooks that build a class-conditional network sample it at the
labels of the held-out digits, draw the samples below those digits, and judge them.
"""

import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from diffusion import guidance, samplers, timesteps
from diffusion.data import digits
from diffusion.metrics import frechet

CLASSES = 10
_pixels, _labels, _splits = digits.digits()
_order = np.random.default_rng(0).permutation(len(_pixels))  # the digits lie in the order of their writers
_images = (_pixels / 127.5 - 1).astype(np.float32)
_rows = {split: _order[_splits[_order] == split] for split in ("train", "test")}

images, held_out = _images[_rows["train"]], _images[_rows["test"]]
"""`[1258, 8, 8, 1]` and `[359, 8, 8, 1]`, in [-1, 1]."""

labels, held_out_labels = _labels[_rows["train"]], _labels[_rows["test"]]
"""Their classes, 0 .. 9."""


def draw(key, number):
    """A batch of training digits with their classes, in the form that `small_training.train` expects."""
    rows = jax.random.randint(key, (number,), 0, len(images))
    return {"x": jnp.asarray(images)[rows], "condition": jnp.asarray(labels)[rows]}


def distance(pictures):
    """The Fréchet distance of 359 pictures to the held-out digits, divided by that of 359 training digits (the floor)."""
    reference = _moments(held_out)
    floor = frechet.frechet_distance(_moments(images[: len(held_out)]), reference)
    return float(frechet.frechet_distance(_moments(np.clip(pictures, -1, 1)), reference) / floor)


def recognised(pictures, classes):
    """The share of pictures whose nearest training digit has the requested class."""
    judge = KNeighborsClassifier(1).fit(images.reshape(len(images), -1), labels)
    return judge.score(np.clip(pictures, -1, 1).reshape(len(pictures), -1), classes)


def _moments(pictures):
    return frechet.update(frechet.init(64), np.asarray(pictures).reshape(len(pictures), -1))


def samples(network, params, schedule, parameterization, scales):
    """{name: pictures `[359, 8, 8, 1]`}: the held-out digits, and samples of their classes at each scale of guidance.

    Args:
        network: (params, x_t, t, label) -> output; the label `CLASSES` stands for none.
        params: the parameters of the network.
        schedule: the process.
        parameterization: what the network predicts.
        scales: scales of classifier-free guidance; 1 means no guidance.
    """
    keys = jax.random.split(jax.random.key(3), len(held_out))
    noise = samplers.prior(schedule, keys, (8, 8, 1))
    plan = timesteps.plan(timesteps.uniform(schedule, steps=20))
    classes = jnp.asarray(held_out_labels)
    none = jnp.full_like(classes, CLASSES)

    @jax.jit
    def sample(params, scale):
        branches = guidance.together(functools.partial(network, params), schedule, parameterization, (classes, none))
        guided = guidance.classifier_free(branches, scale)
        return samplers.sample(samplers.heun(), guided, schedule, noise, plan, keys)

    drawn = {f"samples, w = {scale:g}": np.asarray(sample(params, scale)) for scale in scales}
    return {"held-out digits": held_out} | drawn


def draw_rows(pictures):
    """Draws one digit of each class from each set of pictures, one row per set."""
    first = [int(np.flatnonzero(held_out_labels == digit)[0]) for digit in range(CLASSES)]
    _, panels = plt.subplots(len(pictures), CLASSES, figsize=(7.5, 0.9 * len(pictures)))
    for row, (name, images) in zip(panels, pictures.items(), strict=True):
        for panel, i in zip(row, first, strict=True):
            panel.imshow(images[i, :, :, 0], cmap="gray_r", vmin=-1, vmax=1)
            panel.set(xticks=[], yticks=[])
        row[0].set_ylabel(name.replace(", ", "\n").replace(" d", "\nd"), fontsize=8)
    for digit, panel in enumerate(panels[0]):
        panel.set_title(str(digit), fontsize=8.5)
    plt.show()


def judge(pictures):
    """Prints how many pictures of each set are recognised and how far samples are; returns the shares by name."""
    shares = {name: recognised(images, held_out_labels) for name, images in pictures.items()}
    for name, share in shares.items():
        far = "" if name == "held-out digits" else f", distance {distance(pictures[name]):.2f} times the floor"
        print(f"{name}: class recognised {share:.1%}{far}")
    return shares

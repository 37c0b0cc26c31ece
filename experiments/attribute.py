"""Shows the training pictures that influence samples of a small run the most, by TRAK's scores.

    diffusion attribute --workdir=runs/digits --number=4
    diffusion attribute --workdir=runs/digits --number=4 --features=4096 --draws=16 --out=runs/digits/attribution

The command takes the first samples of each class from samples.npz in the run folder, which diffusion sample writes. It
computes a random projection of the gradient of the loss for each sample and for every training picture. It writes
attribution.png (each sample with the training pictures whose removal would raise its loss most), attribution.npz
(scores `[samples, pictures]`) and attribution.json. Every draw needs a gradient for every training picture, so the
training set should have at most about ten thousand pictures.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/digits", required=True)
    flags.DEFINE_integer("number", 8, "number of samples", lower_bound=1)
    flags.DEFINE_integer("top", 8, "number of training pictures to show for each sample", lower_bound=1)
    flags.DEFINE_integer("features", 2048, "length of a projected gradient", lower_bound=1)
    flags.DEFINE_integer("draws", 8, "number of draws of time and noise per picture", lower_bound=1)
    flags.DEFINE_integer("train", 0, "number of training pictures to use; 0 uses all of them", lower_bound=0)
    flags.DEFINE_string("out", None, "folder for the results; WORKDIR/attribution by default")
    command_line.begin()

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from diffusion import parameterizations
from diffusion.arrays import chunks
from diffusion.data.transforms import to_model
from diffusion.experiments.evaluation import held_out, plots, real_images
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import sample_files, trained_run
from diffusion.io import files, json_files
from diffusion.metrics import attribution
from diffusion.recipe import ConfigError
from diffusion.schedules import left_broadcast
from diffusion.training.runtime import progress

BATCH = 16  # gradients that are computed at once


def features_of(
    run: trained_run.Trained,
    key: Array,
    images: np.ndarray,
    labels: np.ndarray,
    k: int,
    draws: int,
    done: Callable[[int], None] = lambda done: None,
) -> attribution.Features:
    """The projected gradients of pictures, under the run's parameterization, at times uniform in [0, t_max].

    Args:
        run: a run on classes, or without conditions.
        key: the random key of the times and the noise. Samples and training pictures need different keys; with the same
            key, rows of the same number would share their draws, which would raise their scores.
        images: the pictures, uint8 `[N, H, W, C]`.
        labels: the classes, int `[N]`.
        k: the length of a projected gradient.
        draws: the number of draws of time and noise per picture.
        done: a function that receives the number of finished pictures.

    Raises:
        ConfigError: for a run with other conditions.
    """
    recipe = run.recipe
    if recipe.examples.by_record:
        raise ConfigError("diffusion attribute supports only runs on classes, or without conditions.")
    parameterization = recipe.parameterization
    project = attribution.sketch(jax.random.key(0), run.params, k)

    def features(params, image, label, keys):
        x = to_model(image)[None]
        condition = None if recipe.examples.null is None else label[None]

        def residual(params, key):
            when, noise = jax.random.split(key)
            t = jax.random.uniform(when, (1,), maxval=run.schedule.t_max)
            eps = jax.random.normal(noise, x.shape)
            x_t = left_broadcast(run.schedule.alpha(t), x) * x + left_broadcast(run.schedule.sigma(t), x) * eps
            network = lambda x, clock, condition: recipe.network.apply(params, x, clock, condition)
            output, t = parameterizations.evaluate(network, run.schedule, parameterization, x_t, t, condition)
            return output, parameterization.target(run.schedule, t, x, eps)

        return attribution.features(residual, params, keys, project)

    several = jax.jit(jax.vmap(features, in_axes=(None, 0, 0, 0)))
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), draws))(np.arange(len(images)))
    rows = (images, np.asarray(labels, np.int32), keys)
    return chunks.applied(lambda few: several(run.params, *few), rows, BATCH, done)


def picture(
    samples: np.ndarray, train: np.ndarray, scores: np.ndarray, top: int, path: str | os.PathLike
) -> np.ndarray:
    """Draws each sample beside the training pictures with the highest scores for it, as a PNG.

    Args:
        samples: samples, uint8 `[Q, H, W, C]`.
        train: training pictures, uint8 `[N, H, W, C]`.
        scores: scores of the training pictures, float `[Q, N]`.
        top: the number of training pictures beside each sample, in [1, N].
        path: the file to write.

    Returns:
        The rows of these pictures in `train`, int `[Q, top]`, the highest score first.
    """
    best = np.argsort(-scores, axis=1)[:, :top]
    number = len(samples)
    figure = plots.blank(0.9 * (best.shape[1] + 1), 1.05 * number, "constrained")
    axes = figure.subplots(number, best.shape[1] + 1, squeeze=False)
    for row, sample in enumerate(samples):
        for column, image in enumerate([sample, *train[best[row]]]):
            one = axes[row, column]
            one.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
            one.set_xticks([])
            one.set_yticks([])
            title = "sample" if not column else f"{scores[row, best[row, column - 1]]:.2g}"
            one.set_title(title, fontsize=7)
    plots.save(figure, path)
    return best


def attribute(
    run: trained_run.Trained,
    samples: tuple[np.ndarray, np.ndarray],
    train: tuple[np.ndarray, np.ndarray],
    k: int,
    draws: int,
    done: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """TRAK's scores of N training pictures for Q samples.

    Args:
        run: the trained run.
        samples: samples, uint8 `[Q, H, W, C]`, and their labels, int `[Q]`.
        train: training pictures, uint8 `[N, H, W, C]`, and their labels, int `[N]`.
        k: the length of a projected gradient, at least 1.
        draws: the number of draws of time and noise per picture, at least 1.
        done: a function that receives the number of finished training pictures.

    Returns:
        The scores, float64 `[Q, N]`.
    """
    sample_features = features_of(run, jax.random.key(2), *samples, k, draws)
    train_features = features_of(run, jax.random.key(1), *train, k, draws, done)
    return attribution.trak(sample_features.loss, train_features.loss, train_features.output, damping=0.1)


def main(argv: list[str]) -> None:
    """Computes the scores, and writes them and the picture."""
    values = flags.FLAGS
    out = workdir.output_folder(values.out or pathlib.Path(values.workdir) / "attribution")
    run = trained_run.load(values.workdir)
    if not run.recipe.makes_bytes or run.recipe.on_latents:
        kind = "latents" if run.recipe.on_latents else run.recipe.unit()
        raise ConfigError(f"--workdir={values.workdir} is a run on {kind}. Valid: a run on pictures.")
    held_out.require_trained_data(run.config, values.workdir)
    images, labels = sample_files.read_samples(values.workdir)
    sample_files.check_samples(images, labels, run.shape, 0)
    images, labels = images[: values.number], labels[: values.number]
    real = real_images.split_of(run.config, run.config.data.split)
    rows = np.arange(len(real.images))[: values.train or None]
    train = (np.asarray(real.images[rows]), real.labels[rows])
    with progress.bar("gradients", len(rows), "pictures") as advance:
        scores = attribute(run, (images, labels), train, values.features, values.draws, advance)
    out.mkdir(parents=True, exist_ok=True)
    with files.atomic(out / "attribution.npz") as file:
        np.savez(file, scores=scores, samples=images, labels=labels, rows=rows)
    best = picture(images, train[0], scores, values.top, out / "attribution.png")
    same = float(np.mean(train[1][best] == labels[:, None]))
    chance = float(np.mean([np.mean(train[1] == label) for label in labels]))
    content: dict[str, Any] = {
        "samples": len(images),
        "train": len(rows),
        "features": values.features,
        "draws": values.draws,
        "top": rows[best].tolist(),
        "share_of_the_class": {"top": same, "all": chance},
    }
    json_files.write(out / "attribution.json", content)
    print(
        f"{same:.0%} of the {best.shape[1]} highest training pictures have the class of their sample, and {chance:.0%} "
        "of all training pictures do"
    )
    print(f"Look at: {out / 'attribution.png'}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)

"""Files that show samples other than pictures: texts, charts, clips, sounds, surfaces, backbones.

A source of data may have a method `drawn(samples, classes, folder)`, which then writes the files and returns their
paths.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.sources import DamagedRecord, is_clip
from diffusion.experiments.evaluation import (
    backbone_figures,
    clip_pictures,
    manifold_charts,
    plots,
    series_charts,
    series_files,
    sound_files,
    surface_pictures,
)
from diffusion.experiments.sampling import symbol_samples
from diffusion.io.files import write_text
from diffusion.objectives import Moves, Restores
from diffusion.recipe import ConfigError, data
from diffusion.recipe.recipe import Recipe


class Samples(NamedTuple):
    """Samples of a run.

    Attributes:
        recipe: the recipe of the run.
        x: the samples, uint8 or float32 `[N, ...]`.
        labels: the conditions that the network received, int `[N]` or a pytree `[N, ...]`.
        classes: the classes, int `[N]`; zeros without classes.
        from_records: whether the conditions come from the data's first records.
        out: the folder to write into.
    """

    recipe: Recipe
    x: np.ndarray
    labels: Any
    classes: np.ndarray
    from_records: bool
    out: pathlib.Path


def draw(samples: Samples) -> list[pathlib.Path] | None:
    """Draws samples by their kind; returns the files, [] for a kind that cannot be drawn, and None for pictures."""
    kind = next((kind for kind in KINDS if kind.fits(samples)), None)
    if kind is None:
        return None
    try:
        source: Any = data.open_recipe(samples.recipe)
    except (ConfigError, DamagedRecord):
        if kind.needs_source:
            raise
        source = None
    if (drawn := getattr(source, "drawn", None)) is not None:
        return list(drawn(samples.x, samples.classes, samples.out))
    return kind.show(samples, source)


def _symbols(samples: Samples, source: Any) -> list[pathlib.Path]:
    """A line of text for each sample of symbols; line breaks are written as backslash and n."""
    vocabulary = source.spec.vocabulary
    lines = (text.replace("\n", "\\n") + "\n" for text in symbol_samples.texts(samples.x, vocabulary))
    path = samples.out / "samples.txt"
    write_text(path, "".join(lines))
    return [path]


def _points_of_manifold(samples: Samples, source: Any) -> list[pathlib.Path]:
    if backbone_figures.are_backbones(source):
        return backbone_figures.write(samples.x, samples.classes, _names(samples, source), samples.out)
    exact = getattr(source, "distribution", None)
    path = samples.out / "samples.png"
    reads: Any = samples.recipe.objective.reads
    return [path] * manifold_charts.draw(reads.manifold, samples.x, path, exact and exact.log_density)


def _points_of_plane(samples: Samples, source: Any) -> list[pathlib.Path]:
    names = data.class_names(samples.recipe)
    plots.scatter(samples.x, samples.classes, samples.out / "samples.png", names)
    return [samples.out / "samples.png"]


def _series(samples: Samples, source: Any) -> list[pathlib.Path]:
    grouped, part = series_charts.grouped(samples.x, samples.labels)
    path = samples.out / "samples.png"
    series_charts.fans(grouped, part, path, getattr(source, "process", None))
    for name in series_files.NAMES:
        (samples.out / name).unlink(missing_ok=True)  # it would be of earlier samples
    return [path, *(series_files.write(source, samples.x, samples.out) if samples.from_records else [])]


def _clips(samples: Samples, source: Any) -> list[pathlib.Path]:
    return clip_pictures.draw(samples.x, samples.classes, samples.out, getattr(source, "rate", clip_pictures.RATE))


def _by_records(samples: Samples, source: Any) -> list[pathlib.Path]:
    """Draws samples that are surfaces or sounds, as the source of the run's data states; [] for other samples."""
    if (surface := getattr(source, "surface", None)) is not None:
        return surface_pictures.draw(samples.x, samples.classes, _names(samples, source), surface, samples.out)
    if (sound := getattr(source, "sound", None)) is not None:
        levels = samples.labels["spectrogram"] if sound.mels else None
        waveforms = sound.waveform(np.asarray(samples.x, np.float32), levels, samples.labels)
        heard = (sound, waveforms, samples.classes, _names(samples, source))
        sound_files.draw(*heard, samples.out / "samples.png")
        return [samples.out / "samples.png", sound_files.write(*heard, samples.out)]
    return []


def _names(samples: Samples, source: Any) -> tuple[str, ...]:
    """The names of the classes; () for a model without classes, even if the data have classes."""
    return source.spec.classes if samples.recipe.examples.num_classes else ()


def _are_series(samples: Samples) -> bool:
    null = samples.recipe.examples.null
    return isinstance(null, Mapping) and "given" in null


class Kind(NamedTuple):
    """A kind of samples other than pictures.

    Attributes:
        fits: whether samples are of this kind.
        show: a function from (samples, source of the run's data) to the files that show them.
        needs_source: whether the samples cannot be shown without the run's data; otherwise the source may be None.
    """

    fits: Callable[[Samples], bool]
    show: Callable[[Samples, Any], list[pathlib.Path]]
    needs_source: bool = True


# The first kind that fits is drawn.
KINDS = (
    Kind(lambda samples: isinstance(samples.recipe.objective.reads, Restores), _symbols),
    Kind(lambda samples: isinstance(samples.recipe.objective.reads, Moves), _points_of_manifold),
    Kind(lambda samples: samples.recipe.examples.shape == (2,), _points_of_plane, needs_source=False),
    Kind(_are_series, _series),
    Kind(lambda samples: is_clip(samples.x.shape[1:], str(samples.x.dtype)), _clips, needs_source=False),
    Kind(lambda samples: not samples.recipe.makes_pictures, _by_records),
)

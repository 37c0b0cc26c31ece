"""Class pictures that the base model generates before training, for prior preservation: `objective.beside.prior`.

    WORKDIR/prior/00000.png ...     the pictures; picture i has the seed i
    WORKDIR/prior_latents, WORKDIR/prior_captions

Each example of the run is paired with one of them; the shorter list is repeated. Existing pictures are not made again.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion import text_to_image
from diffusion.data import captions, latent_cache, pipeline, sources
from diffusion.data.sources.spec import ManyAtOnce
from diffusion.experiments.run import tuned_examples
from diffusion.experiments.run.examples import Examples
from diffusion.io import pictures
from diffusion.objectives import Prior
from diffusion.recipe import ConfigError
from diffusion.recipe.base import Base
from diffusion.recipe.recipe import Recipe
from diffusion.training.runtime import agreement, progress


class Pairs(ManyAtOnce):
    """Records with the latents of a class picture beside their own; there are as many as in the longer list."""

    def __init__(self, source: Any, prior: latent_cache.Latents):
        self._source, self._prior = source, prior

    def __len__(self) -> int:
        return max(len(self._source), len(self._prior))

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        fetch = lambda source: pipeline.fetch(source, np.asarray(rows) % len(source))
        return [
            one | {"x": np.stack([one["x"], other["x"]])} for one, other in zip(fetch(self._source), fetch(self._prior))
        ]


def beside(recipe: Recipe, workdir: str | pathlib.Path, examples: Examples) -> tuple[Examples, dict[str, Any]]:
    """The examples, each with a class picture if the objective has prior preservation; all processes call it.

    Class pictures that the run folder lacks are generated and encoded first.

    Args:
        recipe: the recipe of the run.
        workdir: the run folder, which stores the pictures.
        examples: the examples of the run.

    Returns:
        (the examples, whose batches have the entry "prior"; {"prior": the digest of the latents of class pictures}).
        Without prior preservation, (the same examples, {}).
    """
    prior = recipe.objective.beside.prior
    if prior is None:
        return examples, {}
    folder, prompt = pathlib.Path(workdir), prior.prompt
    base = tuned_examples.tuned_network(recipe).base
    agreement.first(lambda: _make(prior, base, folder / "prior", examples))

    def encode() -> None:
        source = sources.picture_folder(str(folder / "prior"))
        tuned_examples.encode(recipe, source, folder / "prior_latents")
        tuned_examples.read(recipe, source.spec, [prompt] * len(source), folder / "prior_captions")

    try:
        agreement.first(encode)
        latents, _ = latent_cache.open_cache(folder / "prior_latents")
        table = captions.read(folder / "prior_captions")
    except (FileNotFoundError, latent_cache.CacheError) as error:
        raise ConfigError(f"config.objective.wrappers, prior_preservation: {error}") from error
    condition = {name: rows[1] for name, rows in table.entries.items()}
    (draw,) = examples.augment
    both = functools.partial(_both, draw, latents.draw)
    spec = examples.spec._replace(shape=(2, *examples.spec.shape))
    stored = examples._replace(source=Pairs(examples.source, latents), spec=spec, augment=(both,))
    complete = functools.partial(_with_prior, condition)
    known = {"prior": latents.fingerprint()["sha256"]}
    return examples._replace(stored=stored, complete=complete, beside=f", beside pictures of {prompt!r}"), known


def _with_prior(condition: Mapping[str, np.ndarray], batch: pipeline.Batch) -> pipeline.Batch:
    """A batch whose pairs are split into "x" and "prior"; `condition` is the network's input for the class prompt."""
    rows = {name: np.repeat(leaf[None], len(batch["x"]), axis=0) for name, leaf in condition.items()}
    return batch | {"x": batch["x"][:, 0], "prior": {"x": batch["x"][:, 1], "condition": rows}}


def _both(first: Callable, second: Callable, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return np.stack([first(rng, x[0]), second(rng, x[1])])


def _make(prior: Prior, base: Base, folder: pathlib.Path, examples: Examples) -> None:
    """Makes the missing pictures, in the size of the run's pictures, with the model's default settings.

    Raises:
        ConfigError: if a picture was made with another prompt, or if the folder has more pictures than the run.
    """
    stored = [path.name for path in folder.glob("[0-9][0-9][0-9][0-9][0-9].png")]
    if beyond := sorted(name for name in stored if int(name[:5]) >= prior.number):
        raise ConfigError(
            f"{folder} holds the picture {beyond[0]}, but prior_preservation has number = {prior.number}. "
            f"Valid: number = {int(beyond[-1][:5]) + 1}, or no pictures from {beyond[0]} on."
        )
    paths = [folder / f"{i:05}.png" for i in range(prior.number)]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    for path in paths:
        if (shown := _prompt_of(path)) not in (None, prior.prompt):
            raise ConfigError(
                f"{path} shows {shown!r}, but prior_preservation has the prompt {prior.prompt!r}. Valid: {shown!r}, or "
                f"no {folder}."
            )
    if not missing:
        return
    folder.mkdir(exist_ok=True)
    model = text_to_image.load(base.path, dtype=base.model.dtype)
    height, width = (side * model.modules["vae"].factor for side in examples.spec.shape[:2])
    with progress.bar("making pictures of the class", len(missing), "pictures") as advance:
        for done, i in enumerate(missing):
            settings = {"seeds": i, "height": height, "width": width}
            picture = text_to_image.generate(model, prior.prompt, **settings)[0]
            pictures.write(paths[i], picture, {"prompt": prior.prompt, "seed": i})
            advance(done + 1)


def _prompt_of(path: pathlib.Path) -> str | None:
    """The prompt that a picture was made with; None for a picture of the user's own, or none."""
    try:
        return pictures.settings_of(path).get("prompt")
    except (FileNotFoundError, ValueError):
        return None

"""A text-to-image model on the page."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion import text_to_image
from diffusion.models.interchange import schedulers
from diffusion.text_to_image import Frame, pipelines
from experiments.playground.request import Asked, common
from experiments.sampling import from_prompt


class Published:
    """The model of a folder with model_index.json, as a `Source`.

    Args:
        folder: see `text_to_image.load`.
        dtype: of the denoiser and the text encoders.
        loras: LoRA files and the weight of each.
    """

    prompts, classes, free = True, 0, True

    def __init__(self, folder: str, dtype: str, loras: Mapping[str, float]):
        self.model = text_to_image.load(folder, dtype=dtype, loras=loras)
        self.name = pathlib.Path(folder).resolve().name
        sampler, side = self.model.process.sampler, self.model.side
        self.usual = Asked(sampler=sampler, height=side, width=side, **self.model.usual._asdict())
        self.samplers = tuple(sorted(schedulers.SOLVERS))
        self._fixed = {
            "format": from_prompt.FORMAT,
            "model": folder,
            "dtype": dtype,
            "loras": dict(loras),
            "windows": False,
            "tile": 0,
            "checkpoint": pipelines.fingerprint(folder),
        }

    def watch(self, asked: Asked) -> Iterator[Frame]:
        image, mask = asked.canvas()
        return text_to_image.watch(
            self.model,
            asked.prompt,
            negative=asked.negative or None,
            steps=asked.steps,
            guidance=asked.guidance,
            seeds=asked.seeds,
            sampler=asked.sampler,
            image=image,
            mask=mask,
            margins=asked.margins,
            strength=asked.strength or None,
            resamplings=asked.resamplings,
            **({} if asked.image else {"height": asked.height, "width": asked.width}),
        )

    def carried(self, asked: Asked) -> dict[str, Any]:
        """So that `experiments.sample --again` makes the picture anew."""
        said = common(asked)
        if asked.image:
            said |= {"height": 0, "width": 0}
        sampler = asked.sampler or self.model.process.sampler
        return {**self._fixed, "prompt": asked.prompt, "sampler": sampler, **said}

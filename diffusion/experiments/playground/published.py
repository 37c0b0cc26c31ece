"""A text-to-image model on the page."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion import text_to_image
from diffusion.experiments.playground.page_request import PageRequest
from diffusion.models.interchange import schedulers
from diffusion.text_to_image import Frame, png


class Published:
    """The model of a folder with model_index.json, as a `Source`; its arguments are those of `text_to_image.load`."""

    prompts, classes, free = True, 0, True

    def __init__(self, folder: str, dtype: str, loras: Mapping[str, float]):
        self.model = text_to_image.load(folder, dtype=dtype, loras=loras)
        self.name = pathlib.Path(folder).resolve().name
        self.size = self.model.side, self.model.side
        self.usual = PageRequest().resolved(self.model)
        self.samplers = tuple(sorted(schedulers.SOLVERS))
        self._record = png.model(folder, dtype, loras)

    def resolved(self, request: PageRequest) -> PageRequest:
        return request.resolved(self.model)

    def watch(self, request: PageRequest) -> Iterator[Frame]:
        return text_to_image.frames(self.model, request)

    def record(self, request: PageRequest) -> Mapping[str, Any]:
        """So that `diffusion sample --again` makes the picture anew."""
        return self._record

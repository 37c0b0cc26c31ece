"""Latents from a cache, which stores only classes, combined with the conditions of their original records."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diffusion.data import latent_cache, pipeline, sources
from diffusion.data.sources.spec import Derived, ManyAtOnce, read_many


@contextlib.contextmanager
def every_record() -> Iterator[None]:
    """A context in which the error of a damaged record does not advise to leave it out: a run that tunes needs it."""
    try:
        yield
    except sources.DamagedRecord as error:
        raise error.where_none_is_left_out() from error


class Beside(Derived, ManyAtOnce):
    """Latents with the condition of their pictures' records, such as a control or the words of a caption.

    A source with `conditions(rows)` gives these without its pictures.
    """

    def __init__(self, latents: latent_cache.Latents, source: sources.Source):
        """Joins them, record by record."""
        super().__init__(latents)  # whose fingerprint the latent cache takes from the pictures
        self._source = source
        self.spec = latents.spec._replace(condition=source.spec.condition)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records."""
        with every_record():
            if (known := getattr(self._source, "conditions", None)) is not None:
                theirs = known(rows)
            else:
                theirs = [record["condition"] for record in pipeline.fetch(self._source, np.asarray(rows))]
        return [record | {"condition": one} for record, one in zip(read_many(self._of, rows), theirs)]

"""Latents from a cache, which stores only classes, combined with the conditions of the records that they came from."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diffusion.data import latent_cache, pipeline, sources
from diffusion.data.sources.spec import Derived, ManyAtOnce, read_many


@contextlib.contextmanager
def every_record() -> Iterator[None]:
    """A context for a run that needs every record: the error for a damaged one does not advise to leave it out."""
    try:
        yield
    except sources.DamagedRecord as error:
        raise error.where_none_is_left_out() from error


class Beside(Derived, ManyAtOnce):
    """Latents with the conditions of their pictures' records, such as a control or the words of a caption.

    If the source has `conditions(rows)`, its pictures are not read.
    """

    def __init__(self, latents: latent_cache.Latents, source: sources.Source):
        """Joins latents and the source of their pictures, record by record."""
        super().__init__(latents)  # the fingerprint of latents comes from their pictures
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

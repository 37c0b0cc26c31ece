"""Latents of a cache, which has classes alone, with the conditions of the records that they were made of."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diffusion.data import latent_cache, pipeline, sources
from diffusion.data.sources.spec import ManyAtOnce


@contextlib.contextmanager
def every_record() -> Iterator[None]:
    """Within it, a damaged record's error does not advise to leave the record out, since a run that tunes does not."""
    try:
        yield
    except sources.DamagedRecord as error:
        raise error.where_none_is_left_out() from error


class Beside(ManyAtOnce):
    """Latents with what their pictures' records have as their condition, such as a control or the words of a caption.

    A source with `conditions(rows)` gives these without its pictures.
    """

    def __init__(self, latents: latent_cache.Latents, source: sources.Source):
        """Joins them, record by record."""
        self._latents, self._source = latents, source
        self.spec = latents.spec._replace(condition=source.spec.condition)

    def __len__(self) -> int:
        return len(self._latents)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records."""
        with every_record():
            if (known := getattr(self._source, "conditions", None)) is not None:
                theirs = known(rows)
            else:
                theirs = [record["condition"] for record in pipeline.fetch(self._source, np.asarray(rows))]
        return [record | {"condition": one} for record, one in zip(self._latents.__getitems__(rows), theirs)]

    @property
    def where(self) -> str:
        """The folder of the latents."""
        return self._latents.where

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the latents, which the latent cache takes from the pictures."""
        return self._latents.fingerprint()

"""Runs of one test file that compute the same share one program, which is traced once."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from diffusion.experiments.config.values import to_json
from diffusion.experiments.run import program as programs


@contextlib.contextmanager
def traced_once(*apart: str) -> Iterator[None]:
    """Has all runs with equal configs share a program, whatever their fields `apart`: "section" or "section.field".

    A program depends on none of these. tests/reliability compares runs that each built their own.
    """
    build = programs.build
    built = {}

    def shared(recipe, mesh):
        config = json.loads(to_json(recipe.config))
        for name in apart:
            section, _, field = name.partition(".")
            of = config[section] if field else config
            del of[field or section]
        key = json.dumps([config, recipe.shape, recipe.entry, recipe.num_classes, dict(mesh.shape)])
        if key not in built:
            built[key] = build(recipe, mesh)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "build", shared)
        yield

"""Runs of one test file that compute the same share one program, which is traced once."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from diffusion.experiments.run import networks, program as programs
from diffusion.experiments.sampling import generate
from diffusion.recipe.values import built_in_python, to_json


@contextlib.contextmanager
def traced_once(*apart: str) -> Iterator[None]:
    """Has all runs with equal configs share a program, whatever their fields `apart`: "section" or "section.field".

    A program depends on none of these. So do runs share the program that makes their samples, and the count of their
    operations. Recipes that Python built share one where they have the very same schedule and objective, and equal
    networks; what else they pass must be in their configs. tests/reliability compares runs that each built their own.
    """
    built = {}

    def key_of(recipe) -> tuple:
        config = json.loads(to_json(recipe.config))
        for name in apart:
            section, _, field = name.partition(".")
            of = config[section] if field else config
            del of[field or section]
        null = jax.tree.map(
            lambda leaf: [str(leaf.dtype), leaf.tolist()], jax.tree.map(np.asarray, recipe.examples.null)
        )
        known = [config, recipe.examples.shape, recipe.entry, recipe.examples.num_classes, null]
        objects = (id(recipe.schedule), id(recipe.objective), recipe.network) if built_in_python(recipe.config) else ()
        return (json.dumps(known), *objects)

    def shared(build: Callable) -> Callable:
        def of(recipe, mesh=None, watermark=None) -> Any:
            if watermark is not None:
                return build(recipe, mesh, watermark)
            key = (build, *key_of(recipe), mesh)
            if key not in built:
                built[key] = build(recipe, mesh), recipe  # which keeps its objects, and so their ids
            return built[key][0]

        return of

    count = networks.flops_of

    def counted(module, params, shape, null) -> int:
        key = (module, shape, str(jax.tree.map(np.shape, null)))
        if key not in built:
            built[key] = count(module, params, shape, null)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "build", shared(programs.build))
        patch.setattr(generate, "generator", shared(generate.generator))
        patch.setattr(networks, "flops_of", counted)
        yield

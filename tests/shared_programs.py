"""Lets runs of one test file that compute the same share one program, which is traced once."""

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
    """Lets all runs with equal configs share their programs within the block.

    The runs share the program of the train step, that of the samples, and the count of operations. Recipes that Python
    built share programs if they have the same schedule and objective objects, and equal networks; everything else that
    they pass must be in their configs. tests/reliability compares runs that build separate programs.

    Args:
        *apart: the fields that may differ, "section" or "section.field", since no program depends on them.
    """
    built = {}

    def key_of(recipe) -> tuple:
        config = json.loads(to_json(recipe.config))
        for name in apart:
            section, _, field = name.partition(".")
            parent = config[section] if field else config
            del parent[field or section]
        null = jax.tree.map(
            lambda leaf: [str(leaf.dtype), leaf.tolist()], jax.tree.map(np.asarray, recipe.examples.null)
        )
        known = [config, recipe.examples.shape, recipe.entry, recipe.examples.num_classes, null]
        objects = (id(recipe.schedule), id(recipe.objective), recipe.network) if built_in_python(recipe.config) else ()
        return (json.dumps(known), *objects)

    def shared(build: Callable) -> Callable:
        def build_once(recipe, mesh=None, watermark=None) -> Any:
            if watermark is not None:
                return build(recipe, mesh, watermark)
            key = (build, *key_of(recipe), mesh)
            if key not in built:
                built[key] = build(recipe, mesh), recipe  # the recipe stays alive, so that no other object has its ids
            return built[key][0]

        return build_once

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

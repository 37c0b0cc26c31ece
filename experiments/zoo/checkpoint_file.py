"""Reads the network of a row from its file, after a check that the file belongs to the row."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion.experiments.zoo.row import Row
from diffusion.io.leaf_names import leaves_of
from diffusion.models import interchange
from diffusion.models.interchange import folders, rows, tensor_files
from diffusion.models.interchange.folders import Found
from diffusion.recipe import ConfigError
from diffusion.recipe.recipe import Recipe

PICKLES = (".pkl", ".pickle")


class Weights(NamedTuple):
    """The parameters of a row's network."""

    params: Any  # the parameters of `recipe.network.apply`
    parameters: int  # the number of parameters of the recipe's network


def find(row: Row, recipe: Recipe, path: str | pathlib.Path) -> Found:
    """The tensors in the file of a row's network. Pickles are refused without reading them.

    Args:
        row: the row.
        recipe: the row's recipe.
        path: the file, or a folder that `diffusion convert` made from it.

    Raises:
        ConfigError: for a pickle; the message says how to write it as safetensors.
        FileNotFoundError: if there is no such file.
        Mismatch: if the file holds another network; the message names the first tensor that differs.
        limits.Refused: if the file is damaged or hostile.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix in PICKLES:
        raise ConfigError(
            f"--weights={path} is a pickle of its authors' classes, which this library does not read. Write it as "
            f"safetensors in the authors' environment: diffusion zoo --row={row.name} prints the program."
        )
    family = interchange.FAMILIES[row.checkpoint.family]
    module = row.checkpoint.stored(recipe.network)
    leaves = leaves_of(folders.shapes_of(family, module))
    tensors = tensor_files.open_tensors(path)
    beside = (*family.ignored, *family.dropped)
    candidates = [
        (tensors.under(prefix).without(beside), layout, folders.expected_of(family, module, layout, leaves))
        for prefix in ((row.checkpoint.prefix, "") if row.checkpoint.prefix else family.prefixes)  # "": converted
        for layout in folders.layouts(family)
    ]
    agreeing = lambda candidate: len(candidate[0].shapes.items() & candidate[2].items())
    mine, layout, expected = max(candidates, key=agreeing)
    if difference := rows.first_difference(expected, mine.shapes):
        raise interchange.Mismatch(f"--weights={path} is not {row.method} ({row.checkpoint.file}): {difference}.")
    return Found(family, module, layout, mine)


def read(row: Row, recipe: Recipe, network: Found) -> Weights:
    """The parameters of the recipe's network.

    Raises:
        Mismatch: if a stored tensor, such as a table of positions, differs from the one that the network computes.
    """
    params = row.checkpoint.taken(recipe.network, folders.read(network))
    return Weights({"params": params}, sum(leaf.size for leaf in jax.tree.leaves(params)))


def parameters(recipe: Recipe) -> int:
    """The number of parameters of a recipe's network, without computing them."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(recipe)))


def shapes(recipe: Recipe) -> Any:
    """The variables of a recipe's network as a pytree of jax.ShapeDtypeStruct, without computing them."""
    return jax.eval_shape(recipe.network.init, jax.random.key(0), *arguments(recipe))


def arguments(recipe: Recipe) -> tuple[Any, ...]:
    """Arguments (x, clock, condition) of a call of a recipe's network, for one example."""

    def struct(*shape: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), dtype)

    times = recipe.objective.network.times
    clock = struct() if times == 1 else (struct(),) * times
    return struct(*recipe.examples.shape), clock, struct(dtype=np.int32) if recipe.examples.by_class else None

"""The conditions that a command line requests: classes, a vector, a caption, or a file of arrays."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffusion.data import series_masks
from diffusion.data.sources.spec import Leaf
from diffusion.io import npy, npz
from diffusion.recipe import ConfigError, as_config_errors, data
from diffusion.recipe.recipe import Recipe

FILES = (".npy", ".npz")


def labels(names: Sequence[str], recipe: Recipe, number: int, words: Mapping[str, int] | None = None) -> np.ndarray:
    """The requested classes in turn, int32 `[number]`.

    Args:
        names: the classes, each by its number, by its name in the data, or by one of its words.
        recipe: the recipe of the model.
        number: the number of labels to return.
        words: {word: number of its class}, for a published model whose classes have words; None for the names of the
            classes in the data of the run.

    Raises:
        ConfigError: for a class that the model does not have, no class, or a model whose condition holds more than the
            class.
    """
    if not names:
        raise ConfigError("--labels is empty. Valid: classes, such as 3,8, or no --labels.")
    num_classes = recipe.examples.num_classes
    if num_classes and not recipe.examples.by_class:
        raise ConfigError(
            f"--labels={','.join(names)}: in this run the class is one entry of the condition. Valid: "
            f"--condition=FILE.npz, with an array for each of {', '.join(recipe.examples.null)}."
        )
    names = [*map(str.strip, names)]
    also = ", or words of the model's id2label" if words else ""
    if words is None and not all(map(str.isdecimal, names)):
        words = {name: row for row, name in enumerate(data.class_names(recipe)) if not name.isdecimal()}
        also = f", or {', '.join([*words][:10])}{' ...' if len(words) > 10 else ''}" if words else ""
    rows = []
    for name in names:
        row = int(name) if name.isdecimal() else (words or {}).get(name, -1)
        if not 0 <= row < num_classes:
            valid = f"integers in 0 .. {num_classes - 1}" if num_classes else "none: the model has no classes"
            raise ConfigError(f"--labels: {name!r} is not a class of this model. Valid: {valid}{also}.")
        rows.append(row)
    return np.resize(np.array(rows, np.int32), number)


def conditions(text: str, recipe: Recipe) -> Any:
    """The conditions of the samples of a run.

    Args:
        text: one of three forms. Numbers such as "0.5,-1.2" are a vector that all samples share. A caption is shared
            too, if the source of the run's data has `condition_of`, which turns captions into conditions. A .npy file
            holds an array [K, ...], and a .npz file an array [K, ...] for each entry of the condition; the samples use
            its K conditions in turn.
        recipe: the recipe of the run, for its data.

    Returns:
        Pytree of arrays [config.sample.number, ...], in the form of the data's conditions.

    Raises:
        ConfigError: for a run without such conditions, a text of another form, or arrays that do not fit; it names the
            valid form.
    """
    null = recipe.examples.null
    if not recipe.examples.by_record or recipe.receives_text:
        raise ConfigError(
            f"--condition={text}: the data of this run have no conditions. Valid: no --condition, or --labels."
        )
    path = pathlib.Path(text).expanduser()
    vector = None if path.suffix in FILES else _vector(text)
    if vector is None and path.suffix not in FILES:
        condition_of = getattr(data.open_recipe(recipe), "condition_of", None)
        if condition_of is not None:
            return _caption_condition(text, condition_of, recipe.config.sample.number)
    form = ", ".join(
        f"{''.join(map(str, path)) or 'an array'} [K{''.join(f', {side}' for side in np.shape(leaf))}]"
        for path, leaf in jax.tree_util.tree_flatten_with_path(null)[0]
    )
    try:
        rows = _read(path, vector, null)
        arrays = jax.tree.leaves(rows)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--condition={text}: {error}. Valid: numbers, a .npy or a .npz file with {form}.") from error
    _check(text, arrays, jax.tree.leaves(null), form)
    num_classes = recipe.examples.num_classes
    if num_classes and not all(0 <= label < num_classes for label in rows["label"]):
        raise ConfigError(
            f"--condition={text} has the classes {sorted(set(rows['label'].tolist()))}. Valid: integers in 0 .. "
            f"{num_classes - 1}."
        )
    if isinstance(rows, dict) and "given" in rows:
        with as_config_errors():
            series_masks.check(rows)
        rows["given"] = np.where(rows["mask"], rows["given"], 0)  # hidden values may be NaN
    for leaf, one in zip(jax.tree.leaves(rows), jax.tree.leaves(null)):
        with np.errstate(over="ignore"):
            if not np.isfinite(leaf.astype(one.dtype)).all():
                raise ConfigError(
                    f"--condition={text} has a number that is not finite in {one.dtype}. Valid: finite numbers."
                )
    number, length = recipe.config.sample.number, len(arrays[0])
    if number < length:
        print(f"--condition: the first {number} of {length} conditions are sampled (config.sample.number)")
    return _in_turn(rows, recipe, np.arange(number) % length)


def _read(path: pathlib.Path, vector: np.ndarray | None, null: Any) -> Any:
    """The conditions of a file, or the vector, as a pytree of the structure of `null`; errors name what is wrong."""
    structure = jax.tree.structure(null)
    if path.suffix == ".npz":
        names = tuple(null) if isinstance(null, dict) else ("condition",)
        stored = npz.headers(path).keys()
        if missing := [name for name in names if name not in stored]:
            raise ValueError(f"it has no {', '.join(missing)}, only {', '.join(stored)}")
        entries = npz.load(path, names)
        return entries if isinstance(null, dict) else entries["condition"]
    if path.suffix == ".npy":
        return structure.unflatten([np.array(npy.mapped(path))])
    if vector is None:
        raise ValueError("it is neither numbers nor a file")
    return structure.unflatten([vector])


def _check(text: str, arrays: Sequence[np.ndarray], leaves: Sequence[Any], form: str) -> None:
    """Refuses arrays [K, ...] whose shapes, numbers or values are not those of the data's conditions `leaves`."""
    lengths = {len(leaf) if leaf.ndim else 0 for leaf in arrays}
    fits = [np.shape(leaf)[1:] == np.shape(one) and leaf.dtype.kind in "fiub" for leaf, one in zip(arrays, leaves)]
    if not all(fits) or len(lengths) != 1 or not max(lengths):
        shapes = ", ".join(f"{leaf.dtype} {list(leaf.shape)}" for leaf in arrays)
        raise ConfigError(f"--condition={text} is {shapes}. Valid: {form}.")
    for leaf, one in zip(arrays, leaves):
        with np.errstate(invalid="ignore", over="ignore"):
            changes = leaf != leaf.astype(one.dtype)
        if one.dtype.kind in "iub" and changes.any():
            raise ConfigError(
                f"--condition={text} has the value {leaf[changes][0]} where the data have {one.dtype}. Valid: "
                + ("0 and 1." if one.dtype == bool else "whole numbers.")
            )


def _in_turn(rows: Any, recipe: Recipe, turns: np.ndarray) -> Any:
    """These rows of the conditions, in the types of the data's.

    The network scales bytes itself. If the data hold numbers, the bytes of a file are meant as numbers too.
    """
    leaves, structure = jax.tree.flatten(recipe.examples.null)
    arrays = jax.tree.leaves(rows)
    are_bytes = _bytes_of_data(recipe) if any(leaf.dtype == np.uint8 for leaf in arrays) else [False] * len(leaves)
    return structure.unflatten(
        leaf[turns] if leaf.dtype == np.uint8 and scaled else leaf[turns].astype(one.dtype)
        for leaf, one, scaled in zip(arrays, leaves, are_bytes)
    )


def _bytes_of_data(recipe: Recipe) -> list[bool]:
    """Whether each entry of the data's conditions holds bytes, which stand for [-1, 1]; all True without data."""
    try:
        condition = data.open_recipe(recipe).spec.condition
    except ConfigError:  # a published model
        return [True] * len(jax.tree.leaves(recipe.examples.null))
    leaves = jax.tree.leaves(condition, is_leaf=lambda node: isinstance(node, Leaf))
    return [leaf.dtype == "uint8" for leaf in leaves]


def _vector(text: str) -> np.ndarray | None:
    """The numbers between the commas of a text, `[1, K]`; None if the text is of another form."""
    try:
        return np.array([[float(number) for number in text.split(",")]])
    except ValueError:
        return None


def _caption_condition(caption: str, condition_of: Callable[[str], Any], number: int) -> Any:
    """The condition of a caption, `number` times.

    Raises:
        ConfigError: for a caption that the data cannot have.
    """
    try:
        condition = condition_of(caption)
    except ValueError as error:
        raise ConfigError(f"--condition={caption}: {error}") from error
    return jax.tree.map(lambda leaf: np.stack([leaf] * number), condition)

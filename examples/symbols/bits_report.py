"""Shared code of the reports on models of symbols: training and evaluation, the table of bits, and the protocol."""

import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import traverse_util

from diffusion.experiments.evaluation import report
from diffusion.io import safetensors_files
from examples.symbols import characters, digit_models, text_models


def measured(
    path: pathlib.Path,
    model: digit_models.DigitModel | text_models.TextModel,
    params: Any,
    draw: Callable[[np.random.Generator], Any],
    rows: Any,
    times: int,
    seed: int = 0,
) -> tuple[Any, dict[str, Any]]:
    """The trained parameters of a model, from its file or trained now, and its row of the table of bits.

    Args:
        path: the file of the model's weights.
        model: the model.
        params: the initial parameters.
        draw: a function (rng) -> a batch of the loss.
        rows: a batch of the bound, on which the bits are measured.
        times: the number of times at which each row is noised.
        seed: the seed of the training's batches and noise.
    """
    params, minutes = load_or_make(path, lambda: characters.train(params, model.loss, draw, flags.FLAGS.steps, seed))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    row = {"estimator": model.estimator, "parameters": size, "minutes": minutes}
    if model.bound is None:
        return params, row
    estimate = characters.mean_bits(model.bound, params, rows, times)
    print(f"{path.stem}: {estimate.bits:.3f} +- {estimate.error:.3f} bits a symbol", flush=True)
    return params, {**estimate._asdict(), **row}


def load_or_make(path: pathlib.Path, make: Callable[[], Any]) -> tuple[Any, float]:
    """Nested dicts of arrays, and the minutes that it took to make them, from a file or made now and written to it.

    A file is used as it is, whatever the settings with which it was made.
    """
    if path.exists():
        flat = safetensors_files.load(path)
        minutes = float(safetensors_files.header(path).metadata["minutes"])
        return traverse_util.unflatten_dict({key: jnp.asarray(one) for key, one in flat.items()}, "."), minutes
    print(f"{path.stem}:", flush=True)
    begin = time.monotonic()
    tree = make()
    minutes = (time.monotonic() - begin) / 60
    flat = {key: np.asarray(one) for key, one in traverse_util.flatten_dict(tree, sep=".").items()}
    shapes = {key: one.shape for key, one in flat.items()}
    safetensors_files.write(path, shapes, "float32", iter(flat.items()), {"minutes": f"{minutes:.1f}"})
    return tree, minutes


def protocol(*fields: str) -> dict[str, Any]:
    """The values of some flags, and the software."""
    return {name: getattr(flags.FLAGS, name) for name in fields} | report.software()


def table(bits: Mapping[str, Mapping[str, Any]], symbol: str) -> str:
    """The table of the rows of `measured` and of other rows, which may have only bits and an estimator."""

    def cells(name: str, row: Mapping[str, Any]) -> Iterator[str]:
        yield name
        yield f"{row['bits']:.3f}" + (f" ± {row['error']:.3f}" if "error" in row else "")
        yield row["estimator"]
        yield f"{row['parameters']:,d}" if "parameters" in row else ""
        yield f"{row['minutes']:.0f}" if "minutes" in row else ""

    columns = ("model", f"bits per {symbol}", "estimator", "parameters", "minutes of training")
    return report.table(columns, [[*cells(*item)] for item in sorted(bits.items(), key=lambda item: item[1]["bits"])])


def page(parts: Iterator[str], protocol: Mapping[str, Any]) -> str:
    """The page of paragraphs, with the protocol below them."""
    last = ("## Protocol", report.table(("commit", "device"), [[protocol["git_commit"], protocol["device"]]]))
    return report.page([*parts, *last])

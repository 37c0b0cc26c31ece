"""The way of a batch from its source to its gradient: the files of ours whose functions get it, by tracing them."""

import pathlib
import sys
from collections.abc import Mapping

import jax
import pytest

from configs import digits
from diffusion.experiments.run import examples, program as programs
from diffusion.recipe import Recipe
from diffusion.training import sharding

ROOT = pathlib.Path(__file__).parents[3]
OURS = f"{ROOT}/diffusion/"
MOST = 10


def holds_examples(value) -> bool:
    """Whether a value is a batch, a record, or records: mappings of the entries that a source has, or a step reads."""
    if isinstance(value, (list, tuple)):
        return any(map(holds_examples, value))
    return isinstance(value, Mapping) and bool({"image", "x"} & value.keys())


class Files:
    """In its `with` block, the files of `diffusion` with a function that takes or returns examples.

    A network takes none: it gets x_t, a time and a condition. Nor does what comes after the gradient.

    Attributes:
        names: {file: its functions that take or return examples}.
        before: all files with a function that runs, until the loss is called that is differentiated.
    """

    def __init__(self):
        self.names: dict[str, set[str]] = {}
        self.before: set[str] = set()

    def __enter__(self) -> "Files":
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_) -> None:
        sys.setprofile(None)

    def _seen(self, frame, event, value) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(OURS):
            return
        if not any("summed_loss" in functions for functions in self.names.values()):
            self.before.add(code.co_filename.removeprefix(f"{ROOT}/"))
        taken = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if event == "call" else ()
        if any(map(holds_examples, map(frame.f_locals.get, taken))) or (event == "return" and holds_examples(value)):
            self.names.setdefault(code.co_filename.removeprefix(f"{ROOT}/"), set()).add(code.co_name)


@pytest.mark.extended
def test_a_batch_of_the_digits_passes_at_most_ten_files_to_its_gradient():
    config = digits.get_config("tiny")
    config.train.batch_size = config.objective.density.strata = 8
    config.model.update({"width": 16, "depth": 1})
    mesh = programs.mesh_of(config)
    recipe = Recipe.from_config(config, (8, 8, 1))
    data = examples.open_examples(recipe)
    batches = data.batches(config, 0, sharding.positions(8, mesh), threads=0)
    program = programs.build(recipe, mesh)
    next(batches)  # the first one imports what decodes it, and imports pass our finder of old names
    with Files() as files:
        batch = sharding.to_devices(next(batches), mesh, 8)
        step = lambda *inputs: program.step.__wrapped__(*inputs)  # another function, for the step is traced already
        jax.eval_shape(step, program.target, batch, program.seed)
    ends = {
        "diffusion/data/sources/tfds_records.py",
        "diffusion/training/step.py",
        "diffusion/objectives/flow_matching.py",
    }
    assert ends <= files.names.keys()
    assert "summed_loss" in files.names["diffusion/training/step.py"]  # whose gradient is taken
    assert len(files.names) <= MOST, files.names
    assert len(files.before) < MOST, files.before  # the loop's own file is the tenth

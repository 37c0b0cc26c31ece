"""The Python of pages that a reader copies runs in its order, without what the reader would have to guess."""

import pathlib
import re

import jax
import numpy as np
import pytest

from diffusion.recipe import checks, names, recipes

DOCS = pathlib.Path(__file__).parents[1] / "docs"
OF_FILES = ("symbol_tables.load(", "language_tables.load(")  # of published weights, which the tests do not have
SIZES = {"steering": ("samples", (64, 2)), "discrete": ("samples", (4, 16))}


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", SIZES)
def test_each_block_of_a_page_runs_after_those_before(page):
    blocks = blocks_of(page)
    names = {"config": recipes.load("digits")}
    ran = [exec(code, names) for code in blocks if not any(word in code for word in OF_FILES)]
    assert len(ran) >= 6
    name, shape = SIZES[page]
    assert names[name].shape == shape
    arrays = [value for value in names.values() if isinstance(value, jax.Array) and value.dtype == np.float32]
    assert arrays and all(np.isfinite(array).all() for array in arrays)


def post_training_recipe(blocks, row):
    """The page's run of an example, or the recipe that the text before a block names, with the block's settings."""
    files = re.findall(r"^```py\n(.*?)^```", (DOCS / "post_training.md").read_text(), re.DOTALL | re.MULTILINE)
    reward, example = {}, {}
    exec(files[0], reward)
    exec(files[1], example)
    code = blocks[row]
    if "config.tuning" in code:  # "or another row of the table above, with its arguments": those of the example
        config, objective = recipes.load("tuning/lora"), example["get_config"]().objective
        exec(code, {"config": config})
        config.objective, config.train.batch_size = objective, 8
    elif "config.objective.wrappers" in code:  # of any objective without groups
        config = recipes.load("digits:tiny")
        exec(code, {"config": config})
    else:
        config = example["get_config"]("tiny")
        exec(code, {"config": config})
    config.sample.guidance.scale = 1.0  # as the page says of recipes that sample with guidance
    return checks.validate(config)


OF_POST_TRAINING = (
    "diffusion_nft",
    "diffusion_nft",
    "diffusion_dpo",
    "flow_matching",
    "policy_gradient",
    "diffusion_nft",
    "adjoint_matching",
)  # the objective of each block


@pytest.mark.extended
@pytest.mark.parametrize("row", range(len(OF_POST_TRAINING)))
def test_each_config_of_post_training_is_valid(row, monkeypatch):
    monkeypatch.setitem(names.REWARDS, "brightness", None)  # removed again after the test
    del names.REWARDS["brightness"]
    blocks = blocks_of("post_training")
    assert len(blocks) == len(OF_POST_TRAINING)
    assert post_training_recipe(blocks, row).config.objective.name == OF_POST_TRAINING[row]

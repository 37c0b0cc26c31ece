"""Samples are drawn as what they are, and a source of a user's own draws them itself."""

import numpy as np
import pytest
from flax import linen as nn

from diffusion.data.sources.sequences import Records
from diffusion.experiments.config import data
from diffusion.experiments.config.recipe import Recipe
from diffusion.experiments.evaluation import sample_pictures
from diffusion.objectives import flow_matching
from diffusion.parameterizations import velocity
from diffusion.schedules import rectified_flow


class Molecules(Records):
    """Records of three numbers, which know how they are drawn."""

    def drawn(self, samples, classes, folder):
        path = folder / "molecules.csv"
        np.savetxt(path, samples + classes[:, None], delimiter=",")
        return [path]


def samples_of(source, shape, out):
    schedule = rectified_flow()
    parts = {"objective": flow_matching(schedule), "network": nn.Dense(shape[-1]), "parameterization": velocity()}
    recipe = Recipe(schedule=schedule, data=source, shape=shape, config={}, **parts)
    x = np.zeros((2, *shape), np.float32)
    return sample_pictures.Samples(recipe, x, np.zeros(2, np.int32), np.zeros(2, np.int32), False, out)


@pytest.mark.parametrize("kind", [Molecules, Records])
def test_a_source_draws_its_samples_itself(kind, tmp_path):
    source = kind([{"x": np.float32([0, 1, i])} for i in range(4)])
    made = sample_pictures.draw(samples_of(source, (3,), tmp_path))
    if kind is Records:
        assert made == []
        return
    assert made == [tmp_path / "molecules.csv"]
    np.testing.assert_array_equal(np.loadtxt(made[0], delimiter=","), np.zeros((2, 3)))


def test_pictures_are_left_to_the_caller_and_need_no_data(tmp_path, monkeypatch):
    given = samples_of(Records([{"image": np.zeros((8, 8, 3), np.uint8)}]), (8, 8, 3), tmp_path)
    monkeypatch.setattr(data, "of_recipe", lambda recipe: pytest.fail("the data were opened"))
    assert given.recipe.makes_pictures and sample_pictures.draw(given) is None

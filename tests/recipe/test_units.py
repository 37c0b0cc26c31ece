"""What the examples of a run are called, and the names of its classes."""

import types

import numpy as np
import pytest

from diffusion.experiments.evaluation import plots
from diffusion.recipe import Recipe, data
from diffusion.recipe.sections import sectioned


def recipe(**facts):
    none = {"on_latents": False, "autoencoder": None, "structure": None, "makes_pictures": False, "makes_bytes": False}
    none["objective"] = types.SimpleNamespace(reads=None, process=None)
    return types.SimpleNamespace(**sectioned(none | facts))


@pytest.mark.parametrize(
    "facts, name, of_samples",
    [
        ({"shape": (8, 8, 1), "makes_pictures": True, "makes_bytes": True}, "images", "images"),
        ({"shape": (4, 4, 4), "makes_pictures": True, "on_latents": True, "makes_bytes": True}, "latents", "images"),
        ({"shape": (5,)}, "vectors", "vectors"),
        ({"shape": (7,), "structure": {"a": (3,), "b": (2, 2)}}, "examples", "examples"),
        ({"shape": (16, 8, 8, 3), "makes_bytes": True}, "clips", "clips"),
        ({"shape": (48, 1)}, "examples", "examples"),
    ],
)
def test_the_noun_is_the_datas_own(facts, name, of_samples):
    assert Recipe.unit(recipe(**facts)) == name and Recipe.unit(recipe(**facts), of_samples=True) == of_samples


def test_classes_have_their_names_in_the_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "mosaic", lambda blocks, names, *rest: drawn.append(names))
    images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.array([0, 1, 3, 0, 1, 3])
    plots.sample_grid(images, labels, tmp_path / "a.png", classes=("cat", "dog", "owl"))
    plots.sample_grid(images, labels, tmp_path / "a.png")
    assert drawn == [["cat", "dog", "3"], ["0", "1", "3"]]


def test_names_are_those_of_the_data_where_these_are_there():
    spec = types.SimpleNamespace(classes=("cat", "dog"))
    source = types.SimpleNamespace(spec=spec, fingerprint=dict)
    own = recipe(num_classes=2, data=source)
    assert data.class_names(own) == ("cat", "dog")
    assert data.class_names(recipe(num_classes=0, data=source)) == ()

"""The source of points on the arms of a spiral, and the recipe that trains on them."""

import re

import numpy as np
import pytest
from scipy.spatial import cKDTree

from configs import points
from diffusion.data.sources import spirals
from diffusion.experiments import train
from diffusion.experiments.evaluation import plots
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling.run_samples import sample
from diffusion.recipe import checks


def test_points_lie_on_the_arm_that_is_their_class():
    source = spirals("test", arms=4, number=1000, noise=0.0)
    assert (source.spec.shape, source.spec.num_classes, source.spec.dtype) == ((2,), 4, "float32")
    x = np.stack([source[i]["x"] for i in range(1000)])
    label = np.array([source[i]["label"] for i in range(1000)])
    radius = np.hypot(*x.T)
    turned = np.arctan2(x[:, 1], x[:, 0]) - np.pi * radius  # by half a turn at radius 1
    np.testing.assert_allclose(np.exp(1j * turned), np.exp(2j * np.pi * label / 4), atol=1e-5)
    assert radius.min() > 0.199 and radius.max() < 1.001
    assert np.bincount(label).min() > 200
    noisy = spirals("test", arms=4, number=1000, noise=0.05)
    away = np.stack([noisy[i]["x"] for i in range(1000)]) - x
    assert abs(away.std() - 0.05) < 0.003


def test_a_point_is_the_same_each_time_and_splits_differ():
    first, again, test = spirals(number=50), spirals(number=50), spirals("test", number=50)
    assert first.fingerprint() == again.fingerprint() != test.fingerprint()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"split": "validation"}, "Valid: train, test"),
        ({"arms": 0}, "arms = 0"),
        ({"number": 0}, "number = 0"),
        ({"number": 10, "noise": -0.1}, "noise = -0.1"),
        ({"number": 10, "noise": float("nan")}, "noise = nan"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        spirals(**arguments)


def test_points_are_drawn_in_the_plane(tmp_path):
    plots.scatter(np.zeros((3, 2)), np.arange(3), tmp_path / "points.png")
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"need points \[N, 2\].*\[3, 3\]"):
        plots.scatter(np.zeros((3, 3)), np.arange(3), tmp_path / "points.png")


@pytest.mark.slow
def test_the_recipe_learns_the_arms(tmp_path, monkeypatch):
    """Energy distance to points that it has not seen, and each class on its own arm."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    assert train.run(points.get_config(), tmp_path / "run") == 0
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path / "run")))
    x = sample(recipe, tmp_path / "run")
    label = np.load(tmp_path / "run/samples.npz")["labels"]
    assert (tmp_path / "run/samples.png").is_file()
    test = spirals("test", number=3000)
    real = np.stack([test[i]["x"] for i in range(3000)])
    of = np.array([test[i]["label"] for i in range(3000)])
    mean = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1).mean()
    assert 2 * mean(x, real) - mean(x, x) - mean(real, real) < 0.01
    for arm in range(3):
        distance, _ = cKDTree(real[of == arm]).query(x[label == arm])
        assert np.quantile(distance, 0.95) < 0.1

"""Samples are drawn as what they are, and a source of a user's own draws them itself."""

import types

import numpy as np
import pytest
from flax import linen as nn

from diffusion.data.sources.sequences import Records
from diffusion.experiments.evaluation import sample_pictures
from diffusion.objectives import Moves, Restores, flow_matching
from diffusion.parameterizations import velocity
from diffusion.recipe import ConfigError, data
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.sections import Examples, sectioned
from diffusion.schedules import rectified_flow
from diffusion.timesteps import uniform_density


class Molecules(Records):
    """Records of three numbers, which know how they are drawn."""

    def drawn(self, samples, classes, folder):
        path = folder / "molecules.csv"
        np.savetxt(path, samples + classes[:, None], delimiter=",")
        return [path]


def samples_of(source, shape, out):
    schedule = rectified_flow()
    parts = {
        "objective": flow_matching(uniform_density(schedule)),
        "network": nn.Dense(shape[-1]),
        "parameterization": velocity(),
    }
    recipe = Recipe(schedule=schedule, data=source, examples=Examples(shape=shape), config={}, **parts)
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
    monkeypatch.setattr(data, "open_recipe", lambda recipe: pytest.fail("the data were opened"))
    assert given.recipe.makes_pictures and sample_pictures.draw(given) is None


# ==== What each kind of samples becomes ====


def sampled(out, x, classes=None, labels=None, from_records=False, **recipe):
    fields = {
        "objective": types.SimpleNamespace(reads=None),
        "shape": x.shape[1:],
        "null": None,
        "num_classes": 2,
        "makes_pictures": False,
    }
    classes = np.zeros(len(x), int) if classes is None else classes
    labels = classes if labels is None else labels
    return sample_pictures.Samples(
        types.SimpleNamespace(**sectioned(fields | recipe)), x, labels, classes, from_records, out
    )


@pytest.fixture
def calls(monkeypatch):
    """What was drawn by which function: their arguments; the source that they ask for."""
    made, source = [], types.SimpleNamespace(spec=types.SimpleNamespace(classes=("a", "b")))
    monkeypatch.setattr(data, "open_recipe", lambda recipe: source)
    said = lambda name, result=None: lambda *rest: made.append((name, *rest)) or result
    monkeypatch.setattr(sample_pictures.plots, "scatter", said("scatter"))
    monkeypatch.setattr(sample_pictures.series_charts, "fans", said("fans"))
    monkeypatch.setattr(sample_pictures.series_files, "write", said("filled", ["filled.csv"]))
    monkeypatch.setattr(sample_pictures.manifold_charts, "draw", said("chart", True))
    monkeypatch.setattr(sample_pictures.backbone_figures, "write", said("backbones", ["pdb"]))
    monkeypatch.setattr(sample_pictures.surface_pictures, "draw", said("surfaces", ["views.png"]))
    monkeypatch.setattr(sample_pictures.clip_pictures, "draw", said("clips", ["samples.gif"]))
    monkeypatch.setattr(sample_pictures.sound_files, "draw", said("sound"))
    monkeypatch.setattr(sample_pictures.sound_files, "write", said("wav", "sounds"))
    return made, source


OWN = {  # samples that are no still pictures, and the recipe by which the library would draw them
    "symbols": (np.zeros((2, 4), np.int32), {"objective": types.SimpleNamespace(reads=Restores(None, np.zeros))}),
    "plane": (np.zeros((2, 2), np.float32), {}),
    "series": (np.zeros((2, 4, 1), np.float32), {"null": {"given": 0}}),
    "clips": (np.zeros((2, 4, 8, 8, 3), np.uint8), {}),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_sources_own_function_draws_any_samples_but_pictures(calls, tmp_path, kind):
    made, source = calls
    x, recipe = OWN[kind]
    source.drawn = lambda samples, classes, folder: made.append(samples) or [folder / "own.csv"]
    samples = sampled(tmp_path, x, **recipe)
    assert sample_pictures.draw(samples) == [tmp_path / "own.csv"]
    assert len(made) == 1 and made[0] is x and not list(tmp_path.iterdir())


def test_points_in_the_plane_need_no_data(calls, tmp_path, monkeypatch):
    def absent(recipe):
        raise ConfigError("config.data.source: no such file")

    monkeypatch.setattr(data, "open_recipe", absent)
    monkeypatch.setattr(data, "class_names", lambda recipe: ())
    assert sample_pictures.draw(sampled(tmp_path, np.zeros((3, 2), np.float32))) == [tmp_path / "samples.png"]


def test_points_in_the_plane_are_scattered_by_the_names_of_their_classes(calls, tmp_path, monkeypatch):
    x, classes = np.zeros((3, 2), np.float32), np.array([0, 1, 1])
    monkeypatch.setattr(data, "class_names", lambda recipe: ("cat", "dog"))
    assert sample_pictures.draw(sampled(tmp_path, x, classes)) == [tmp_path / "samples.png"]
    ((name, points, labels, path, names),) = calls[0]
    assert name == "scatter" and points is x and labels is classes and path == tmp_path / "samples.png"
    assert names == ("cat", "dog")


@pytest.mark.parametrize("shown, exact", [(True, True), (False, False)])
def test_points_on_a_manifold_are_a_chart_if_there_is_one(calls, tmp_path, monkeypatch, shown, exact):
    made, source = calls
    if exact:
        source.distribution = types.SimpleNamespace(log_density="density")
    chart = lambda *rest: made.append(("chart", *rest)) or shown
    monkeypatch.setattr(sample_pictures.manifold_charts, "draw", chart)
    reads = Moves(None, None, "a sphere")
    x = np.zeros((3, 3), np.float32)
    samples = sampled(tmp_path, x, objective=types.SimpleNamespace(reads=reads))
    assert sample_pictures.draw(samples) == [tmp_path / "samples.png"] * shown
    assert made == [("chart", "a sphere", x, tmp_path / "samples.png", "density" if exact else None)]


@pytest.mark.parametrize("kind", ["backbones", "surfaces", "wav"])
def test_samples_of_a_model_without_classes_have_no_names_of_the_data(calls, tmp_path, kind):
    """Their classes are zeros: all of them were named and titled as the data's first class."""
    made, source = calls
    reads = Moves(None, None, None) if kind == "backbones" else None
    facts = {
        "backbones": {"backbones": True},
        "surfaces": {"surface": "surface"},
        "wav": {"sound": types.SimpleNamespace(mels=0, waveform=lambda *rest: "waveforms")},
    }
    vars(source).update(facts[kind])
    x = np.zeros((3, 5, 3, 4), np.float32)
    sample_pictures.draw(sampled(tmp_path, x, objective=types.SimpleNamespace(reads=reads), num_classes=0))
    assert made[-1][0] == kind and [part for part in made[-1] if isinstance(part, tuple)] == [()]


def test_backbones_are_files_of_their_classes(calls, tmp_path):
    made, source = calls
    source.backbones = True
    x = np.zeros((3, 5, 3, 4), np.float32)
    samples = sampled(tmp_path, x, objective=types.SimpleNamespace(reads=Moves(None, None, None)))
    assert sample_pictures.draw(samples) == ["pdb"]
    assert made == [("backbones", x, samples.classes, ("a", "b"), tmp_path)]


@pytest.mark.parametrize("from_records", [True, False])
def test_series_are_fans_and_fill_the_data_of_their_own_records(calls, tmp_path, from_records):
    made, source = calls
    source.process = "process"
    x = np.zeros((2, 4, 1), np.float32)
    leaf = np.zeros((2, 4, 1))
    labels = {"given": leaf, "mask": leaf > 0, "real": leaf == 0}
    samples = sampled(tmp_path, x, labels=labels, from_records=from_records, null={"given": 0})
    (tmp_path / "filled.npz").write_text("of earlier samples")
    files = sample_pictures.draw(samples)
    assert files == [tmp_path / "samples.png", *["filled.csv"] * from_records]
    assert [name for name, *_ in made] == ["fans", *["filled"] * from_records] and not list(tmp_path.iterdir())
    assert made[0][3:] == (tmp_path / "samples.png", "process") and len(made[0][1]) == 1  # of one condition
    other = sampled(tmp_path, x, labels=labels, null={"text": 0})
    assert sample_pictures.draw(other) == []


def test_surfaces_sounds_and_clips_are_known_by_their_source_or_form(calls, tmp_path):
    made, source = calls
    for rates, rate in (({}, sample_pictures.clip_pictures.RATE), ({"rate": 24.0}, 24.0)):
        vars(source).update(rates)
        assert sample_pictures.draw(sampled(tmp_path, np.zeros((2, 4, 8, 8, 3), np.uint8))) == ["samples.gif"]
        assert made[-1][3:] == (tmp_path, rate)
    x = np.zeros((2, 6, 3), np.float32)
    source.surface = "surface"
    assert sample_pictures.draw(sampled(tmp_path, x)) == ["views.png"] and made[-1][3:] == (
        ("a", "b"),
        "surface",
        tmp_path,
    )
    del source.surface
    for mels in (0, 4):
        heard = []
        waveform = lambda x, levels, condition, heard=heard: heard.append(levels) or "waveforms"
        source.sound = types.SimpleNamespace(mels=mels, waveform=waveform)
        labels = {"spectrogram": "levels"}
        assert sample_pictures.draw(sampled(tmp_path, x, labels=labels)) == [tmp_path / "samples.png", "sounds"]
        assert heard == ["levels" if mels else None]
        assert [call[0] for call in made[-2:]] == ["sound", "wav"] and made[-1][2] == "waveforms"
        assert made[-2][-1] == tmp_path / "samples.png" and made[-1][-1] == tmp_path

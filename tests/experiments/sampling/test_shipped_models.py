"""The models that travel with the project: whole, described, and able to draw what they are asked for."""

import hashlib
import shutil

import numpy as np
import pytest
from sklearn import linear_model

from diffusion import samplers, text_to_image, timesteps
from diffusion.data.digits import digits
from diffusion.data.shapes import scenes
from diffusion.experiments.sampling import class_models, generate, shipped_models, trained_run
from diffusion.models.interchange.family import Refusal
from diffusion.recipe import class_folders
from diffusion.text_to_image import model_index
from examples.text import drawn_objects

LARGEST = 12e6  # bytes of all together


OF_RUNS = [name for name in class_folders.SHIPPED if class_folders.is_shipped(name)]
OF_PROMPTS = [name for name in class_folders.SHIPPED if name not in OF_RUNS]


@pytest.mark.parametrize("name", OF_RUNS)
def test_each_is_the_file_that_its_digest_names_beside_a_card(name):
    folder = class_folders.WEIGHTS / name
    digest = hashlib.sha256((folder / shipped_models.FILE).read_bytes()).hexdigest()
    assert digest == class_folders.SHIPPED[name] == class_models.load(name).sha256
    card = (folder / "README.md").read_text()
    assert "Trained by `make demo`" in card
    for section in ("## Data", "## Recipe", "## Figures", "## Known failures", "trained on: 0"):
        assert section in card
    assert "/work" not in card + (folder / "config.json").read_text()  # no path of the machine that made it


@pytest.mark.parametrize("name", OF_PROMPTS)
def test_each_model_of_prompts_is_the_one_of_its_fingerprint_beside_a_card(name):
    folder = shipped_models.folder_of_prompts(name)
    assert folder == class_folders.WEIGHTS / name
    assert model_index.fingerprint(folder) == class_folders.SHIPPED[name]
    card = (folder / "README.md").read_text()
    for section in ("Trained by `python -m examples.text.demo", "## Data", "## Recipe", "## Figures", "real pictures"):
        assert section in card
    for path in [path for path in folder.rglob("*") if path.suffix in (".json", ".md", ".txt")]:
        assert "/work" not in path.read_text()  # no path of the machine that made it


def test_all_of_them_are_small():
    assert sum(path.stat().st_size for path in class_folders.WEIGHTS.rglob("*") if path.is_file()) < LARGEST


def test_no_other_folder_is_among_them():
    folders = {path.name for path in class_folders.WEIGHTS.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == class_folders.SHIPPED.keys()


def test_its_network_is_called_without_compiling_as_in_the_tour():
    run = trained_run.load("digits", {"sample.steps": 1})
    x, keys = run.noise(2)
    x_0 = samplers.sample(samplers.ddim(), run.denoise([3, 8]), run.schedule, x, timesteps.plan(run.grid), keys)
    assert x_0.shape == (2, 8, 8, 1) and np.isfinite(x_0).all()


@pytest.mark.slow
def test_its_digits_are_read_as_what_they_were_asked_to_be():
    """By a logistic regression on scikit-learn's real digits, which sees nothing of this library's classifiers."""
    run = trained_run.load("digits")
    labels = np.repeat(np.arange(10), 4).astype(np.int32)
    make = generate.generator(run.recipe)
    pictures = make.images(run.params, labels, generate.seeds(run.config, 40))
    images, classes, _ = digits()
    judge = linear_model.LogisticRegression(max_iter=200).fit(images.reshape(len(images), -1) / 255, classes)
    assert (judge.predict(pictures.reshape(40, -1) / 255) == labels).mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_PROMPTS)
def test_its_drawings_are_those_of_the_prompts(name):
    """By the drawings' own templates: no network reads them."""
    model = text_to_image.load(shipped_models.folder_of_prompts(name))
    prompts = [f"a {colour} {shape}" for colour, shape in zip(scenes.COLOURS, scenes.SHAPES)]
    prompts += [f"{prompt} on the left" for prompt in prompts]
    score = drawn_objects.score_of(prompts, text_to_image.generate(model, prompts, seeds=range(16)))
    assert score["shape"]["share"] >= 0.8 and score["colour"]["share"] >= 0.8


def test_other_files_of_a_model_of_prompts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(class_folders, "WEIGHTS", tmp_path)
    monkeypatch.setattr(class_folders, "SHIPPED", {"shapes": "0" * 64})
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "model_index.json").write_text("{}")
    with pytest.raises(Refusal, match=r"shapes has the SHA-256 .*, but the model 'shapes' has 0000"):
        shipped_models.folder_of_prompts("shapes")
    assert shipped_models.folder_of_prompts(tmp_path / "other") == tmp_path / "other"


def test_a_run_of_the_same_name_does_not_hide_it_and_a_model_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "config.json").write_text("{}")
    assert class_folders.folder_of("digits") == class_folders.WEIGHTS / "digits"
    assert class_folders.is_of_classes("digits")
    (tmp_path / "digits" / "model_index.json").write_text("{}")
    assert class_folders.folder_of("digits").resolve() == tmp_path / "digits"
    assert not class_folders.is_shipped("digits")


def test_another_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(class_folders.WEIGHTS / "digits", tmp_path / "digits")
    file = tmp_path / "digits" / shipped_models.FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(class_folders, "WEIGHTS", tmp_path)
    with pytest.raises(Refusal, match=r"model\.safetensors has the SHA-256 .*, but the model 'digits' has"):
        class_models.load("digits")

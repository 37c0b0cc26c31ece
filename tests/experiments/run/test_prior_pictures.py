"""Pictures of a class beside those of a run: which are made, by which seeds, and which stands beside which."""

import types

import numpy as np
import pytest
from PIL import Image

from diffusion.data.sources.spec import DataSpec
from diffusion.experiments.run import prior_pictures
from diffusion.experiments.run.examples import Examples
from diffusion.io import pictures
from diffusion.objectives import Prior
from diffusion.objectives.objective_facts import Beside
from diffusion.recipe import ConfigError


class Rows:
    """Records whose example is their row, in tens for the class."""

    def __init__(self, number, factor=1):
        self.number, self.factor = number, factor

    def __len__(self):
        return self.number

    def __getitem__(self, row):
        return {"x": np.full((1, 1, 2), row * self.factor, np.float32), "label": int(row)}


@pytest.mark.parametrize("own, prior", [(5, 3), (2, 4), (3, 3)])
def test_both_go_over_and_over_to_the_length_of_the_longer(own, prior):
    pairs = prior_pictures.Pairs(Rows(own), Rows(prior, 10))
    assert len(pairs) == max(own, prior)
    for row in range(len(pairs)):
        record = pairs[row]
        np.testing.assert_array_equal(record["x"][:, 0, 0, 0], [row % own, 10 * (row % prior)])
        assert record["label"] == row % own  # of the run's own record


def test_each_is_drawn_by_its_own_function_from_one_generator():
    first = lambda rng, x: x + rng.integers(100)
    second = lambda rng, x: x - rng.integers(100)
    made = prior_pictures._both(first, second, np.random.default_rng(0), np.array([1000, 5000]))
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(made, [1000 + rng.integers(100), 5000 - rng.integers(100)])


def test_a_batch_has_the_class_s_examples_and_conditions():
    pairs = {"x": np.arange(12.0).reshape(3, 2, 1, 1, 2), "condition": "own"}
    batch = prior_pictures._with_prior({"text": np.array([7, 8])}, pairs)
    np.testing.assert_array_equal(batch["x"].reshape(3, 2), [[0, 1], [4, 5], [8, 9]])
    np.testing.assert_array_equal(batch["prior"]["x"].reshape(3, 2), [[2, 3], [6, 7], [10, 11]])
    np.testing.assert_array_equal(batch["prior"]["condition"]["text"], [[7, 8]] * 3)
    assert batch["condition"] == "own"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run of which a model of text makes pictures that say their seed, and what was asked of it."""
    asked = []

    def generate(model, prompt, seeds, height, width):
        asked.append((model, prompt, seeds, height, width))
        return np.full((1, height, width, 3), seeds, np.uint8)

    model = types.SimpleNamespace(modules={"vae": types.SimpleNamespace(factor=8)})
    loaded = []
    monkeypatch.setattr(prior_pictures.text_to_image, "load", lambda path, dtype: loaded.append((path, dtype)) or model)
    monkeypatch.setattr(prior_pictures.text_to_image, "generate", generate)
    base = types.SimpleNamespace(path="base", model=types.SimpleNamespace(dtype="bfloat16"))
    recipe = types.SimpleNamespace(
        objective=types.SimpleNamespace(beside=Beside(prior=Prior("a cat", 3))),
        companions=types.SimpleNamespace(tuned=types.SimpleNamespace(base=base)),
    )
    spec = DataSpec("rows", "train", (2, 3, 4), 0, 5, dtype="float32")
    return recipe, Examples(Rows(5), spec, augment=("draw",), where="memory"), asked, loaded


def test_missing_pictures_alone_are_made_each_by_its_number(run, tmp_path):
    recipe, examples, asked, loaded = run
    folder = tmp_path / "prior"
    arguments = (recipe.objective.beside.prior, recipe.companions.tuned.base, folder, examples)
    prior_pictures._make(*arguments)
    assert sorted(path.name for path in folder.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert [(prompt, seed, height, width) for _, prompt, seed, height, width in asked] == [
        ("a cat", i, 16, 24) for i in range(3)
    ]
    assert loaded == [("base", "bfloat16")]
    assert pictures.settings_of(folder / "00002.png") == {"prompt": "a cat", "seed": 2}
    assert (pictures.read((folder / "00002.png").read_bytes(), "a") == 2).all()
    (folder / "00001.png").unlink()
    prior_pictures._make(*arguments)
    assert [seed for _, _, seed, _, _ in asked[3:]] == [1]
    prior_pictures._make(*arguments)
    assert len(loaded) == 2  # nothing is missing: the model is not read


def test_pictures_of_another_prompt_are_refused(run, tmp_path):
    """Of a run that was refused before its first step, whose folder takes another config; one's own pictures stay."""
    recipe, examples, asked, _ = run
    folder = tmp_path / "prior"
    base = recipe.companions.tuned.base
    prior_pictures._make(recipe.objective.beside.prior, base, folder, examples)
    words = (
        r"00000\.png shows 'a cat', but prior_preservation has the prompt 'a dog'\. Valid: 'a cat', or no .*/prior\."
    )
    with pytest.raises(ConfigError, match=words):
        prior_pictures._make(Prior("a dog", 3), base, folder, examples)
    for path in folder.iterdir():
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
    prior_pictures._make(Prior("a dog", 3), base, folder, examples)
    assert len(asked) == 3


def test_more_pictures_than_the_config_asks_for_are_refused(run, tmp_path):
    """They would be paired with examples too."""
    recipe, examples, asked, _ = run
    base, folder = recipe.companions.tuned.base, tmp_path / "prior"
    prior_pictures._make(Prior("a cat", 4), base, folder, examples)
    words = r"holds the picture 00002\.png, but prior_preservation has number = 2\. Valid: number = 4, or no pictures"
    with pytest.raises(ConfigError, match=words):
        prior_pictures._make(Prior("a cat", 2), base, folder, examples)
    (folder / "00002.png").unlink()
    (folder / "00003.png").rename(folder / "mine.png")
    prior_pictures._make(Prior("a cat", 2), base, folder, examples)
    assert len(asked) == 4 and (folder / "mine.png").exists()


@pytest.fixture
def caches(run, monkeypatch):
    """What the run's own functions write and read of the class: their arguments."""
    calls = []
    read = prior_pictures.tuned_examples
    monkeypatch.setattr(
        read, "encode", lambda recipe, source, folder: calls.append(("encode", len(source), folder.name))
    )
    monkeypatch.setattr(read, "read", lambda recipe, spec, texts, folder: calls.append(("read", texts, folder.name)))
    latents = Rows(3, 10)
    latents.draw, latents.fingerprint = (lambda rng, x: x + 1), lambda: {"sha256": "of latents"}
    monkeypatch.setattr(prior_pictures.latent_cache, "open_cache", lambda folder: (latents, None))
    table = types.SimpleNamespace(entries={"text": np.array([[0, 0], [5, 6], [9, 9]])})
    monkeypatch.setattr(prior_pictures.captions, "read", lambda folder: table)
    return calls


def test_the_class_is_encoded_with_its_prompt_for_every_picture(run, caches, tmp_path):
    recipe, examples, _, _ = run
    examples = examples._replace(augment=(lambda rng, x: x * 2,))
    found, known = prior_pictures.beside(recipe, tmp_path, examples)
    assert caches == [("encode", 3, "prior_latents"), ("read", ["a cat"] * 3, "prior_captions")]
    assert known == {"prior": "of latents"} and str(found) == f"{examples}, beside pictures of 'a cat'"
    assert found.spec is examples.spec and found.source is examples.source
    stored = found.stored
    assert len(stored.source) == 5 and stored.spec.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(stored.augment[0](None, np.array([3, 3])), [6, 4])
    batch = found.complete({"x": np.zeros((1, 2))})
    np.testing.assert_array_equal(batch["prior"]["condition"]["text"], [[5, 6]])  # row 0 stands for no caption


def test_examples_without_a_class_stay_as_they_are(run, tmp_path):
    recipe, examples, _, _ = run
    recipe.objective.beside = Beside()
    assert prior_pictures.beside(recipe, tmp_path, examples) == (examples, {})


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), prior_pictures.latent_cache.CacheError("of others")])
def test_caches_that_do_not_fit_are_named_by_the_config(run, caches, tmp_path, monkeypatch, error):
    def fails(folder):
        raise error

    monkeypatch.setattr(prior_pictures.latent_cache, "open_cache", fails)
    with pytest.raises(ConfigError, match=f"config.objective.wrappers, prior_preservation: {error}"):
        prior_pictures.beside(run[0], tmp_path, run[1])

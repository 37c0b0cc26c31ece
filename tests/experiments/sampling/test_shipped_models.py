"""The models that travel with the project: whole, described, and able to draw what they are asked for."""

import hashlib
import pathlib
import shutil
import types

import numpy as np
import pytest
import safetensors.numpy
from sklearn import linear_model

from diffusion import samplers, text_to_image, timesteps
from diffusion.data.digits import digits
from diffusion.data.shapes import motions, scenes
from diffusion.experiments import erase
from diffusion.experiments.prompt_benchmark import making
from diffusion.experiments.sampling import class_model_folders, class_models, generate, shipped_models, trained_run
from diffusion.io.leaf_names import leaves_of
from diffusion.models.interchange.family import Refusal
from diffusion.recipe import ConfigError, checks, class_folders, recipes, settings_checks
from diffusion.text_to_image import model_index, png
from diffusion.training import warm_start
from examples.text import drawn_objects
from examples.video import clip_maker, pair_figures, pairs_report
from tests import commands
from tools import weights

LARGEST = 28e6  # bytes of all together


OF_RUNS = [name for name in class_folders.SHIPPED if class_folders.is_shipped(name)]
OF_PROMPTS = [name for name in class_folders.SHIPPED if (class_folders.WEIGHTS / name / class_folders.INDEX).is_file()]
WITH_LORA = [name for name in class_folders.SHIPPED if name not in (*OF_RUNS, *OF_PROMPTS)]


@pytest.mark.parametrize("name", OF_RUNS)
def test_each_is_the_file_that_its_digest_names_beside_a_card(name):
    folder = class_folders.WEIGHTS / name
    digest = hashlib.sha256((folder / shipped_models.FILE).read_bytes()).hexdigest()
    assert digest == class_folders.SHIPPED[name] == class_models.load(name).sha256
    card = (folder / "README.md").read_text()
    own = {"digits": ("`make demo`", "trained on: 0"), "moving": ("`python -m examples.video.demo", "real 100.0%")}
    command, figure = own[name]
    for section in ("## Data", "## Recipe", "## Figures", "## Known failures", f"Trained by {command}", figure):
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


@pytest.mark.parametrize("name", WITH_LORA)
def test_each_lora_is_the_file_of_its_digest_with_the_settings_that_it_was_made_for(name):
    folder = class_folders.WEIGHTS / name
    base, loras, settings = shipped_models.with_lora(name)
    assert base.name in OF_PROMPTS and list(loras.values()) == [1.0]
    (file,) = loras
    assert hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest() == class_folders.SHIPPED[name]
    assert settings.keys() == {"sampler", "steps", "guidance"}
    card = (folder / "README.md").read_text()
    for section in ("Trained by `diffusion train", "## Data", "## Figures", "## Known failures"):
        assert section in card
    assert "/work" not in card
    with pytest.raises(
        Refusal, match=rf"'{name}' is '{base.name}' with a LoRA.*--model={base.name} --lora=.*--steps=4"
    ):
        shipped_models.folder_of_prompts(name)


def links_to(name, folder):
    """The paths of a bundled model: that of a clone, through the package's link, and a link of another name."""
    clone = class_folders.WEIGHTS.resolve()
    (folder / "mine").symlink_to(clone / name)
    return clone / name, class_folders.WEIGHTS / name, folder / "mine"


@pytest.mark.parametrize("name", WITH_LORA)
def test_a_path_of_a_lora_is_read_as_its_name(tmp_path, name):
    for path in links_to(name, tmp_path):
        base, loras, settings = shipped_models.with_lora(path)
        expected = shipped_models.with_lora(name)
        assert (base, [*loras.values()], settings) == (expected[0], [*expected[1].values()], expected[2])
        assert pathlib.Path(*loras).resolve() == pathlib.Path(*expected[1]).resolve()
        with pytest.raises(Refusal, match=rf"The model '{name}' is '{base.name}' with a LoRA"):
            shipped_models.folder_of_prompts(path)


@pytest.mark.parametrize("name", [*OF_PROMPTS, OF_RUNS[0]])
def test_other_files_are_refused_under_any_path_of_a_bundled_model(tmp_path, monkeypatch, name):
    paths = links_to(name, tmp_path)
    monkeypatch.setattr(class_folders, "SHIPPED", {name: "0" * 64})
    for path in paths:
        with pytest.raises(Refusal, match=f"has the SHA-256 .*, but the model '{name}' has 0000"):
            shipped_models.folder_of_prompts(path) if name in OF_PROMPTS else shipped_models.read_params(path)


def test_a_model_without_a_lora_has_none():
    assert shipped_models.with_lora("drawings") == (class_folders.WEIGHTS / "drawings", {}, {})


def test_all_of_them_are_small():
    assert sum(path.stat().st_size for path in class_folders.WEIGHTS.rglob("*") if path.is_file()) < LARGEST


def test_no_other_folder_is_among_them():
    folders = {path.name for path in class_folders.WEIGHTS.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == class_folders.SHIPPED.keys()


@pytest.mark.extended
def test_its_network_is_called_without_compiling_as_in_the_tour():
    with pytest.raises(ConfigError, match="step = 4 names a checkpoint, but digits is a published model"):
        trained_run.load("digits", step=4)
    run = trained_run.load("digits", {"sample.steps": 1})
    x, keys = run.noise(2)
    x_0 = samplers.sample(samplers.ddim(), run.denoise([3, 8]), run.schedule, x, timesteps.plan(run.grid), keys)
    assert x_0.shape == (2, 8, 8, 1) and np.isfinite(x_0).all()


def test_an_array_in_eight_bits_is_read_within_half_of_its_scale(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shapes = {"params.blocks.a.kernel": (2, 5, 3, 4), "params.b.kernel": (5, 4), "params.b.bias": (4,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["params.b.kernel"][:, 2] = 0  # a column of zeros has no scale
    stored = weights.in_eight_bits(arrays)
    assert {stored[name].dtype for name in shapes if name.endswith("kernel")} == {np.dtype(np.int8)}
    assert stored["params.blocks.a.kernel.scale_of_int8"].shape == (2, 1, 3, 4)
    monkeypatch.setattr(class_folders, "WEIGHTS", tmp_path)
    (tmp_path / "one").mkdir()
    content = safetensors.numpy.save(stored)
    (tmp_path / "one" / shipped_models.FILE).write_bytes(content)
    monkeypatch.setattr(class_folders, "SHIPPED", {"one": hashlib.sha256(content).hexdigest()})
    params = shipped_models.read_params("one")[0]["params"]
    np.testing.assert_array_equal(params["b"]["bias"], arrays["params.b.bias"])
    a, b = params["blocks"]["a"]["kernel"], params["b"]["kernel"]
    for kernel, array, axis in ((a, arrays["params.blocks.a.kernel"], 1), (b, arrays["params.b.kernel"], 0)):
        half = np.abs(array).max(axis=axis, keepdims=True) / 254
        assert kernel.dtype == np.float32 and (np.abs(kernel - array) <= half * 1.001).all()
        assert kernel.max() == pytest.approx(array.max(), rel=1e-6)


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_model_without_prompts_says_so(name):
    with pytest.raises(Refusal, match=rf"The model '{name}' takes no --prompt. Valid: --labels of its classes"):
        shipped_models.folder_of_prompts(name)


@pytest.mark.slow
def test_its_clips_show_what_their_captions_say():
    """By the drawings' own templates: no network reads them."""
    _, truth = pairs_report.real_clips("test", 6)
    make = clip_maker.maker(trained_run.load("moving"), 6, motions.words_of_both)
    figures = pair_figures.measured(make([clip.caption for clip in truth], range(6), None, 16), truth)
    assert figures["shape"]["share"] >= 0.7 and figures["colour"]["share"] >= 0.9 and figures["one"]["share"] >= 0.9


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
@pytest.mark.parametrize("name", [*OF_PROMPTS, *WITH_LORA])
def test_its_drawings_are_those_of_the_prompts(name):
    """By the drawings' own templates: no network reads them."""
    folder, loras, settings = shipped_models.with_lora(name)
    model = text_to_image.load(folder, loras=loras)
    prompts = [f"a {colour} {shape}" for colour, shape in zip(scenes.COLOURS, scenes.SHAPES)]
    prompts += [f"{prompt} on the left" for prompt in prompts]
    score = drawn_objects.score_of(prompts, text_to_image.generate(model, prompts, seeds=range(16), **settings))
    assert score["shape"]["share"] >= 0.8 and score["colour"]["share"] >= 0.8


def test_other_files_of_a_model_of_prompts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(class_folders, "WEIGHTS", tmp_path)
    monkeypatch.setattr(class_folders, "SHIPPED", {"shapes": "0" * 64})
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "model_index.json").write_text("{}")
    with pytest.raises(Refusal, match=r"shapes has the SHA-256 .*, but the model 'shapes' has 0000"):
        shipped_models.folder_of_prompts("shapes")
    (tmp_path / "other").mkdir()
    assert shipped_models.folder_of_prompts(tmp_path / "other") == tmp_path / "other"


def test_a_folder_that_is_not_there_is_answered_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match=r"drawing: there is no such folder. Did you mean 'drawings'\? Valid: "):
        shipped_models.folder_of_prompts("drawing")
    assert shipped_models.folder_of_prompts("paintings").name == "paintings"  # no word is near; the reader refuses it


def test_a_run_that_trains_a_flow_map_is_no_denoiser_unless_it_is_asked_for():
    config = recipes.load("digits_mean_flow")
    with pytest.raises(ConfigError, match="'mean_flow' trains a flow map, but this needs a denoiser"):
        trained_run.from_config(config, {})
    assert trained_run.from_config(config, {}, any_kind=True).recipe.config == config


@pytest.mark.parametrize(
    "start",
    [
        lambda out: erase.run("drawings", [("a", "b")], out),
        lambda out: making.make(types.SimpleNamespace(files=lambda *_: ["0.png"]), [None], out, "drawings", 1, 0),
    ],
    ids=["erase", "prompt_benchmark"],
)
def test_commands_beside_sample_take_it_by_its_name(tmp_path, monkeypatch, start):
    def loaded(folder, **how):
        raise LookupError(folder)

    monkeypatch.setattr(text_to_image, "load", loaded)
    with pytest.raises(LookupError, match=f"^{class_folders.WEIGHTS / 'drawings'}$"):
        start(tmp_path / "out")


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


@pytest.mark.slow
def test_a_lora_that_comes_along_is_sampled_by_its_name_with_its_settings(tmp_path):
    words = ("-m", "experiments.sample", "--model=drawings-fast", "--prompt=a red circle", f"--out={tmp_path}")
    for more, steps in (((), 4), (("--steps=2",), 2)):
        done = commands.run(*words, *more, timeout=300)
        assert done.returncode == 0, done.stderr
        settings = png.read(pathlib.Path(next(line for line in done.stdout.splitlines() if line.endswith(".png"))))
        assert (settings["steps"], settings["guidance"], settings["sampler"]) == (steps, 1.0, "lcm")
        assert [pathlib.Path(file).parent.name for file in settings["loras"]] == ["drawings-fast"]


@pytest.mark.extended
def test_a_shipped_model_is_the_teacher_of_a_student(tmp_path):
    """By its name or its folder."""
    for source in ("digits", pathlib.Path("weights") / "digits"):
        folder = tmp_path / str(source).replace("/", "-")
        class_model_folders.as_run(source, folder)
        config = recipes.load(f"students/progressive:{folder},tiny")
        settings_checks.require_sources(config)
        assert checks.validate(config).network == trained_run.load("digits").recipe.network
        expected = leaves_of(shipped_models.read_params("digits")[0])
        teacher = warm_start.read(config.teacher.path)
        assert teacher.keys() == expected.keys()
        for name, leaf in expected.items():
            np.testing.assert_array_equal(teacher[name], leaf)


@pytest.mark.parametrize("field", ["teacher", "init_from"])
def test_its_folder_is_no_run(field):
    config = recipes.load("digits:tiny")
    config[field].path = "weights/digits"
    with pytest.raises(ConfigError, match=rf"{field}\.path.*no checkpoint.*diffusion convert --source=weights/digits"):
        settings_checks.require_sources(config)

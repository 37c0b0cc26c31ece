"""From captioned pictures to a model's folder: each stage, its resuming, what is exported, and what is refused."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.students import lcm, progressive, turbo
from configs.text import drawings, emoji, shapes
from diffusion import flow_maps, text_to_image
from diffusion.data import captions, latent_cache, shapes as data_shapes, sources
from diffusion.experiments import train
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.experiments.text import model as text_model
from diffusion.io import pictures
from diffusion.io.leaf_names import leaves_of
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.latent_space import Scaling
from diffusion.models.interchange import schedulers
from diffusion.recipe import ConfigError, Recipe, checks
from diffusion.recipe.parts import Resolver
from diffusion.text import Tokenizer, byte_pairs
from diffusion.training.checkpointing import checkpoints
from examples.text import demo as text_demo
from tests import commands
from tests.data.made import image_feature, png, write
from tests.experiments.run import test_text_of_own_pictures

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
STAGES = ("encoder", "autoencoder", "denoiser")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """18 pictures of 16x16 pixels, of a colour each, which their captions say."""
    features = {"image": image_feature(shape=(16, 16, 3)), "caption": tfds.features.Text()}
    examples = [
        {"image": png(np.full((16, 16, 3), rgb, np.uint8) // (1 + i)), "caption": f"a {name} square"}
        for i in range(6)
        for name, rgb in COLOURS.items()
    ]
    return write(tmp_path_factory.mktemp("tfds"), features, examples)


def recipe(dataset, **changes):
    config = shapes.get_config("tiny")
    config.data.update({"name": "made", "dir": dataset})
    config.update_from_flattened_dict(
        {
            "encoder.model.vision.patch": 8,
            "denoiser.model.depth": 1,
            "measured": 18,
            **{f"{stage}.data.threads": 0 for stage in STAGES},
            **changes,
        }
    )
    return config


def stage(name, folder, **changes):
    """The config of one training, of a folder that may not be there."""
    config = shapes.get_config("tiny")
    config[name].update_from_flattened_dict(changes)
    return text_demo.settled(config, pathlib.Path(folder))[name]


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory):
    """The folder of a whole demo."""
    folder = tmp_path_factory.mktemp("demo") / "text"
    assert text_demo.run(recipe(dataset), folder) == 0
    return folder


def leaves(run):
    """(step, {name: leaf}) of the parameters and their average."""
    params, step = checkpoints.load_params(run)
    return step, leaves_of({"params": params, "ema": checkpoints.load_ema(run)[0]})


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_stopped_ends_as_if_it_had_not_been(name, made, dataset, tmp_path, compilation_cache):
    """It is ended after half of its steps, and begun again by the same command."""
    constant = {f"{name}.optimizer.decay": "constant"}  # a cosine would end with the half
    whole = recipe(dataset, **constant)
    half = recipe(dataset, **{f"{name}.train.steps": 2}, **constant)
    once = tmp_path / "once"
    twice = tmp_path / "twice"
    for folder in (once, twice):
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns(*STAGES[STAGES.index(name) :], "model"))
    for config, folder in ((whole, once), (half, twice), (whole, twice)):
        assert train.run(text_demo.settled(config, folder)[name], folder / name) == 0
    (step, expected), (_, found) = leaves(once / name), leaves(twice / name)
    assert step == 4 and expected.keys() == found.keys()
    for leaf, value in expected.items():
        np.testing.assert_array_equal(found[leaf], value, err_msg=leaf)
    assert (once / name / "metrics.jsonl").read_bytes() == (twice / name / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_the_folder_holds_the_networks_that_were_trained(made):
    model = text_to_image.load(made / "model")
    rng = np.random.default_rng(0)
    module, params, _ = text_model.trained(made / "denoiser")
    table = captions.read(made / "captions")
    condition = {name: jnp.asarray(rows[:2]) for name, rows in table.entries.items()}
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 4)), jnp.float32)
    t = jnp.array([100.0, 900.0])
    ours = module.apply({"params": params}, x, t, condition)
    theirs = model.denoiser.apply({"params": model.params["transformer"]}, x, t, condition)
    assert np.abs(ours).max() > 0
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)

    # The denoiser's condition in training is that of the command: each caption once, and the empty one first.
    said, unsaid = text_to_image.conditions(model, ["a red square"], None, 1.0, 16, 16)
    np.testing.assert_allclose(said["text"][0], table.entries["text"][1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(said["text_mask"][0], table.entries["text_mask"][1])
    np.testing.assert_allclose(unsaid["text"][0], table.null["text"], rtol=1e-5, atol=1e-6)

    module, params, _ = text_model.trained(made / "autoencoder")
    x = jnp.asarray(rng.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    vae = lambda method, x: model.modules["vae"].apply({"params": model.params["vae"]}, x, method=method)
    before = module.apply({"params": params}, x)
    np.testing.assert_allclose(vae("decode", vae("encode", x).mean), before, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_latents_have_mean_0_and_variance_1_in_each_channel(made):
    cache, _ = latent_cache.open_cache(made / "latents")
    means = np.stack([record["x"][0, 0] for record in cache.__getitems__(range(18))])
    np.testing.assert_allclose(means.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(means.std((0, 1, 2)), 1, rtol=1e-4)
    assert (cache.description.scale, cache.description.shift) == (1.0, 0.0)


@pytest.mark.slow
def test_the_command_makes_the_pictures_of_the_function(made, tmp_path):
    done = commands.run(
        "-m",
        "experiments.sample",
        f"--workdir={made}",
        "--prompt=a red square",
        "--steps=2",
        "--guidance=2",
        "-n",
        "2",
        f"--out={tmp_path}",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    model = text_to_image.load(made / "model")
    for seed in range(2):
        expected = text_to_image.generate(model, "a red square", steps=2, guidance=2.0, seeds=seed)[0]
        np.testing.assert_array_equal(pictures.read(tmp_path / f"{seed}.png"), expected)


STUDENTS = {"lcm": lcm, "turbo": turbo, "progressive": progressive}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_a_few_step_student_is_a_model_of_its_own(name, made, tmp_path):
    """It takes a prompt, and its network and its steps are those with which the run samples."""
    config = STUDENTS[name].get_config(f"{made / 'denoiser'},tiny")
    config.train.update({"steps": 2, "batch_size": 6})
    config.data.threads = 0
    if name == "progressive":
        config.objective.update({"N": 4, "stage": 1})
    assert train.run(config, tmp_path) == 0
    done = commands.run("diffusion", "text_model", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    config = workdir.read_config(tmp_path)
    model = text_to_image.load(tmp_path / "model")
    assert model.usual == (config.sample.steps, config.sample.guidance.scale)

    plan = Resolver(config).plan
    trajectory = schedulers.trajectory(model.process, "", 4)
    config.sample.steps = 4
    for ours, theirs in zip(Resolver(config).plan, trajectory.plan):
        np.testing.assert_allclose(theirs, ours, atol=1.001e-3)  # a scheduler of diffusers begins at 0.999
    assert len(plan.t) == model.usual.steps
    prompts = ["a red square", "a blue square"]
    keys = jax.random.split(jax.random.key(1), 2)
    scale = 1.5 if name == "lcm" else 1.0  # LCM alone receives it
    shape = workdir.example_shape(config)
    config.sample.guidance.scale = scale
    condition, _ = text_to_image.conditions(model, prompts, None, scale, 16, 16)
    network = run_denoiser.build_for_sampler(Recipe.from_config(config, shape))
    params = checkpoints.load_ema(tmp_path)[0]
    x = jax.random.normal(keys[0], (2, *shape))
    theirs = text_to_image.denoise(model, model.params["transformer"], condition, None, 1.0)
    table = captions.read(made / "captions").entries
    rows = {key: jnp.asarray(table[key][np.array([1, 3])]) for key in table}  # of these captions
    np.testing.assert_allclose(condition["text"], rows["text"], atol=1e-5)
    if flow_maps.FlowMap in trajectory.sampler.takes:
        own = network(params, rows)
        theirs = flow_maps.from_denoiser(theirs, model.process.schedule)
    else:
        denoisers = network(params, rows), theirs
        own, theirs = (lambda x, t, s, denoiser=denoiser: denoiser(x, t).x0 for denoiser in denoisers)
    for t, s in zip(trajectory.plan.t, trajectory.plan.s):
        ours = own(x, t, s)
        found = theirs(x, t, s)
        assert np.abs(ours).max() > 0
        np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-5)

    made_of = commands.run(
        "-m",
        "experiments.sample",
        f"--workdir={tmp_path}",
        "--prompt=a red square",
        f"--out={tmp_path / 'out'}",
        timeout=600,
    )
    assert made_of.returncode == 0, made_of.stderr
    expected = text_to_image.generate(model, "a red square")[0]
    np.testing.assert_array_equal(pictures.read(tmp_path / "out" / "0.png"), expected)
    said = pictures.settings_of(tmp_path / "out" / "0.png")
    assert (said["steps"], said["guidance"], said["sampler"]) == (*model.usual, model.process.sampler)


@pytest.mark.slow
def test_a_student_of_another_encoder_is_refused(made, tmp_path):
    shutil.copytree(made, tmp_path / "text")
    config = json.loads((tmp_path / "text/denoiser/config.json").read_text())
    config["data"]["text"]["dir"] = str(tmp_path / "text/captions")
    config["data"]["latents"]["autoencoder"] = str(tmp_path / "text/vae")
    (tmp_path / "text/denoiser/config.json").write_text(json.dumps(config))
    assert text_model.write_model(tmp_path / "text/denoiser").is_dir()
    index = tmp_path / "text/captions" / captions.INDEX
    index.write_text(index.read_text().replace('"encoder": "', '"encoder": "0'))
    with pytest.raises(ConfigError, match=r"is not the text encoder that wrote .*, from which .* learned"):
        text_model.write_model(tmp_path / "text/denoiser")
    shutil.rmtree(tmp_path / "text/tokenizer")
    with pytest.raises(ConfigError, match=r"text.tokenizer, the tokenizer of the model, does not exist"):
        text_model.write_model(tmp_path / "text/denoiser")
    with pytest.raises(ConfigError, match="trained 'clip', which receives no captions"):
        text_model.write_model(tmp_path / "text/encoder")


@pytest.mark.slow
def test_an_encoder_that_trains_on_is_refused_once_the_denoiser_has_begun(made, dataset, tmp_path):
    shutil.copytree(made, tmp_path / "text")
    longer = recipe(dataset, **{"encoder.train.steps": 6})
    with pytest.raises(ConfigError, match=r"encoder has been trained further, to step 6, but .*denoiser learned from"):
        text_demo.run(longer, tmp_path / "text")
    with pytest.raises(ConfigError, match=r"'pixart' makes no samples of classes.*--prompt"):
        config = workdir.read_config(made / "denoiser")
        generate.generator(Recipe.from_config(config, (4, 4, 4)))


# ==== Without training ====


@pytest.mark.slow
def test_an_autoencoder_with_other_latents_makes_the_same_pictures():
    """z' = s (z - m) by the two convolutions of one pixel, and the posterior's variance with it."""
    module = AutoencoderKL(widths=(4,), layers=1, groups=2, latent_channels=3, middle_attention=False)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.uniform(-1, 1, (2, 4, 4, 3)), jnp.float32)
    shapes_of = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, jnp.float32), shapes_of)
    scale = np.array([2.0, 0.5, 3.0], np.float32)
    shift = np.array([0.1, -2.0, 1.0], np.float32)
    other = text_model.standardised(module, params, Scaling(tuple(scale), tuple(shift)))
    run = jax.jit(
        lambda params: (module.apply({"params": params}, x, method="encode"), module.apply({"params": params}, x))
    )
    (before, picture), (after, again) = run(params), run(other)
    np.testing.assert_allclose(after.mean, scale * (before.mean - shift), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after.log_variance, before.log_variance + 2 * np.log(scale), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again, picture, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="has no convolutions around its latents"):
        text_model.standardised(module.clone(quantization_convs=False), params, Scaling(1.0, 0.0))


@pytest.mark.extended
@pytest.mark.parametrize("preset", ["", "tiny"])
@pytest.mark.parametrize("recipe", [shapes, emoji])
def test_every_stage_of_a_recipe_resolves(recipe, preset, tmp_path):
    config = recipe.get_config(preset)
    text_demo.check(config)
    byte_pairs.write(tmp_path / "tokenizer", byte_pairs.learn(["a cat"], 600), config.vocabulary.length)
    width, length = config.encoder.model.text.width, config.vocabulary.length
    said = lambda few: {
        "text": np.zeros((len(few), length, width), np.float32),
        "text_mask": np.ones((len(few), length), bool),
    }
    captions.write(tmp_path / "captions", captions.table(["a cat"], said), {"format": 1, "dataset": {}, "encoder": ""})
    (tmp_path / "vae").mkdir()
    for each in text_demo.settled(config, tmp_path).values():
        checks.validate(each)


def test_what_does_not_fit_together_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"config: unknown field 'denoser'.*Did you mean 'denoiser'"):
        text_demo.check({**shapes.get_config("tiny"), "denoser": {}})
    config = shapes.get_config("tiny")
    config.denoiser.model.text_width = 24
    with pytest.raises(ConfigError, match=r"text_width = 24, but config\.encoder\.model\.text\.width = 16"):
        text_demo.check(config)
    config = shapes.get_config("tiny")
    config.denoiser.train.stepss = 3
    with pytest.raises(ConfigError, match=r"unknown field 'stepss'.*Did you mean 'steps'"):
        text_demo.check(config)
    with pytest.raises(ConfigError, match=r"data\.text\.tokenizer = .*no vocabulary"):
        _ = Resolver(stage("encoder", tmp_path)).null
    with pytest.raises(ConfigError, match=r"data\.text\.dir = .*holds no captions"):
        _ = Resolver(stage("denoiser", tmp_path)).null
    byte_pairs.write(tmp_path / "tokenizer", byte_pairs.learn(["a cat"], 600), 48)
    found = Resolver(stage("encoder", tmp_path)).null
    tokenizer = Tokenizer.open(tmp_path / "tokenizer")
    assert found["ids"].tolist() == [*tokenizer.start, *tokenizer.end, *[tokenizer.pad] * 46]
    for changes, message in (
        ({"model.text.vocabulary": 300}, r"vocabulary = 300 and positions = 48, but .* has 516 ids and texts of 48"),
        (
            {"objective": {"name": "kl_autoencoder"}},
            r"'clip', .* 'kl_autoencoder': .* a network of the kind 'autoencoder', .* of the kind 'towers'\. Valid",
        ),
        ({"evaluate.every": 5}, r"config\.evaluate\.every = 5, but config\.model\.name = 'clip' has no classes"),
        (
            {"data.text.dir": "x"},
            r"config\.data\.text\.dir = 'x', but config\.model\.name = 'clip' does not receive it\. Valid: ''",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            checks.validate(stage("encoder", tmp_path, **changes))


def test_a_folder_without_a_model_raises_an_error_of_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no text-to-image model .* There is no such folder\."):
        workdir.text_model(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"made at the end of: python -m examples\.text\.demo"):
        workdir.text_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match=r"diffusion text_model --workdir=.*\. A run that learned from classes is"):
        workdir.text_model(tmp_path)


@pytest.mark.extended
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--workdir=nowhere", "--prompt=a"], "--workdir=nowhere holds no text-to-image model"),
        pytest.param(["--prompt=a"], "by --model, or a run with such a model by --workdir", marks=pytest.mark.slow),
        pytest.param(["--workdir=a", "--model=x", "--prompt=a"], "Name only one of them", marks=pytest.mark.slow),
    ],
)
def test_the_command_says_what_is_missing(flags, message):
    done = commands.run("-m", "experiments.sample", *flags)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_folder_of_captioned_pictures_becomes_a_model_of_prompts(tmp_path, compilation_cache):
    """All stages by one command, one of them stopped and gone on with; then a picture of a prompt."""
    source = test_text_of_own_pictures.drawings(tmp_path / "drawings", side=16, number=18)
    made = {}
    for folder, steps in (("twice", (2, 4)), ("once", (4,))):
        for number in steps:
            config = recipe("", **{"denoiser.train.steps": number, "denoiser.optimizer.decay": "constant"})
            config.data.source = source
            assert text_demo.run(config, tmp_path / folder) == 0
        made[folder] = checkpoints.load_ema(tmp_path / folder / "denoiser", 4)[0]
    jax.tree.map(np.testing.assert_array_equal, made["once"], made["twice"])
    done = commands.run(
        *(
            "-m",
            "experiments.sample",
            f"--workdir={tmp_path / 'once'}",
            "--prompt=a red square",
            "--steps=2",
            "-n",
            "1",
        ),
        f"--out={tmp_path / 'out'}",
        timeout=600,
    )
    assert done.returncode == 0 and (tmp_path / "out/0.png").is_file(), done.stderr
    table = captions.read(tmp_path / "once/captions")
    records = sources.picture_folder(source["path"])
    assert len(table.row) == len(records) == 18 and len(set(table.row.tolist())) == 3


def test_the_denoiser_alone_reads_its_own_data(tmp_path):
    config = drawings.get_config("fourth")
    text_demo.check(config)
    stage = text_demo.settled(config, tmp_path)
    numbers = {name: dict(each.data.source).get("number") for name, each in stage.items()}
    assert numbers == {"encoder": None, "autoencoder": None, "denoiser": 72_000}


@pytest.mark.extended
def test_the_vocabulary_of_drawings_leaves_random_words_in_letters(tmp_path, monkeypatch):
    """What `text/drawings` is for: its words are spelled, and its longest caption fits."""
    config = drawings.get_config()
    text_demo.check(config)
    source = sources.spelled_drawings(number=6_000)
    monkeypatch.setattr(data_shapes.drawing, "draw", lambda *_: np.zeros((64, 64, 3), np.uint8))
    texts = [source[row]["caption"] for row in range(len(source))]
    byte_pairs.write(tmp_path / "tokenizer", byte_pairs.learn(texts, config.vocabulary.size), config.vocabulary.length)
    tokenizer = Tokenizer.open(tmp_path / "tokenizer")
    frame = len(tokenizer.ids('the word ""'))
    for word in ("owl", "lamp", "qzj", "gkvx"):
        assert len(tokenizer.ids(f'the word "{word}"')) >= frame + len(word) - 1
    assert max(len(tokenizer.ids(each)) for each in texts) + 2 <= config.vocabulary.length

"""What the page makes, without its components: parameters, files, refusals; a run's pictures are its samples."""

import base64
import dataclasses
import io
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits
from diffusion.io import limits, pictures
from diffusion.text_to_image import Frame
from experiments import config as configs
from experiments.config import ConfigError, resolve
from experiments.playground import __main__ as command
from experiments.playground import display, request, trained
from experiments.playground.request import Asked
from experiments.run_folder import workdir
from experiments.sampling import from_prompt, generate
from tests import commands

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def run():
    """A tiny digits run in memory, whose network answers something, as a `Source`."""
    config = digits.get_config("tiny")
    example = jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(lambda: resolve.model(config, SHAPE).init(jax.random.key(0), *example))
    numbers = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.15 * numbers.standard_normal(leaf.shape).astype(np.float32), shapes)
    return trained.Trained("runs/digits", config, params, 40, SHAPE)


def drawn(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def files(tmp_path):
    """{name: path} of pictures of 8 x 8, one of another size, and a mask of the left half."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    made = {
        "image": np.repeat(drawn((8, 8, 1)), 3, axis=-1),
        "large": drawn((16, 16, 3)),
        "mask": mask,
        "wrong": drawn((4, 8)),
    }
    for name, array in made.items():
        (tmp_path / f"{name}.png").write_bytes(png(array))
    return {name: str(tmp_path / f"{name}.png") for name in made}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_a_runs_pictures_are_the_samples_of_its_scanned_sampler(run, sampler):
    wanted = run.config.copy_and_resolve_references()
    wanted.sample.update({"steps": 3, "sampler": {"name": sampler}})
    wanted.sample.guidance.scale = 2.0
    frames = list(run.watch(Asked(label=3, steps=3, guidance=2.0, seed=7, sampler=sampler, batch=2)))
    assert [frame.step for frame in frames] == [1, 2, 3]
    labels = np.full(2, 3, np.int32)
    seeds = np.array([7, 8], np.uint32)
    expected = generate.generator(wanted, SHAPE).images(run.params, labels, seeds)
    assert np.ptp(expected) > 50
    assert np.abs(frames[-1].pictures.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_a_run_changes_paints_and_widens_pictures(run, files):
    image = drawn((8, 8, 1))
    told = dataclasses.replace(run.usual, steps=4, image=files["image"])
    *_, last = run.watch(dataclasses.replace(told, mask=files["mask"]))
    np.testing.assert_array_equal(last.pictures[0, :, 4:], image[:, 4:])
    assert (last.pictures[0, :, :4] != image[:, :4]).mean() > 0.9
    few = list(run.watch(dataclasses.replace(told, strength=0.5)))
    assert [frame.steps for frame in few] == [2, 2] and (few[-1].pictures[0] != image).any()


@pytest.mark.parametrize("wrong, message", [
    ({"prompt": "a cat"}, "digits is told a class, and no prompt: it has no text model"),
    ({"label": 10}, r"label = 10 is no class of this model: 0 \.\. 9 are"),
    ({"image": "large"}, r"the picture has 16 x 16 pixels with its margins, and digits makes 8 x 8 alone"),
    ({"image": "image", "margins": (0, 0, 2, 0)}, "the picture has 8 x 10 pixels with its margins"),
    ({"image": "image", "margins": (40_000, 0, 40_000, 0)}, "the picture has 40008 x 40008 pixels with its margins"),
    ({"image": "image", "mask": "wrong"}, r"has 4 x 8 pixels \(height x width\), and its picture 8 x 8"),
    ({"mask": "mask"}, "a mask and margins belong to a picture"),
    ({"image": "nothing"}, "there is no such file"),
    ({"height": 16}, "16 x 8 pixels are asked for, and digits makes pictures of 8 x 8 alone"),
    ({"strength": 0.5}, "strength = 0.5.*give the image"),
    ({"sampler": "consistency"}, "sampler = 'consistency' is none for this run. Valid: .*dpmpp_2m"),
    ({"steps": 0}, "steps"),
    ({"guidance": -1.0}, r"config.sample.guidance.scale = -1.0. Valid: at least 0"),
    ({"seed": -1}, "seeds are whole numbers"),
])  # fmt: skip
def test_what_a_run_cannot_do_is_refused_in_words(run, files, wrong, message, monkeypatch):
    monkeypatch.setattr(np, "pad", lambda *_, **__: pytest.fail("an array was made before its size was checked"))
    wrong = {name: files.get(value, value) if name in ("image", "mask") else value for name, value in wrong.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run.watch(dataclasses.replace(run.usual, **wrong))


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_refused_with_the_estimate(run, monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 2**20)
    words = r"4096 pictures of 8 x 8 would need about .*iB of memory, and there are 1 MiB: ask for fewer"
    with pytest.raises(limits.Refused, match=words):
        run.watch(dataclasses.replace(run.usual, batch=4096))


@pytest.mark.parametrize(
    "name, message",
    [
        ("autoencoder_kl", "trains autoencoder_kl, which makes no pictures"),
        ("pixart", "holds no text model: it trains a denoiser that is told text. Make one of it"),
    ],
)
def test_runs_of_other_kinds_are_refused(name, message):
    config = digits.get_config("tiny")
    config.model = {"name": name}
    with pytest.raises(ConfigError, match=message):
        trained.refuse_other_kinds(config, "runs/other")


@pytest.mark.parametrize("wrong, message", [
    ({"steps": 2.5}, "steps = 2.5: a whole number is needed"),
    ({"seed": None}, "seed = None: a whole number"),
    ({"margins": (0, 0, 0.5, 0)}, "margins = .*whole"),
    ({"margins": (0, 0, 0)}, "four"),
    ({"batch": 0}, r"batch = 0: 1 \.\. 4096 pictures"),
    ({"batch": 10**9}, r"batch = 1000000000: 1 \.\. 4096 pictures"),
    ({"steps": 1_000_000}, r"steps = 1000000: 1 \.\. 1000 are valid"),
    ({"resamplings": 10**6}, r"resamplings = 1000000: 1 \.\. 100 are valid"),
    ({"margins": [10**6, 0, 0, 0]}, r"margins = 1000000: 0 \.\. 65536 are valid"),
    ({"height": 10**6}, r"height = 1000000: 0 \.\. 65536"),
    ({"seed": 2**32 - 1, "batch": 2}, "seed = 4294967295: the last of 2 would be above 4294967295"),
    ({"prompt": "x" * 10**6}, "prompt has 1000000 characters"),
    ({"guidance": float("inf")}, "guidance = inf"),
    ({"guidance": "much"}, "guidance = 'much': a number is needed"),
    ({"prompt": 3}, "prompt = 3: a text is needed"),
])  # fmt: skip
def test_parameters_of_the_wrong_kind_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        request.checked(wrong)


def test_numbers_of_json_are_taken():
    found = request.checked({"steps": 20.0, "guidance": 2, "margins": [1.0, 0, 0, 0], "prompt": "a cat"})
    assert (found.steps, found.guidance, found.margins, found.prompt) == (20, 2.0, (1, 0, 0, 0), "a cat")
    assert found.seeds == [0]


class Made:
    """A source of known frames."""

    usual = Asked(sampler="ddim", steps=2)

    def watch(self, told):
        for step in (1, 2):
            yield Frame(step, 2, 1 - step / 2, np.full((told.batch, 8, 8, 1), 100 * step, np.uint8))

    def carried(self, told):
        return {"prompt": told.prompt, "sampler": told.sampler, **request.common(told)}


def test_what_a_file_carries_loads_back(tmp_path, files):
    inputs = tmp_path / "out" / "inputs"
    coded = lambda name: base64.b64encode(pathlib.Path(files[name]).read_bytes()).decode()
    image, mask = (request.keep(coded(name), inputs) for name in ("image", "mask"))
    np.testing.assert_array_equal(pictures.read(image), np.repeat(drawn((8, 8, 1)), 3, axis=-1))
    wanted = Asked(
        prompt="a cat",
        negative="bad",
        steps=7,
        guidance=3.5,
        seed=5,
        sampler="ddim",
        height=8,
        width=8,
        batch=2,
        image=image,
        mask=mask,
        margins=(0, 8, 0, 0),
        strength=0.5,
    )
    *_, last = request.make(Made(), wanted, tmp_path / "out")
    assert [path.rpartition("/")[2] for path in last.paths] == ["5.png", "6.png"]
    np.testing.assert_array_equal(pictures.read(last.paths[1]), np.full((8, 8, 3), 200))
    assert pictures.settings_of(last.paths[1])["seed"] == 6
    assert request.of_file(last.paths[1], Made.usual, inputs) == wanted
    # A file from elsewhere may name any picture of this machine: none is read.
    assert request.of_file(last.paths[1], Made.usual, tmp_path / "another") == dataclasses.replace(
        wanted, image="", mask="", margins=(0, 0, 0, 0), strength=0.0
    )


def test_a_picture_arrives_in_base64_or_not_at_all(tmp_path):
    array = drawn((3, 5, 3))
    path = request.keep("data:image/png;base64," + base64.b64encode(png(array)).decode(), tmp_path)
    np.testing.assert_array_equal(pictures.read(path), array)
    assert request.keep("", tmp_path) == ""
    for wrong in ("/etc/hostname", "data:image/png;base64,####", base64.b64encode(b"no picture").decode()):
        with pytest.raises(ValueError, match=r"did not arrive whole|the file that was given is no sound picture"):
            request.keep(wrong, tmp_path)


def test_pictures_of_a_model_carry_what_again_reads(tmp_path):
    """So that `experiments.sample --again` makes them anew."""
    fixed = {"format": 1, "model": "m", "dtype": "float32", "loras": {}, "windows": False, "tile": 0, "checkpoint": "c"}
    about = {**fixed, **Made().carried(Asked(prompt="a cat")), "seed": 0, "seeds": [0], "at": 0}
    assert not set(from_prompt.SETTINGS + from_prompt.RECORD) - set(about)
    json.dumps(about)


def test_the_strip_shows_the_first_the_last_and_some_between():
    strip = display.Strip()
    for step in range(1, 31):
        strip.add(Frame(step, 30, 1 - step / 30, np.zeros((2, 4, 4, 3), np.uint8)))
    text = strip.html([5, 6])
    assert text.count("<img") == 2 * display.COLUMNS
    assert [step in text for step in ('title="step 1"', 'title="step 30"')] == [True, True]
    assert "<b>" not in display.refused("<b>").replace("<b>Not made.</b>", "")


def test_one_model_is_named():
    done = commands.run("-m", "experiments.playground", "--workdir=runs/none", "--model=x")
    assert done.returncode == 2 and "name one: --model=FOLDER" in done.stderr and "Traceback" not in done.stderr


def test_folders_without_a_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(from_prompt, "DTYPE", types.SimpleNamespace(value="float32"))
    monkeypatch.setattr(from_prompt, "loras", dict)
    with pytest.raises(ConfigError, match=r"a text-to-image model is a folder with model_index\.json"):
        command.opened(str(tmp_path), None)
    with pytest.raises(workdir.WorkdirError, match="holds no run"):
        command.opened(None, str(tmp_path))
    config = digits.get_config("tiny")
    config.model = {"name": "pixart"}
    (tmp_path / "config.json").write_text(configs.to_json(config))
    with pytest.raises(ConfigError, match="holds no text model"):
        command.opened(None, str(tmp_path))

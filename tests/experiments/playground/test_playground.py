"""What the page makes, without its components: requests, files, refusals; a run's pictures are its samples."""

import base64
import dataclasses
import io
import pathlib
import re
import socket
import types

import absl.flags
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits
from configs.proteins import frames
from configs.shapes import voxels
from configs.symbols import prose
from configs.video import drawings
from diffusion import caching
from diffusion.experiments.playground import __main__ as command, live_view, page_request, source, trained, uploads
from diffusion.experiments.playground.page_request import PageRequest
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, model_flags
from diffusion.io import clips, limits, pictures
from diffusion.recipe import ConfigError, Recipe, checks, data
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import to_json
from diffusion.text_to_image import Frame, pipelines, png
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.regions import Region
from tests import commands

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def run():
    """A tiny digits run in memory, whose network answers something, as a `Source`."""
    config = digits.get_config("tiny")
    example = jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(lambda: Resolver(config).model(SHAPE).init(jax.random.key(0), *example))
    numbers = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.15 * numbers.standard_normal(leaf.shape).astype(np.float32), shapes)
    return trained.Trained("runs/digits", config, params, 40, SHAPE)


def drawn(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def encoded(array):
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
        (tmp_path / f"{name}.png").write_bytes(encoded(array))
    return {name: str(tmp_path / f"{name}.png") for name in made}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_a_runs_pictures_are_the_samples_of_its_scanned_sampler(run, sampler):
    wanted = run.config.copy_and_resolve_references()
    wanted.sample.update({"steps": 3, "sampler": {"name": sampler}})
    wanted.sample.guidance.scale = 2.0
    frames = list(run.watch(PageRequest(label=3, steps=3, guidance=2.0, seeds=(7, 8), sampler=sampler)))
    assert [frame.step for frame in frames] == [1, 2, 3]
    labels = np.full(2, 3, np.int32)
    seeds = np.array([7, 8], np.uint32)
    expected = generate.generator(Recipe.from_config(wanted, SHAPE)).images(run.params, labels, seeds)
    assert np.ptp(expected) > 50
    assert np.abs(frames[-1].pictures.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_a_run_changes_paints_and_widens_pictures(run, files):
    image = drawn((8, 8, 1))
    request = dataclasses.replace(run.usual, steps=4, image=files["image"])
    *_, last = run.watch(dataclasses.replace(request, mask=files["mask"]))
    np.testing.assert_array_equal(last.pictures[0, :, 4:], image[:, 4:])
    assert (last.pictures[0, :, :4] != image[:, :4]).mean() > 0.9
    few = list(run.watch(dataclasses.replace(request, strength=0.5)))
    assert [frame.steps for frame in few] == [2, 2] and (few[-1].pictures[0] != image).any()


def test_pictures_that_are_not_finite_are_notes_of_the_page_or_refused(run, monkeypatch, tmp_path):
    request = PageRequest(label=3, steps=2, seeds=(7, 8))
    with monkeypatch.context() as patch:
        patch.setattr(run, "_decode", lambda decoder, x: x.at[0].set(jnp.nan))
        patch.setattr(run, "_programs", {})
        *_, last = source.make(run, request, tmp_path)
        assert len(last.paths) == 2
        assert (
            re.match(r"1 of 2 samples are not finite.*config\.sample\.steps = 2", last.notes[0])
            and len(last.notes) == 1
        )
    with monkeypatch.context() as patch:
        patch.setattr(run, "_decode", lambda decoder, x: x * jnp.inf)
        patch.setattr(run, "_programs", {})
        with pytest.raises(ValueError, match=r"2 of 2 samples are not finite"):
            list(source.make(run, request, tmp_path / "none"))
        assert not (tmp_path / "none").exists()


def test_requests_share_programs_only_where_all_that_these_depend_on_is_equal(run, monkeypatch):
    made = []
    monkeypatch.setattr(run, "_programs", {})
    monkeypatch.setattr(run, "_made", lambda *_: made.append(f"program {len(made)}") or made[-1])
    monkeypatch.setattr(run, "_check_memory", lambda *_: None)

    def program(length=4, noised=False, start=1.0, **changes):
        settings = {"sampler": "ddim", "steps": 4, "guidance": 2.0, "resamplings": 1, "number": 1, **changes}
        plan = types.SimpleNamespace(t=np.linspace(start, 0.1, length))
        return run._compiled(types.SimpleNamespace(**settings), None, plan, noised)

    first = program()
    assert program() == program(number=3) == first and len(made) == 1
    changes = {"sampler": "euler", "steps": 5, "guidance": 3.0, "resamplings": 2, "length": 3, "noised": True}
    changes["start"] = 0.9  # of a strength that leaves as many steps, as 0.8 and 0.75 of 20 with two resamplings do
    others = [program(**{name: value}) for name, value in changes.items()]
    assert len({first, *others}) == 8


def test_the_pictures_at_the_end_are_counted_and_not_those_of_an_earlier_step(run, monkeypatch):
    counted = []
    monkeypatch.setattr(trained.generate, "check_finite", lambda *about: counted.append(about))
    states = [types.SimpleNamespace(x0=np.array([-1, -1]), x=None), types.SimpleNamespace(x0=None, x=np.array([1, -1]))]
    compiled = (lambda seeds, known: (None, None), lambda *_: iter(states), lambda decoder, x: (x, x > 0))
    plan = types.SimpleNamespace(s=np.array([0.5, 0.0]), renoise=[False, False])
    canvas = types.SimpleNamespace(arrays=lambda: (None, None), with_original=lambda pictures: pictures)
    request = types.SimpleNamespace(rows=lambda: ((), (7, 8)), number=2)
    frames = run._frames(request, types.SimpleNamespace(config="config"), None, compiled, plan, canvas)
    assert [(frame.step, frame.t, frame.pictures.tolist()) for frame in frames] == [(1, 0.5, [-1, -1]), (2, 0, [1, -1])]
    assert counted == [("config", 2, 1)]


def test_a_runs_cache_learns_which_steps_a_request_has_left(run, files, monkeypatch):
    learnt = []
    monkeypatch.setitem(caching.CACHES, "own", lambda at: (learnt.append(at), caching.first_block(0.0))[1])
    monkeypatch.setattr(trained.Trained, "_compiled", lambda *_: ())
    config = run.config.copy_and_resolve_references()
    config.sample.cache = {"name": "own"}
    own = trained.Trained("runs/digits", config, run.params, 40, SHAPE)
    own.watch(dataclasses.replace(own.usual, steps=4, image=files["image"], strength=0.5))
    assert learnt[-1] == ((2, 3),)


@pytest.mark.parametrize("wrong, message", [
    ({"prompts": "a cat"}, "digits receives a class and reads no prompt: without a text model"),
    ({"label": 10}, r"label = 10 is not a class of this model\. Valid: 0 \.\. 9"),
    ({"image": "large"}, "the picture with its margins has 16 x 16 pixels, but digits makes only 8 x 8"),
    ({"image": "image", "margins": (0, 0, 2, 0)}, "the picture with its margins has 8 x 10 pixels"),
    ({"image": "image", "margins": (40_000, 0, 40_000, 0)}, "the picture with its margins has 40008 x 40008 pixels"),
    ({"image": "image", "mask": "wrong"}, r"has 4 x 8 pixels \(height x width\), but its picture has 8 x 8"),
    ({"mask": "mask"}, "mask and margins apply to an image; name the image"),
    ({"image": "nothing"}, "there is no such file"),
    ({"height": 16}, "the request is for 16 x 0 pixels, but digits makes only pictures of 8 x 8"),
    ({"strength": 0.5}, "strength = 0.5.*name the image"),
    ({"sampler": "consistency"}, r"sampler = 'consistency' is.*valid for this run\. Valid:.*, dpmpp_2m"),
    ({"steps": 0}, "steps"),
    ({"guidance": -1.0}, r"config.sample.guidance.scale = -1.0. Valid: at least 0"),
    ({"seeds": -1}, "seeds = .*. Valid: .* at least 0"),
])  # fmt: skip
def test_what_a_run_cannot_do_is_refused_in_words(run, files, wrong, message, monkeypatch, tmp_path):
    monkeypatch.setattr(np, "pad", lambda *_, **__: pytest.fail("an array was made before its size was checked"))
    wrong = {name: files.get(value, value) if name in ("image", "mask") else value for name, value in wrong.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        next(source.make(run, dataclasses.replace(run.usual, **wrong), tmp_path))


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_refused_with_the_estimate(run, monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 2**20)
    words = r"4096 pictures of 8 x 8 would need about .*iB of memory, but only 1 MiB is available: choose fewer"
    with pytest.raises(limits.Refused, match=words):
        run.watch(dataclasses.replace(run.usual, seeds=range(4096)))


@pytest.mark.parametrize(
    "name, objective, message",
    [
        ("autoencoder_kl", {"name": "kl_autoencoder"}, "trains autoencoder_kl, which makes no pictures"),
        ("pixart", None, r"trains a denoiser that receives text, but holds no text model\. Make a text-to-image model"),
    ],
)
def test_runs_of_other_kinds_are_refused(name, objective, message):
    config = digits.get_config("tiny")
    config.model = {"name": name}
    config.objective = objective or config.objective
    with pytest.raises(ConfigError, match=message):
        trained.refuse_other_kinds(config, "runs/other")


@pytest.mark.extended
@pytest.mark.parametrize("sample, message", [
    ({"driver": {"name": "picard"}}, r"config.sample.driver.name = 'picard', and the page shows only the steps of sam"),
    ({"driver": {"name": "adaptive"}}, "config.sample.driver.name = 'adaptive'"),
    ({"guides": ({"name": "posterior_sampling"},),
      "measurement": {"pictures": "test", "operator": {"name": "pooled", "factor": 2}}},
     "has config.sample.guides that read measured pictures"),
])  # fmt: skip
def test_samples_that_the_page_would_make_otherwise_are_refused(sample, message):
    config = digits.get_config("tiny")
    trained.refuse_other_samples(config, "runs/other")
    config.sample.update(sample)
    with pytest.raises(ConfigError, match=f"runs/other .*{message}.*diffusion sample --workdir=runs/other"):
        trained.refuse_other_samples(config, "runs/other")


@pytest.mark.extended
@pytest.mark.parametrize("config, kind", [
    (frames.get_config("tiny"), "points of a manifold"), (prose.get_config("tiny"), "symbols"),
    (voxels.get_config("tiny"), "arrays of numbers"),
])  # fmt: skip
def test_runs_whose_samples_are_no_pictures_are_refused(config, kind):
    with pytest.raises(ConfigError, match=f"runs/other makes {kind}, and the page shows only pictures and clips"):
        trained.refuse_other_samples(config, "runs/other")


@pytest.mark.parametrize("field, value, message", [
    ("sample.steps", 2000, "steps = 2000. Valid: .* at most 1000"), ("data.shape", (8, 8, 2), "pictures of 2 channels"),
])  # fmt: skip
def test_runs_beyond_the_limits_of_the_page_are_refused_at_its_start(run, field, value, message):
    config = run.config.copy_and_resolve_references()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=f"runs/digits .*{message}"):
        trained.Trained("runs/digits", config, run.params, 40, config.data.shape or SHAPE)


@pytest.mark.parametrize("shape", [(16,), (2, 3), {"x": (2,), "y": (3,)}])
def test_runs_on_examples_that_are_no_pictures_are_refused(shape):
    with pytest.raises(ConfigError, match=r"runs/other was trained on examples of shape .*diffusion sample"):
        trained.Trained("runs/other", digits.get_config("tiny"), {}, 0, shape)


def test_a_guidance_without_a_scale_stays_as_it_is(run):
    config = run.config.copy_and_resolve_references()
    config.sample.guidance = {"name": "product", "exponents": (1.5,)}
    own = trained.Trained("runs/digits", config, run.params, 40, SHAPE)
    assert own.usual.guidance == 1 and own._configured(own.usual).config.sample.guidance == config.sample.guidance
    with pytest.raises(ConfigError, match=r"guidance = 2: the guidance 'product' of this run has no scale\. Valid: 1"):
        own._configured(dataclasses.replace(own.usual, guidance=2.0))


@pytest.mark.parametrize("wrong, message", [
    ({"steps": 2.5}, "steps = 2.5. Valid: a whole number"),
    ({"seed": None}, "seed = None. Valid: a whole number"),
    ({"margins": (0, 0, 0.5, 0)}, "margins = .*. Valid: .* whole"),
    ({"margins": (0, 0, 0)}, "Valid: a list of 4"),
    ({"batch": 0}, "batch = 0. Valid: .* at least 1"),
    ({"batch": 10**9}, "batch = 1000000000. Valid: .* at most 4096"),
    ({"steps": 1_000_000}, "steps = 1000000. Valid: .* at most 1000"),
    ({"resamplings": 10**6}, "resamplings = 1000000. Valid: .* at most 100"),
    ({"margins": [10**6, 0, 0, 0]}, r"margins = \[1000000, 0, 0, 0\]. Valid: .* at most 65536"),
    ({"height": 10**6}, "height = 1000000. Valid: .* at most 65536"),
    ({"seed": 2**32 - 1, "batch": 2}, "seed = 4294967295. Valid: .* at most 4294967294"),
    ({"prompt": "x" * 10**6}, "prompt = .*. Valid: a text of at most 20000 letters"),
    ({"guidance": float("inf")}, "guidance = inf. Valid: a number"),
    ({"guidance": "much"}, "guidance = 'much'. Valid: a number"),
    ({"prompt": 3}, "prompt = 3. Valid: a text"),
])  # fmt: skip
def test_inputs_of_the_wrong_kind_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        page_request.read(wrong)


def test_numbers_of_json_are_taken_and_empty_inputs_say_nothing():
    request = page_request.read({"steps": 20.0, "guidance": 2, "prompt": "a cat", "negative": "", "strength": 0})
    assert (request.steps, request.guidance, request.prompts, request.seeds) == (20, 2.0, ("a cat",), (0,))
    assert request.negative is request.strength is None
    assert page_request.read(page_request.values(request)) == request


@pytest.mark.parametrize("prompts, classes, wrong, message", [
    (True, 0, {"label": 3}, "label = 3: made has no classes; leave it out"),
    (False, 0, {"prompts": "a cat"}, "made receives no condition and reads no prompt"),
    (False, 0, {"negative": "a cat"}, "made receives no condition and reads no prompt"),
    (False, 2, {"label": 1, "words": ["cat"]}, "made receives a class and reads no prompt:"),
    (False, 2, {"label": -1}, r"label = -1 is not a class of this model\. Valid: 0 \.\. 1"),
    (True, 0, {"image_guidance": 2}, "image_guidance = 2: made does not edit pictures by instructions"),
    (False, 2, {"label": 1, "attention": 0.5}, "made receives a class and reads no prompt: .* attention"),
    (False, 2, {"label": 1, "frames": 7}, "frames = 7: made makes only pictures; leave it out"),
])  # fmt: skip
def test_a_request_has_only_inputs_that_the_model_reads(prompts, classes, wrong, message):
    kind = types.SimpleNamespace(
        name="made",
        captions=False,
        prompts=prompts,
        classes=classes,
        edits=False,
        several=False,
        free=prompts,
        clip_rate=0.0,
    )
    with pytest.raises(ValueError, match=message):
        source.check(kind, PageRequest(**wrong))


class Made:
    """A source of known frames."""

    name, prompts, classes, usual = "made", True, 0, PageRequest(sampler="ddim", steps=2)
    captions, clip_rate = False, 0.0

    def resolved(self, request):
        return request

    def watch(self, request):
        for step in (1, 2):
            yield Frame(step, 2, 1 - step / 2, np.full((request.number, 8, 8, 1), 100 * step, np.uint8))

    def record(self, request):
        return {"format": 1, "model": "m", "dtype": "float32", "loras": {}, "checkpoint": "c"}


def test_what_a_file_carries_loads_back(tmp_path, files):
    inputs = tmp_path / "out" / "inputs"
    coded = lambda name: base64.b64encode(pathlib.Path(files[name]).read_bytes()).decode()
    image, mask = (uploads.keep(coded(name), inputs) for name in ("image", "mask"))
    np.testing.assert_array_equal(pictures.read(image), np.repeat(drawn((8, 8, 1)), 3, axis=-1))
    wanted = PageRequest.series(
        "a cat",
        seed=5,
        number=2,
        negative="bad",
        steps=7,
        guidance=3.5,
        sampler="ddim",
        height=8,
        width=8,
        batch_size=2,
        image=image,
        mask=mask,
        margins=(0, 8, 0, 0),
        strength=0.5,
    )
    *_, last = source.make(Made(), wanted, tmp_path / "out")
    assert [path.rpartition("/")[2] for path in last.paths] == ["5.png", "6.png"]
    np.testing.assert_array_equal(pictures.read(last.paths[1]), np.full((8, 8, 3), 200))
    about = png.read(last.paths[1])
    assert about["seed"] == 6
    assert png.is_complete(about)  # so that `experiments.sample --again` makes it anew
    assert page_request.read_file(last.paths[1], Made.usual, inputs) == wanted
    # A file from elsewhere may name any picture of this machine: none is read.
    assert page_request.read_file(last.paths[1], Made.usual, tmp_path / "another") == dataclasses.replace(
        wanted, image=None, mask=None, margins=(0, 0, 0, 0), strength=None
    )
    assert page_request.left_out(last.paths[1], wanted, Made.usual) == []
    theirs = {**about, "watermark": "/etc/hostname", "emphasis": "scale", "image": "cat.png"}
    pictures.write(tmp_path / "theirs.png", drawn((8, 8, 3)), theirs)
    read = page_request.read_file(tmp_path / "theirs.png", Made.usual, inputs)
    assert read.watermark == "" and read.image is None
    lacking = page_request.left_out(tmp_path / "theirs.png", read, Made.usual)
    assert sorted(lacking) == ["emphasis", "image", "margins", "mask", "strength", "watermark"]


def test_the_settings_of_a_file_name_only_pictures_that_were_sent(tmp_path, monkeypatch):
    """A stranger's file could name any picture of this machine, also as a mask or beside one that was sent."""
    here, elsewhere = str(tmp_path / "inputs/a.png"), str(tmp_path / "b.png")
    (tmp_path / "inputs").mkdir()
    for path in (here, elsewhere):
        pathlib.Path(path).write_bytes(b"")

    def read(**noted):
        monkeypatch.setattr(page_request.png, "read", lambda path: noted)
        return page_request.read_file("file.png", PageRequest(label=3), tmp_path / "inputs")

    def paths(request):
        controls = [path for control in request.controls for path in (control.picture, control.mask)]
        regions = [region.where for region in request.regions]
        return [path for path in (request.image, request.mask, request.reference, *request.images, *controls, *regions)]

    control = lambda picture, mask: {"controls": (Control("edges", picture, mask=mask),)}
    region = lambda where: {"regions": (Region("a cat", where),)}
    cases = [
        lambda path: {"image": here, "mask": path},
        lambda path: {"image": path, "mask": here},
        lambda path: {"image": path},
        lambda path: control(path, here),
        lambda path: control(here, path),
        lambda path: {"reference": path},
        lambda path: {"images": (here, path)},
        region,
    ]
    for case in cases:
        assert here in paths(read(**case(here))) and not any(paths(read(**case(elsewhere))))


def test_a_picture_arrives_in_base64_or_not_at_all(tmp_path):
    array = drawn((3, 5, 3))
    path = uploads.keep("data:image/png;base64," + base64.b64encode(encoded(array)).decode(), tmp_path)
    np.testing.assert_array_equal(pictures.read(path), array)
    for wrong in ("/etc/hostname", "data:image/png;base64,####", base64.b64encode(b"no picture").decode()):
        with pytest.raises(
            ValueError, match=r"did not arrive completely|the file that was sent is not a valid picture"
        ):
            uploads.keep(wrong, tmp_path)


def test_the_strip_shows_the_first_the_last_and_some_between():
    strip = live_view.Strip()
    for step in range(1, 31):
        strip.add(Frame(step, 30, 1 - step / 30, np.zeros((2, 4, 4, 3), np.uint8)))
    text = strip.html([5, 6])
    assert text.count("<img") == 2 * live_view.COLUMNS
    assert [step in text for step in ('title="step 1"', 'title="step 30"')] == [True, True]
    assert "<b>" not in live_view.refused("<b>").replace("<b>Not made.</b>", "")


def test_the_layers_of_a_picture_are_shown_beside_each_other():
    layers = np.zeros((2, 4, 6, 4), np.uint8)
    layers[1, ..., 3] = 255
    url = live_view.address(layers)
    shown = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert shown.size == (12, 4)
    assert np.asarray(shown.convert("RGBA"))[0, ::6, 3].tolist() == [0, 255]


@pytest.mark.extended
def test_one_model_is_named():
    done = commands.run("-m", "experiments.playground", "--workdir=runs/none", "--model=x")
    assert done.returncode == 2 and "set either --model=FOLDER" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("host, message", [
    ("", "--host is empty"), ("no such name", "--host=no such name --port=.*: .*not known"),
    ("192.0.2.1", "--host=192.0.2.1 .*Cannot assign"), ("x" * 300, "cannot listen at --host=xxx"),
    ("127.0.0.1", "--host=127.0.0.1 --port=.*: Address already in use"),
])  # fmt: skip
def test_an_address_where_the_page_cannot_listen_is_refused(host, message):
    """192.0.2.1 is an address for documentation alone (RFC 5737)."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=message):
            command.require_free(host, port)
    command.require_free("127.0.0.1", port)


def test_addresses_of_ipv6_stand_in_brackets():
    hosts = ("127.0.0.1", "localhost", "::1", "fe80::1")
    assert [command.in_address(host) for host in hosts] == ["127.0.0.1", "localhost", "[::1]", "[fe80::1]"]


@pytest.fixture
def set_flags(monkeypatch):
    """Gives the flags of a model their usual values, but for those that are named."""
    usual = {"LORA": [], "EMBEDDING": [], "ATTACH": [], "DTYPE": "float32", "QUANTISED": "", "DROP_TEXT": False}

    def change(**values):
        for name, default in usual.items():
            flag = types.SimpleNamespace(name=name.lower(), default=default, value=values.get(name, default))
            monkeypatch.setattr(command if hasattr(command, name) else model_flags, name, flag)
            monkeypatch.setattr(absl.flags.FLAGS[name.lower()], "present", name in values)

    change()
    return change


def test_folders_without_a_model_are_refused(tmp_path, set_flags):
    with pytest.raises(ConfigError, match=r"text-to-image model is a folder with model_index\.json"):
        command.opened(str(tmp_path), None)
    with pytest.raises(workdir.WorkdirError, match="holds no run"):
        command.opened(None, str(tmp_path))
    config = digits.get_config("tiny")
    config.model = {"name": "pixart"}
    (tmp_path / "config.json").write_text(to_json(config))
    with pytest.raises(ConfigError, match="holds no text model"):
        command.opened(None, str(tmp_path))


@pytest.mark.parametrize("flag", [{"LORA": ["a"]}, {"EMBEDDING": ["a"]}, {"ATTACH": ["a=b"]}, {"DTYPE": "bfloat16"},
                                  {"QUANTISED": "int8"}, {"DROP_TEXT": True}])  # fmt: skip
def test_flags_of_models_that_read_prompts_are_refused_for_others(flag, tmp_path, set_flags, monkeypatch):
    set_flags(**flag)
    (name,) = flag
    with pytest.raises(ConfigError, match=f"--{name.lower()} = .* is only for a text-to-image model"):
        command.opened(None, str(tmp_path))
    monkeypatch.setattr(command.class_folders, "is_of_classes", lambda folder: True)
    with pytest.raises(ConfigError, match=f"--{name.lower()} = .* is only for a text-to-image model"):
        command.opened(str(tmp_path), None)


def test_a_published_model_is_quantised_and_its_pictures_say_so(monkeypatch):
    pictured = types.SimpleNamespace(video=None)
    loaded, few = (types.SimpleNamespace(side=64, attachments={}, kind=pictured) for _ in range(2))
    monkeypatch.setattr(source.text_to_image, "load", lambda folder, **how: loaded)
    monkeypatch.setattr(source.text_to_image, "with_quantised", lambda model, kind: (few, "fewer bytes"))
    monkeypatch.setattr(PageRequest, "resolved", lambda request, model: request)
    monkeypatch.setattr(png.model_index, "fingerprint", lambda folder: "")
    page = source.Published("a", "float32", {}, {}, {}, "int8")
    assert page.model is few
    assert page.record(PageRequest())["quantised"] == "int8"


@pytest.fixture(scope="module")
def clips_run():
    """A tiny run on clips of captions in memory, as a `Source`."""
    config = drawings.get_config("tiny")
    described = data.source(config, "train")
    recipe = checks.validate(config).on(described.spec)
    condition = {"vector": jnp.zeros((1, *described.spec.condition["vector"].shape))}
    init = lambda: recipe.network.init(
        jax.random.key(0), jnp.zeros((1, *recipe.examples.shape)), jnp.zeros(1), condition
    )
    numbers = np.random.default_rng(0)
    shapes = jax.eval_shape(init)
    params = jax.tree.map(lambda leaf: 0.15 * numbers.standard_normal(leaf.shape).astype(np.float32), shapes)
    return trained.Trained("runs/clips", config, params, 4, recipe.examples.shape, described)


@pytest.mark.extended
def test_clips_of_captions_are_films_beside_their_settings(clips_run, tmp_path):
    assert clips_run.captions and not clips_run.prompts and clips_run.size == (32, 32)
    request = dataclasses.replace(clips_run.usual, steps=2, seeds=(7,))
    ask = lambda words: list(source.make(clips_run, dataclasses.replace(request, prompts=(words,)), tmp_path))
    *_, last = ask("a red star turns clockwise slowly")
    assert last.frame.pictures.shape == (1, 8, 32, 32, 3) and last.frame.pictures.dtype == np.uint8
    (path,), (film,) = last.paths, last.shown
    assert png.request(png.read(path), clips_run.usual).prompts == ("a red star turns clockwise slowly",)
    assert film == str(clips.write(tmp_path / "same", last.frame.pictures[0], 10.0)).replace("same", "7")
    assert clips.properties(film).rate == 10 and len(clips.properties(film).times) == 8
    *_, other = ask("a blue heart moves left quickly")
    assert (other.frame.pictures != last.frame.pictures).any()
    with Image.open(io.BytesIO(base64.b64decode(live_view.address(last.frame.pictures[0], 16, 4.0)[23:]))) as shown:
        shown.load()
        assert (shown.size, shown.n_frames, shown.info["duration"]) == ((16, 16), 8, 250)


@pytest.mark.extended
def test_clips_play_at_the_rate_of_the_data_or_of_the_request(clips_run, monkeypatch):
    """They played at 10 frames a second, whatever the rate of the films that the run is trained on."""
    again = lambda: trained.Trained("runs/clips", clips_run.config, clips_run.params, 4, (8, 32, 32, 3))
    assert again().clip_rate == 10  # these data do not say it
    monkeypatch.setattr(trained.data, "open_recipe", lambda recipe: types.SimpleNamespace(rate=24.0))
    page = again()
    assert page.clip_rate == 24 and source.frames_a_second(page, page.usual) == 24
    request = types.SimpleNamespace(frame_rate=12.0)
    assert source.frames_a_second(page, request) == 12 and source.frames_a_second(Made(), request) == 0

    def missing(recipe):
        raise ConfigError("config.data.source: there is no such folder")

    monkeypatch.setattr(trained.data, "open_recipe", missing)
    assert again().clip_rate == 10  # the page of a run needs no data


@pytest.mark.parametrize("wrong, message", [
    ({"prompts": "a red dog"}, "the word 'dog' is not known"),
    ({"negative": "blue"}, r"clips reads captions only\. Leave out negative prompts"),
    ({"attention": 2.0}, r"clips reads captions only\. Leave out .* attention"),
    ({"prompts": "a red star turns clockwise slowly", "frames": 7}, "frames = 7: clips makes only clips of one length"),
    ({"image": "image"}, r"clips makes clips, .* cannot start a clip from a picture; diffusion film can"),
])  # fmt: skip
def test_what_a_run_of_clips_cannot_do_is_refused_in_words(clips_run, files, wrong, message, tmp_path):
    wrong = {name: files.get(value, value) if name == "image" else value for name, value in wrong.items()}
    with pytest.raises(ValueError, match=message):
        next(source.make(clips_run, dataclasses.replace(clips_run.usual, **wrong), tmp_path))


@pytest.mark.parametrize("name, several", [
    ("Flux2KleinPipeline", True), ("QwenImageEditPlusPipeline", True), ("FluxPipeline", False),
])  # fmt: skip
def test_the_page_asks_for_several_pictures_where_the_model_sees_them(name, several):
    published = object.__new__(source.Published)
    published.model = types.SimpleNamespace(kind=pipelines.KINDS[name])
    assert published.several is several

"""experiments.sample --model: pictures of prompts as files that carry how they were made, and --again."""

import json
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from diffusion import text_to_image, watermarks
from diffusion.experiments.sampling import from_prompt, model_flags, prompt_flags, tuned_run
from diffusion.io import clips, content_credentials, local_certificates, pictures, wav
from diffusion.models.quantised import KINDS
from diffusion.recipe import ConfigError, class_folders
from diffusion.text_to_image import jobs, model_index, png
from diffusion.text_to_image.jobs import Results
from diffusion.text_to_image.requests import Request
from diffusion.text_to_image.settings import settings
from tests import commands
from tests.text_to_image import made_pipelines

ROOT = pathlib.Path(__file__).parents[3]


def sample(place, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.sample", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.slow
def test_pictures_carry_their_settings_and_are_made_again_to_the_byte(tmp_path, compilation_cache):
    made_pipelines.folder("sd", tmp_path / "model")
    rng = np.random.default_rng(0)
    pictures.write(tmp_path / "cat.png", rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), {})
    flags = ["--model=model", "--prompt=a cat", "--negative=bad", "--steps=3", "--guidance=5", "--seed=42", "-n", "2",
             "--sampler=euler_ancestral", "--image=cat.png", "--strength=0.7"]  # fmt: skip
    done = sample(tmp_path, *flags, "--out=made")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["made/42.png", "made/43.png"]
    about = pictures.settings_of(tmp_path / "made" / "43.png")
    known = {
        "prompt": "a cat",
        "negative": "bad",
        "steps": 3,
        "guidance": 5.0,
        "seed": 43,
        "sampler": "euler_ancestral",
        "strength": 0.7,
        "image": "cat.png",
        "device": jax.devices()[0].device_kind,
    }
    assert {key: about[key] for key in known} == known
    assert len(about["checkpoint"]) == len(about["files"]["cat.png"]) == 64 and "jax" in about["versions"]

    done = sample(tmp_path, "--again=made/43.png")
    assert done.stdout.strip() == "made/43_again.png: the same bytes", done.stderr
    assert (tmp_path / "made/43.png").read_bytes() == (tmp_path / "made/43_again.png").read_bytes()

    pictures.write(tmp_path / "cat.png", rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), {})
    done = sample(tmp_path, "--again=made/43.png")
    assert done.returncode == 2 and "cat.png is not the file with which made/43.png was made" in done.stderr
    (tmp_path / "model" / "scheduler" / "scheduler_config.json").write_text("{}")
    done = sample(tmp_path, "--again=made/43.png")
    assert done.returncode == 2 and "is not the model that made made/43.png: its checksum is" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_marked_and_signed_picture_is_verified_and_made_again(tmp_path, compilation_cache):
    pytest.importorskip("c2pa", reason="the extra provenance is not installed")
    made_pipelines.folder("sd", tmp_path / "model")
    local_certificates.make(tmp_path / "signer")
    watermarks.make(tmp_path / "mark.json", "gaussian_shading", bits=4)
    flags = ["--model=model", "--prompt=a cat", "--steps=2", "--watermark=mark.json"]
    done = sample(tmp_path, *flags, "--credentials=signer", "--out=made")
    assert done.returncode == 0, done.stderr
    found = content_credentials.read(tmp_path / "made" / "0.png", tmp_path / "signer" / "root.pem")
    assert found.trusted and found.request["model"] == "model" and "a cat" in found.request["request"]
    assert "mark.json" in pictures.settings_of(tmp_path / "made" / "0.png")["files"]
    done = sample(tmp_path, "--again=made/0.png")
    assert "the same pixels, in a file of other bytes" in done.stdout, done.stderr
    (tmp_path / "mark.json").unlink()
    done = sample(tmp_path, "--again=made/0.png")
    assert done.returncode == 2 and "mark.json" in done.stderr
    done = sample(tmp_path, *flags, "--credentials=nowhere")
    assert done.returncode == 2 and "A signer's folder holds chain.pem and key.pem" in done.stderr


@pytest.fixture
def flags():
    """The flags at their defaults, and as they were before afterwards."""
    from absl import flags

    values = flags.FLAGS
    if not values.is_parsed():
        values(["sample"])
    before = values.flag_values_dict()
    yield values
    for name, value in before.items():
        if getattr(values, name) != value:
            setattr(values, name, value)


def test_the_flag_of_quantisation_has_every_kind(flags):
    assert flags["quantised"].parser.enum_values == ["", *KINDS, png.STORED]


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "--prompt is missing"),
        ({"prompt": "a cat", "n": 0}, "-n = 0 must be at least 1"),
        ({"prompt": "a cat", "batch_size": 0}, "batch_size = 0. Valid: a whole number, at least 1"),
        ({"prompt": "a cat", "steps": 0}, "steps = 0. Valid: a whole number, at least 1 and at most 1000"),
        ({"prompt": "a cat", "margins": ["1", "2"]}, r"margins = \[1, 2\]. Valid: a list of 4"),
        ({"prompt": "a cat", "margins": ["1", "2", "x", "4"]}, r"margins = \[1, 2, .x., 4\]. Valid: a list of 4"),
        ({"prompt": "a cat", "margins": ["1", "2", "²", "--4"]}, r"margins = .*u00b2., .--4.*Valid: a list of 4"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, values, message):
    for name, value in values.items():
        setattr(flags, name, value)
    with pytest.raises(ValueError, match=message):
        prompt_flags.request()


def test_a_step_of_no_run_is_refused(flags, tmp_path):
    flags.prompt = "a cat"
    for work in (None, str(tmp_path)):
        with pytest.raises(ConfigError, match="--step=4: only a run that tunes a model is sampled at a step"):
            from_prompt.main(None, work, requested_step=4)


def test_a_folder_of_another_kind_is_named_before_the_missing_prompt(flags, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    for folder, words in (
        ("network", "save_pretrained writes it.$"),
        ("run", "sample from this run: --workdir=.*/run.$"),
    ):
        flags.model = str(tmp_path / folder)
        with pytest.raises(ConfigError, match=rf"{folder}/model_index.json does not exist. .*{words}"):
            from_prompt.main(None)


def test_flags_are_a_request(flags):
    flags.prompt, flags.seed, flags.n = "a cat", 5, 3
    flags.image, flags.margins, flags.guidance = "cat.png", ["0", "8", "0", "8"], 2
    request = Request.series("a cat", 5, 3, image="cat.png", margins=(0, 8, 0, 8), guidance=2.0)
    assert prompt_flags.request() == request


def test_every_setting_is_a_flag_with_its_help(flags):
    for name, setting in settings(Request).items():
        flag = flags[{"prompts": "prompt", "seeds": "seed"}.get(name, name)]
        repeated = ";\n    repeat this option to specify a list of values" if setting.item is not None else ""
        assert flag.help == setting.help + repeated or name == "seeds"


@pytest.mark.extended
def test_help_lists_the_settings():
    said = commands.run("-m", "experiments.sample", "--help").stdout
    listed = set(re.findall(r"^ +--?(?:\[no\])?(\w+):", said, re.MULTILINE))
    assert {"prompt", "seed", "n", "model", "lora", "again", *prompt_flags.SETTINGS} <= listed


def test_loras_are_files_and_weights(flags):
    flags.lora = ["a.safetensors:0.5", "b.safetensors"]
    assert list(flags["dtype"].parser.enum_values) == list(png.TYPES)
    assert model_flags.loras() == {"a.safetensors": 0.5, "b.safetensors": 1.0}
    flags.lora = ["a.safetensors:0.5:0.3-1", "b.safetensors:0-1", "c:d.safetensors:-1:0-0.5"]
    timed = {"a.safetensors": [0.5, [0.3, 1.0]], "b.safetensors": 1.0, "c:d.safetensors": [-1.0, [0.0, 0.5]]}
    assert model_flags.loras() == timed
    for wrong, why in (
        (["a.st:much"], "'much' is not a weight; write FILE:WEIGHT or FILE"),
        (["a.st:1:0.8-0.3"], r"0\.8, 0\.3\)\. Valid: the smaller t first, \(0\.3, 0\.8"),
        (["a.st:0.7-0.2"], r"0\.7, 0\.2\)\. Valid: the smaller t first, \(0\.2, 0\.7"),
        (["a.st:nan"], r"weight of a LoRA = nan. Valid: a number from -1e\+06 to 1e\+06\.$"),
        (["a.st:1e9:0-0.5"], r"weight of a LoRA = 1e\+09|weight of a LoRA = 1000000000\.0"),
        (["a.st:1:0-0.3", "a.st:0.5:0.3-1"], r"--lora=a\.st:0\.5:0\.3-1: a\.st is named twice"),
    ):
        flags.lora = wrong
        with pytest.raises(ConfigError, match=why):
            model_flags.loras()


def test_a_file_of_a_word_stands_once(flags):
    flags.embedding = ["a.safetensors", "b.safetensors:<cat>"]
    assert model_flags.embeddings() == {"a.safetensors": "", "b.safetensors": "<cat>"}
    flags.embedding = ["a.safetensors", "a.safetensors:<cat>"]
    with pytest.raises(ConfigError, match=r"--embedding=a\.safetensors:<cat>: a\.safetensors is named twice"):
        model_flags.embeddings()


def test_an_attachment_that_no_control_names_is_refused(flags):
    """The pictures would be those of the model alone."""
    flags.prompt, flags.model = "a cat", "drawings"
    flags.attach, flags.controls = ["edges=folder", "look=file"], ["edges:a.png"]
    with pytest.raises(ConfigError, match=r"--attach=look=file has no effect: .* Valid: --controls=look:PICTURE"):
        from_prompt.main(None)


def test_a_word_that_no_prompt_has_is_refused(flags, monkeypatch):
    """It may stand in the negative prompt or in a region's, in small letters or capitals."""
    made = types.SimpleNamespace(words=("<taught>", "<Cat>", "<dog>", "<bad>"))
    monkeypatch.setattr(text_to_image, "load", lambda folder, **how: made)
    flags.model = "drawings"
    flags.embedding = ["a.safetensors", "b.safetensors:<dog>", "c.safetensors"]
    flags.negative = "a <bad> picture"
    flags.prompt, flags.regions = "a <cat>", ["a dog:0,0,0.5,1"]
    with pytest.raises(ConfigError, match=r"--embedding=b\.safetensors:<dog> has no effect: no prompt has '<dog>'\. "):
        from_prompt.main(None)
    flags.regions = ["a <dog>:0,0,0.5,1"]
    assert from_prompt._chosen_model("drawings", None, None)[0] is made


@pytest.mark.parametrize("about", [{}, {"format": 2}, {"format": png.FORMAT, "prompt": "a cat"}])
def test_a_picture_without_all_its_settings_is_not_made_again(tmp_path, about):
    pictures.write(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), about)
    with pytest.raises(ValueError, match=r"are in another format than this version writes \(1"):
        from_prompt.again(tmp_path / "a.png", None)


@pytest.mark.parametrize("model, base", [("drawings", "drawings"), ("drawings-fast", "drawings"), ("elsewhere", "")])
def test_a_picture_is_made_again_with_a_model_of_the_package_by_its_name(tmp_path, monkeypatch, model, base):
    """As it was made; the file has the path of the package, which may be another one here."""
    folders = []
    about = {"at": 0, "seeds": [1], "model": "/gone", "device": "cpu"}
    monkeypatch.setattr(png, "read", lambda path: about)
    monkeypatch.setattr(png, "is_complete", lambda about: True)
    monkeypatch.setattr(png, "request", lambda about, otherwise: otherwise)
    monkeypatch.setattr(from_prompt, "make", lambda request, about, folder, *rest: folders.append(folder))
    monkeypatch.setattr(from_prompt, "_write", lambda *rest: None)
    monkeypatch.setattr(from_prompt, "verdict", lambda *rest: "")
    from_prompt.again(tmp_path / "1.png", None, model)
    assert folders == [str(class_folders.WEIGHTS / base) if base else model]


def test_what_differs_is_said_in_words(tmp_path):
    about = {"device": "TPU v9", "versions": {"jax": "0.1"}}
    first = np.zeros((2, 2, 3), np.uint8)
    second = np.full((2, 2, 3), 3, np.uint8)
    for name, picture in (("a", first), ("b", second), ("c", second * 20)):
        pictures.write(tmp_path / f"{name}.png", picture, {"name": name})
    words = from_prompt.verdict(tmp_path / "a.png", tmp_path / "b.png", about, "cpu")
    assert "differ by up to 3 of 255 (device 'cpu' in place of 'TPU v9', jax" in words and "within the 8" in words
    pictures.write(tmp_path / "d.png", first, {"name": "another"})
    assert from_prompt.verdict(tmp_path / "a.png", tmp_path / "d.png", about, "cpu").startswith(
        "the same pixels, in a file"
    )
    assert "MORE THAN the 8" in from_prompt.verdict(tmp_path / "a.png", tmp_path / "c.png", about, "cpu")


def test_a_clip_is_written_with_its_sound(tmp_path, monkeypatch, capsys):
    """In the film; in a WAV file beside an animation, where PyAV is not installed."""
    waveforms = np.random.default_rng(0).uniform(-1, 1, (2, 300, 2)).astype(np.float32)
    results = Results(np.zeros((2, 3, 8, 8, 3), np.uint8), waveforms, 12.0, 600)
    monkeypatch.setattr(clips.films, "has_library", lambda: False)
    from_prompt._write(tmp_path / "7.png", results, 1, {"seed": 7})
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in ("7.gif", "7.wav")]
    heard, rate = wav.read(tmp_path / "7.wav")
    assert rate == 600 and clips.properties(tmp_path / "7.gif").rate == pytest.approx(12, abs=0.6)
    np.testing.assert_allclose(heard, waveforms[1], atol=1.01 / 32768)
    written = []
    monkeypatch.setattr(clips.films, "has_library", lambda: True)
    monkeypatch.setattr(clips, "write_mp4", lambda path, frames, rate, sound: written.append((path, rate, sound)))
    from_prompt._write(tmp_path / "8.png", results, 0, {"seed": 8})
    ((path, rate, (waveform, sample_rate)),) = written
    assert (path, rate, sample_rate) == (tmp_path / "8.mp4", 12.0, 600)
    np.testing.assert_array_equal(waveform, waveforms[0])
    assert capsys.readouterr().out.split() == [str(tmp_path / "8.mp4")]


@pytest.mark.extended
def test_a_clip_has_the_rate_of_its_model_and_not_of_its_class(flags, tmp_path, monkeypatch):
    """TI2V-5B of Wan 2.2 makes 24 frames a second, where the class has 16."""
    folder = made_pipelines.folder("wan_5b", tmp_path)
    model = text_to_image.described(folder)
    monkeypatch.setattr(text_to_image, "load", lambda *_, **__: model)
    rates = []
    monkeypatch.setattr(clips, "write_with_row", lambda path, made, rate, *_: rates.append(rate) or [path])
    made = np.zeros((2, 1, 8, 8, 3), np.uint8)
    rate = lambda model, request: jobs.Job.prepare(model, request.resolved(model)).course.rate
    monkeypatch.setattr(jobs, "results", lambda *both: Results(made, rate=rate(*both)))
    about = {"checkpoint": model_index.fingerprint(folder), "dtype": "float32", "loras": {}, "files": {}}
    results = from_prompt.make(Request(prompts="a cat"), about, str(folder), tmp_path / "0.png")
    from_prompt._write(tmp_path / "0.png", results, 0, about)
    assert rates == [24.0]


def test_a_picture_of_a_run_is_not_made_again_by_other_weights(tmp_path, monkeypatch):
    """A run that was trained again in its folder has other weights at the same step; older files do not name any."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline"}))
    monkeypatch.setattr(tuned_run, "load", lambda run, step, **how: (None, step, "b" * 64))
    monkeypatch.setattr(from_prompt.jobs, "results", lambda model, request: "made")
    about = {"checkpoint": model_index.fingerprint(tmp_path), "dtype": "float32", "loras": {}, "files": {}}
    about |= {"workdir": "runs/lora", "step": 3}
    again = lambda **weights: from_prompt.make(
        Request(prompts="a cat"), about | weights, str(tmp_path), tmp_path / "7.png"
    )
    with pytest.raises(ValueError, match=r"step 3 of runs/lora is not what made .*7\.png: .* b{12}\.\., not a{12}\.\."):
        again(weights="a" * 64)
    assert again(weights="b" * 64) == again() == "made"


def test_an_interrupted_command_leaves_the_pictures_of_the_batches_that_were_made(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(text_to_image, "load", lambda *rest, **how: types.SimpleNamespace())
    monkeypatch.setattr(from_prompt.Request, "resolved", lambda request, model: request)
    monkeypatch.setattr(png, "model", lambda folder, **source: {"model": folder})
    monkeypatch.setattr(png, "records", lambda request, about: [{"seed": seed, **about} for seed in request.seeds])

    def results(model, request, done):
        for values in ((1, 2), (3,)):
            done(Results(np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])))
        raise KeyboardInterrupt

    monkeypatch.setattr(from_prompt.jobs, "results", results)
    flags.prompt, flags.seed, flags.n, flags.model = "a cat", 5, 4, "FOLDER"
    with pytest.raises(KeyboardInterrupt):
        from_prompt.main(str(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["5.png", "6.png", "7.png"]
    for seed, value in ((5, 1), (6, 2), (7, 3)):
        assert (pictures.read(tmp_path / f"{seed}.png") == value).all()
        assert pictures.settings_of(tmp_path / f"{seed}.png")["seed"] == seed
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{seed}.png") for seed in (5, 6, 7)]


def test_a_command_writes_what_its_flags_say_with_all_that_it_was_made_of(flags, tmp_path, monkeypatch, capsys):
    """Of a model, and of a run that tunes one: the settings of each picture, its name, and who signs it."""
    calls, signed = [], []
    model = types.SimpleNamespace(kind=types.SimpleNamespace(video=None), words=("<cat>",))
    made = [np.full((2, 2, 3), value, np.uint8) for value in (1, 2)]
    monkeypatch.setattr(text_to_image, "load", lambda *rest, **how: calls.append((rest, how)) or model)
    monkeypatch.setattr(text_to_image, "with_quantised", lambda model, kind: (model, "half as large"))
    monkeypatch.setattr(tuned_run, "load", lambda *rest, **how: (calls.append((rest, how)) or model, 30, "ab" * 32))
    monkeypatch.setattr(tuned_run, "base_of", lambda work: "BASE" if work == "tuned" else "")
    monkeypatch.setattr(tuned_run, "settings_of", lambda work: {})

    def results(model, request, done):
        for picture in made:
            done(Results(picture[None]))
        return Results(made, skipped=0.25)

    monkeypatch.setattr(from_prompt.jobs, "results", results)
    monkeypatch.setattr(from_prompt.Request, "resolved", lambda request, model: request)
    monkeypatch.setattr(png, "model", lambda folder, **source: {"model": folder, **source})
    records = lambda request, about: [{"seed": seed, **about} for seed in request.seeds]
    monkeypatch.setattr(png, "records", records)
    monkeypatch.setattr(pictures, "write", lambda path, picture, about: calls.append((path.name, picture, about)))
    signer = types.SimpleNamespace(sign=lambda path, about, version: signed.append((path.name, about["seed"])))
    flags.prompt, flags.seed, flags.n, flags.model = "a <cat>", 5, 2, "FOLDER"
    flags.lora, flags.embedding, flags.attach = ["a.st:0.5"], ["b.st:<cat>"], ["edges=control"]
    flags.controls = ["edges:house.png"]
    source = {"dtype": "float32", "loras": {"a.st": 0.5}, "embeddings": {"b.st": "<cat>"}}
    source |= {"attachments": {"edges": "control"}}

    from_prompt.main(str(tmp_path / "out"), signer=signer)
    (where, how), *written = calls
    assert where == ("FOLDER",) and how == source | {"quantised": False, "drop_text": False}
    for (name, picture, about), seed, expected in zip(written, (5, 6), made, strict=True):
        assert name == f"{seed}.png" and (picture == expected).all()
        assert about == {"seed": seed, "model": "FOLDER", **source, "quantised": ""}
    assert signed == [("5.png", 5), ("6.png", 6)]
    assert "25.0 % of the denoiser's blocks skipped" in capsys.readouterr().out

    calls.clear()
    flags.model, flags.quantised = None, "int8"
    from_prompt.main(str(tmp_path / "out"), "tuned", requested_step=30)
    (where, how), *written = calls
    assert where == ("tuned", 30) and how == source
    about = {"model": "BASE", **source, "quantised": "int8", "workdir": "tuned", "step": 30, "weights": "ab" * 32}
    assert [entry[2] for entry in written] == [{"seed": 5, **about}, {"seed": 6, **about}]
    assert "int8: half as large" in capsys.readouterr().out and len(signed) == 2

    for name, value, words in (("quantised", "stored", "--quantised=stored"), ("drop_text", True, "--drop_text")):
        flags.quantised = ""
        setattr(flags, name, value)
        with pytest.raises(ConfigError, match=f"{words} is only for --model=FOLDER"):
            from_prompt.main(None, "tuned")


def test_a_file_without_a_checksum_is_refused_before_a_picture_is_made(flags, tmp_path, monkeypatch):
    """It may be one that the model has read: the pictures would be lost."""
    monkeypatch.setattr(text_to_image, "load", lambda *rest, **how: None)
    monkeypatch.setattr(png, "model", lambda folder, **source: {"model": folder, **source})
    monkeypatch.setattr(from_prompt.Request, "resolved", lambda request, model: request)
    monkeypatch.setattr(from_prompt.jobs, "results", lambda *rest: pytest.fail("a picture was made"))
    flags.prompt, flags.model, flags.lora = "a cat", "FOLDER", [str(tmp_path)]
    with pytest.raises(ConfigError, match=f"{tmp_path}: there is no such file"):
        from_prompt.main(str(tmp_path / "out"))


def test_a_model_is_named_once(flags):
    flags.prompt = "a cat"
    for name in ("model", "again"):
        flags.model = flags.again = None
        setattr(flags, name, "FOLDER")
        with pytest.raises(ConfigError, match="--workdir names a run, and --model or --again a published model"):
            from_prompt.main(None, "run")
    flags.model = flags.again = None
    with pytest.raises(ConfigError, match="name its folder by --model"):
        from_prompt.main(None)


@pytest.mark.parametrize("name", ["prompt", "n", "steps", "negative", "lora", "quantised"])
def test_flags_of_a_request_are_refused_beside_again(flags, monkeypatch, name):
    flags.again = "a.png"
    again = []
    monkeypatch.setattr(from_prompt, "again", lambda path, *rest: again.append(str(path)))
    from_prompt.main(None)
    assert again == ["a.png"]
    monkeypatch.setattr(flags[name], "present", 1)
    with pytest.raises(ConfigError, match=rf"--{name} = .* has no effect with --again.*Valid with --again: --model"):
        from_prompt.main(None)
    assert again == ["a.png"]


def test_the_layers_of_a_picture_are_written_beside_it(tmp_path, capsys):
    layers = np.zeros((2, 4, 5, 4), np.uint8)
    from_prompt._write(tmp_path / "0.png", Results(layers[None]), 0, {"seed": 0})
    assert capsys.readouterr().out.split() == [str(tmp_path / f"0_layer_{i}.png") for i in (1, 2)]
    assert {path.name for path in tmp_path.iterdir()} == {"0.png", "0_layer_1.png", "0_layer_2.png"}

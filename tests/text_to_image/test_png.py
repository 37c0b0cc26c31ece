"""Settings in the files of pictures, as a stranger writes them: each ends in a sentence, soon, and in little memory."""

import copy
import dataclasses
import io
import json
import os
import pathlib
import random
import struct
import time
import types
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from diffusion import text_to_image
from diffusion.experiments.playground.page_request import PageRequest, read_file
from diffusion.experiments.sampling import from_prompt
from diffusion.io import pictures
from diffusion.text_to_image import jobs, load, model_index, png
from diffusion.text_to_image.jobs import Results
from diffusion.text_to_image.requests import Request
from tests.text_to_image import made_pipelines

CHECKSUM = "0" * 64
MODEL = types.SimpleNamespace()  # nothing of it is computed
SOUND = {
    "format": 1,
    "model": "model",
    "prompt": "a cat",
    "negative": None,
    "steps": 4,
    "guidance": 7.5,
    "sampler": "ddim",
    "height": 20,
    "width": 16,
    "image": "image.png",
    "mask": None,
    "margins": [0, 4, 0, 0],
    "strength": None,
    "loras": {},
    "windows": False,
    "dtype": "float32",
    "batch_size": 2,
    "seeds": [1, 2],
    "tile": 0,
    "resamplings": 2,
    "seed": 2,
    "at": 1,
    "checkpoint": CHECKSUM,
    "files": {"image.png": CHECKSUM},
    "device": "cpu",
    "versions": {"jax": "0.1"},
    "label": 3,
}
HOSTILE = (
    None, True, -1, 0, 1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**30, 2**31, 2**32, 4097, 2**63, "", "x",
    "x" * 300, "x" * 30_000, "x/" * 3000, "a\0b", "\ud800", "/", "..", "/dev/zero", "/dev/stdin", "~", "~nobody/x", [],
    [[]], [0] * 4, [1] * 5, [40_000, 0, 40_000, 0], [2**30] * 4, [1e308] * 4, ["a"], [None] * 4, list(range(5000)), {},
    {"a": None}, {"image.png": 3}, {"/dev/zero": CHECKSUM}, {"jax": None}, {"\ud800": 1.0}, {"x": 1e400}, "pipe",
    {str(i): CHECKSUM for i in range(300)},
)  # fmt: skip


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def holding(*chunks):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    made = file.getvalue()
    return made[:33] + b"".join(chunks) + made[33:]


def spelled(text, draw):
    """A chunk with a text under our key."""
    key = pictures.KEY.encode() + b"\0"
    data = text.encode("utf-8", "surrogatepass")
    return draw.choice(
        [
            lambda: chunk(b"iTXt", key + b"\0\0\0\0" + data),
            lambda: chunk(b"iTXt", key + b"\1\0\0\0" + zlib.compress(data)),
            lambda: chunk(b"tEXt", key + data),
            lambda: chunk(b"zTXt", key + b"\0" + zlib.compress(data)),
        ]
    )()


def fuzzed(draw):
    """The bytes of a file, from a source of random numbers."""
    about = copy.deepcopy(SOUND)
    for name in draw.sample(sorted(about), draw.choice([0, 1, 1, 1, 2, 3])):
        if draw.random() < 0.1:
            del about[name]
        else:
            about[name] = draw.choice(HOSTILE)
    text = json.dumps(about)
    kind = draw.randrange(9)
    if kind == 0:
        at = draw.randrange(len(text))
        text = draw.choice([text[:at], text[at:], text[:at] + draw.choice('{}[]",:0-eN\\u') + text[at + 1 :]])
    elif kind == 1:
        text = draw.choice(
            [
                "[" * 100_000,
                "[[]," * 200_000 + "0]",
                "9" * 5000,
                '{"a":' * 50_000,
                "null",
                "3",
                "",
                json.dumps({**SOUND, "more": [[]] * 200_000}),
                " " * 3_000_000,
            ]
        )
    made = holding(spelled(text, draw))
    if kind == 2:
        key = pictures.KEY.encode()
        made = holding(
            draw.choice(
                [
                    chunk(b"zTXt", key + b"\0\0" + zlib.compress(b"[" * 10**7)),
                    chunk(b"iTXt", key + b"\0\1\0\0\0" + b"junk"),
                    chunk(b"iTXt", key),
                    chunk(b"tEXt", key),
                    chunk(b"zTXt", key + b"\0"),
                    chunk(b"zTXt", key + b"\0\7abc"),
                    chunk(b"acTL", b"\xff" * 8),
                    chunk(b"acTL", b""),
                    chunk(b"fcTL", bytes(3)),
                    chunk(b"iCCP", b"a\0\0b"),
                    chunk(b"tRNS", b"") + chunk(b"PLTE", b""),
                    chunk(b"pHYs", b"1"),
                    chunk(b"eXIf", b"II*"),
                ]
            ),
            *draw.choice([(), (spelled(text, draw),)]),
        )
    elif kind == 3:
        made = made[: draw.randrange(len(made))]
    elif kind == 4:
        at = draw.randrange(8, len(made))
        made = made[:at] + bytes([draw.randrange(256)]) + made[at + 1 :]
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a folder that looks like a model's, a picture, and a pipe that nothing is written to."""
    made = tmp_path_factory.mktemp("made")
    before = os.getcwd()
    os.chdir(made)
    (made / "model").mkdir()
    (made / "model" / "model_index.json").write_text("{}")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("image.png")
    os.mkfifo("pipe")
    yield made
    os.chdir(before)


@pytest.fixture(scope="module")
def used(folder):
    """(bytes of a file) -> the error of each of its users, or None; `make` is what makes the picture again."""
    patch = pytest.MonkeyPatch()
    patch.setattr(text_to_image, "load", lambda folder, **how: MODEL)
    patch.setattr(png, "checksum", lambda name, real=png.checksum: real(name) and CHECKSUM)
    patch.setattr(model_index, "fingerprint", lambda folder: CHECKSUM)

    def use(content, make=lambda model, request: np.zeros((request.number, 8, 8, 3), np.uint8)):
        patch.setattr(jobs, "results", lambda *both: Results(make(*both)))
        path = pathlib.Path("fuzzed.png")
        path.write_bytes(content)
        errors = []
        for user, where in ((read_file, (PageRequest(), folder)), (from_prompt.again, (str(folder / "out"),))):
            try:
                user(path, *where)
            except (ValueError, FileNotFoundError) as error:
                assert 0 < len(str(error)) < 2000
                errors.append(error)
            else:
                errors.append(None)
        for made in (folder / "out").glob("*"):
            made.unlink()
        return errors

    yield use
    patch.undo()


def test_sound_settings_are_taken(used):
    assert used(holding(spelled(json.dumps(SOUND), random.Random(0)))) == [None, None]


def test_every_setting_that_is_written_is_read_back(used, folder):
    """With its type; and a request comes back from the file of its last picture."""
    source = png.model("model", "float32", {}) | {"format": png.FORMAT}
    request = Request(
        prompts="a cat", seeds=[1, 2, 3], batch_size=2, steps=4, guidance=2, image="image.png", mask="image.png"
    )
    about = png.records(request, source)[2]
    pictures.write("written.png", np.zeros((8, 8, 3), np.uint8), about)
    read = png.read("written.png")
    assert read.keys() == about.keys() and png.is_complete(read)
    assert (read["seed"], read["seeds"], read["at"], read["guidance"]) == (3, [3], 0, 2.0)
    assert png.request(read, Request()) == dataclasses.replace(request, seeds=(3,))


@pytest.mark.parametrize("name", sorted(SOUND))
def test_a_file_that_lacks_a_setting_is_not_made_again(used, name):
    """But for those that the first files did not have, and the class, which is a trained run's."""
    about = {key: value for key, value in SOUND.items() if key != name}
    _, error = used(holding(spelled(json.dumps(about), random.Random(0))))
    older = ("tile", "resamplings", "label")
    assert error is None if name in older else "are in another format than this version writes (1)" in str(error)


@pytest.mark.parametrize("wrong, message", [
    ({"steps": "4"}, "steps = '4'. Valid: a whole number"),
    ({"steps": 1_000_000}, "steps = 1000000. Valid: .* at most 1000"),
    ({"margins": [40_000, 0, 70_000, 0]}, r"margins = \[40000, 0, 70000, 0\]. Valid: .* at most 65536"),
    ({"seeds": {"0": 1}}, "seeds = .*. Valid: a list of 1 to 4096"),
    ({"files": []}, "files = .*. Valid: a table of at most 200 fields"),
    ({"versions": {"jax": 1}}, 'versions = {"jax": 1}. Valid: .* each a text'),
    ({"dtype": "float8"}, "dtype = 'float8'. Valid: one of float32, bfloat16"),
    ({"windows": 1}, "windows = 1. Valid: true or false"),
    ({"at": 2}, r"name picture 2 of a batch, but only 2 seeds\. Valid: 0 \.\. 1"),
    ({"prompt": "x" * 20_001}, r"prompt = .*. Valid: a text of at most 20000 letters"),
    ({"guidance": float("nan")}, "guidance = nan. Valid: a number"),
    ({"image": "pipe"}, "pipe: there is no such file"),
    ({"model": "/"}, r"made fuzzed\.png, is no folder with model_index\.json\. Name its folder by --model"),
])  # fmt: skip
def test_settings_of_another_kind_are_refused_in_words(used, wrong, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        raise used(holding(spelled(json.dumps(SOUND | wrong), random.Random(0))))[1]


@pytest.mark.extended
@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_fuzzed_settings_end_in_a_sentence(used, draw):
    used(fuzzed(draw))


def taken(call):
    """(seconds of processor time, bytes of memory beyond what was held) of a call."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    words = lambda: dict(line.split(":") for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    before = int(words()["VmRSS"].split()[0])
    began = time.process_time()
    call()
    return time.process_time() - began, (int(words()["VmHWM"].split()[0]) - before) * 1024


REAL_RESULTS = jobs.results  # tests replace it by stand-ins


class Reached(Exception):
    """All settings are taken."""


def reached(*_, **__):
    raise Reached


@pytest.mark.slow
def test_five_thousand_fuzzed_files_take_little(used, folder, tmp_path_factory):
    """Down to the point at which the model would begin; at most 2 s and 200 MB each."""
    warnings.simplefilter("ignore")
    model = load(made_pipelines.folder("sd", tmp_path_factory.mktemp("sd") / "model"))  # not the stand-in of `used`
    kind = model.kind._replace(prompts=model.kind.prompts._replace(condition=reached))
    model = dataclasses.replace(model, kind=kind)
    counted = []

    def make(_, request):
        try:
            return REAL_RESULTS(model, request).pictures
        except Reached:
            counted.append(request)
            return np.zeros((request.number, 8, 8, 3), np.uint8)

    used(fuzzed(random.Random(0)), make)
    most = (0.0, 0)
    for seed in range(5000):
        content = fuzzed(random.Random(seed))
        seconds, memory = taken(lambda content=content: used(content, make))
        assert seconds < 2 and memory < 200e6, (seed, seconds, memory)
        most = max(most[0], seconds), max(most[1], memory)
    print(f"\n5,000 files: at most {most[0]:.2f} s and {most[1] / 1e6:.0f} MB; {len(counted)} were sound settings")
    assert len(counted) > 500


def test_a_picture_of_elsewhere_is_refused_for_one_reason(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"^\S*a\.png carries no settings: this program did not write it"):
        png.read(tmp_path / "a.png")

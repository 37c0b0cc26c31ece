"""The report of a text-to-image model on the shapes: a model that draws real pictures, a judge who knows them."""

import json
import types

import numpy as np
import pytest

from diffusion.data import shapes
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import Lot, Scene
from diffusion.metrics import attribute_reader
from diffusion.metrics.attribute_reader import Reader
from diffusion.recipe import ConfigError
from diffusion.text_to_image import model_index
from examples.text import judge, report as text_report, shape_questions
from examples.text.report import Settings
from tests import commands

MODEL = types.SimpleNamespace(side=64)


@pytest.fixture
def painted(monkeypatch, tmp_path):
    """A model whose pictures are right below a guidance of 5, and of another colour above it."""
    table = {}

    def made(model, settings, prompts, seeds, guidance, negative):
        images = []
        for text, seed in zip(prompts, seeds):
            lot = Lot(int(seed), 9, 0)
            scene = shape_questions.completed(scenes.parsed(text), lot)
            if guidance > 5:
                scene = scene._replace(colour="pink" if scene.colour == "red" else "red")
            images.append(drawing.draw(scene, lot))
            table[images[-1].tobytes()] = judge.facing(scene)
        return np.stack(images)

    def seen(reader, images):
        return [table.get(image.tobytes(), Scene("none", "", "")) for image in images]

    sizes = {"train": 60, "validation": 20, "test": 40, "withheld": 20}
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "SIZES", sizes)
    for split, number in sizes.items():
        table |= {
            image.tobytes(): judge.facing(scene)
            for image, _, scene in (shapes.example(split, place) for place in range(number))
        }
    monkeypatch.setattr(text_report, "_make", made)
    monkeypatch.setattr(judge, "reader", lambda: Reader({}, {}, ""))
    monkeypatch.setattr(judge, "read_scenes", seen)
    sparse = lambda _, images: images[:, 8::16, 8::16, 0].reshape(-1, 16) / 255
    monkeypatch.setattr(attribute_reader, "features", sparse)
    monkeypatch.setattr(model_index, "fingerprint", lambda folder: "0" * 64)


@pytest.mark.slow
def test_a_report_of_a_model_that_is_right(painted, tmp_path):
    parts = ("sweep", "prompts", "geneval", "negative", "distances")
    settings = Settings(number=20, scales=(1.0, 3.0, 9.0), parts=parts)
    content = text_report.run(MODEL, tmp_path / "model", tmp_path / "out", settings)
    assert content == json.loads((tmp_path / "out" / "report.json").read_text())
    figures = content["figures"]
    assert figures["guidance"] == 1.0  # as right as 3, and more varied or as much
    assert [row["scores"]["attributes"]["share"] == 1 for row in figures["sweep"]] == [True, True, False]
    assert figures["judge"]["test"]["attributes"]["share"] == 1
    for split in ("test", "withheld"):
        assert figures["prompts"][split]["attributes"]["share"] == figures["prompts"][split]["pictures"]["share"] == 1
        assert {name: share["share"] for name, share in figures["templates"][split].items()}.keys() >= {"all", "whole"}
        assert {share["share"] for share in figures["templates"][split].values()} == {1.0}
        assert {share["share"] for share in figures["drawings"][split].values()} == {1.0}
    assert figures["negative"]["colour"]["before"] == figures["negative"]["colour"]["after"]  # it is not listened to
    assert figures["copies"]["samples"]["exact_duplicates"] == 0
    assert {part["seen"]["share"] for part in figures["geneval"].values()} == {1.0}
    assert figures["geneval"]["counting"]["corrected"] is None  # this judge knows no other pictures
    text = (tmp_path / "out" / "report.md").read_text()
    assert "requested attributes that are right, withheld combinations | **100.0%" in text
    assert "templates: its overlap is above 0.85, trained combinations | **100.0%" in text
    assert figures["refused"]["blob"]["share"] == 1 == figures["refused"]["real"]["share"]  # it knows the splits alone
    assert "the judge says none of the eight, of blurred drawings | **100.0%" in text
    assert "GenEval: counting | **100.0%" in text and "does not tell right from wrong" in text
    for picture in ("guidance", "guidance_rows", "variety", "test", "withheld"):
        assert f"({picture}.png)" in text and (tmp_path / "out" / f"{picture}.png").is_file()


def test_a_model_of_other_pictures_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="makes pictures of 16 pixels, but the judge reads only pictures of 64"):
        text_report.run(types.SimpleNamespace(side=16), tmp_path / "model", tmp_path, Settings())


@pytest.mark.slow
def test_mistakes_of_the_command_line_are_sentences(tmp_path):
    flags = ["-m", "examples.text.report", f"--model={tmp_path}", f"--out={tmp_path / 'out'}"]
    for more, message in (
        ([], "model_index.json does not exist. A text-to-image model is a folder"),
        (["--parts=swep"], "sweep"),
        (["--scales=1,two"], "Valid: numbers separated by commas, such as 1,2,4"),
    ):
        done = commands.run(*flags, *more)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr

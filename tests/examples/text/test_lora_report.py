"""The report of a few-step LoRA: drawings of the captions are right, varied and near; those of one caption are not."""

import types

import numpy as np
import pytest

from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import Lot
from diffusion.metrics import attribute_reader
from diffusion.metrics.attribute_reader import Reader
from examples.text import judge, lora_report, shape_questions

NUMBER = 16


@pytest.fixture
def measured(monkeypatch):
    """(captions that the pictures are drawn of) -> the figures, by a judge that knows each picture."""
    table = {}

    def generate(model, prompts, seeds, batch_size, steps):
        assert steps == 4
        images = []
        for text, seed in zip(model.reads(prompts), seeds):
            lot = Lot(int(seed), 9, 0)
            scene = shape_questions.completed(scenes.parsed(text), lot)
            images.append(drawing.draw(scene, lot))
            table[images[-1].tobytes()] = judge.facing(scene)
        return np.stack(images)

    sparse = lambda _, images: images[:, 8::16, 8::16, 0].reshape(-1, 16) / 255
    monkeypatch.setattr(attribute_reader, "features", sparse)
    monkeypatch.setattr(judge, "read_scenes", lambda _, images: [table[image.tobytes()] for image in images])
    monkeypatch.setattr(lora_report.text_to_image, "generate", generate)
    monkeypatch.setattr(lora_report, "NEW", 40)
    model = lambda reads: types.SimpleNamespace(reads=reads)
    return lambda reads: lora_report.measured(model(reads), Reader({}, {}, ""), NUMBER, steps=4)[0]


def test_the_figures_are_those_of_the_captions(measured):
    right = measured(lambda prompts: prompts)
    blind = measured(lambda prompts: ["a large red star in the middle"] * len(prompts))
    assert right["attributes"] == 1 > blind["attributes"]
    assert blind["fd_judge"] > right["fd_judge"] > 0 and right["floor_judge"] > 0
    assert right["variety"] > 0.5 and blind["variety"] < right["variety"]


def test_the_table_divides_by_the_base_at_its_most_steps():
    row = lambda name, steps, distance: {
        "name": name,
        "steps": steps,
        "fd_judge": distance,
        "attributes": 0.912,
        "variety": 0.9,
    }
    rows = [row("LoRA", 4, 260.0), row("base", 50, 200.0), row("base", 8, 210.0)]
    lines = lora_report.table(rows).splitlines()[2:]
    assert [line.split("|")[3].strip() for line in lines] == ["260 (1.30)", "200 (1.00)", "210 (1.05)"]
    assert all("91.2 % | 0.90" in line for line in lines)

"""The report by templates: what it asks, and its figures of pictures that are right and of pictures that are not."""

import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.data.shapes import drawing, scenes
from examples.text import prompt_metrics, template_report


@pytest.mark.extended
@pytest.mark.parametrize("kind", template_report.FIRST_SEEDS)
def test_captions_are_of_their_kind_and_have_real_pictures_beside(kind):
    texts, pictures = template_report.captions(kind, 24)
    shown = [scenes.parsed(text) for text in texts]
    assert pictures.shape == (24, 64, 64, 3) and len(shown) == 24
    assert {scene.kind == "word" for scene in shown} == {kind in ("seen", "unseen")}
    assert kind != "pairs" or {scene.kind for scene in shown} == {"pair"}
    if kind in ("seen", "unseen"):
        assert {scene.word in scenes.WITHHELD_WORDS for scene in shown} == {kind == "unseen"}
        assert len({(scene.word, scene.colour) for scene in shown}) == 24
    score = prompt_metrics.by_templates(texts, pictures)
    assert {share["share"] for share in score.values()} == {1.0}


@pytest.mark.extended
def test_the_report_has_every_kind_beside_real_pictures(tmp_path, monkeypatch):
    """A stand-in for a model paints what is asked, but each pair in one colour."""

    def paint(model, texts, seeds, steps):
        assert model is None and steps == 3 and len(seeds) == len(texts)
        pictures = []
        for seed, text in zip(seeds, texts):
            lot = scenes.Lot(1, 0, seed)
            scene = scenes.completed(scenes.parsed(text), lot)
            if scene.kind == "pair":
                scene = scene._replace(colour=scene.second_colour)
            pictures.append(drawing.draw(scene, lot))
        return np.stack(pictures)

    monkeypatch.setattr(text_to_image, "generate", paint)
    content = template_report.run(None, tmp_path, 8, {"model": "stand-in"}, steps=3)
    figures = content["figures"]
    assert figures["templates"].keys() == figures["drawings"].keys() == template_report.FIRST_SEEDS.keys()
    assert figures["templates"]["pairs"]["colour"]["share"] == 0
    assert figures["templates"]["unseen"]["word"]["share"] == 1
    text = (tmp_path / "report.md").read_text()
    assert "pairs: 90% of the pixels in the requested colour | **0.0%" in text and "unseen.png" in text

"""Scores of pictures by a small CLIP with made weights: each is that of its own picture and prompt."""

import contextlib
import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion import text
from diffusion.experiments import prompt_scores
from diffusion.experiments.evaluation import report
from diffusion.io import pictures
from diffusion.metrics import bootstrap
from diffusion.metrics.picture_scores import Scorer, Source
from diffusion.metrics.prompt_following import clustered
from diffusion.models import interchange
from diffusion.models.text_encoders.clip import CLIP, CLIPText, CLIPVision, normalised
from diffusion.recipe import ConfigError
from tests import commands
from tests.drawn_parameters import drawn as parameters
from tests.text import vocabularies

PROMPTS = ["a cat", "the red car on a hill", "bad", "a cat"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(the folder of a CLIPModel, its module, its parameters)."""
    folder = vocabularies.folder_of(tmp_path_factory.mktemp("clip") / "tiny", "clip")
    vocabulary = len(json.loads((folder / "vocab.json").read_text()))
    towers = (
        CLIPText(vocabulary=vocabulary, width=16, depth=1, heads=2, hidden=32),
        CLIPVision(size=16, patch=8, width=16, depth=1, heads=2, hidden=32),
    )
    module = CLIP(*towers, features=12)
    ids = text.Tokenizer.open(folder)(["a"]).ids
    params = parameters(module.init, ids, np.zeros((1, 16, 16, 3)))["params"]
    interchange.save(folder, module, params)
    return folder, module, params


def drawn(folder, seed, prompts=PROMPTS, size=(24, 20)):
    """A folder of random pictures with their prompts."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i, prompt in enumerate(prompts):
        pictures.write(folder / f"{i}.png", rng.integers(0, 256, (*size, 3), np.uint8), {"prompt": prompt})
    return folder


@pytest.mark.extended
def test_each_picture_has_the_cosine_of_its_own_prompt(clip, tmp_path):
    folder, module, params = clip
    scorer = prompt_scores.scorer_of("clip", Source(str(folder)))
    places = [drawn(tmp_path / "a", 1), drawn(tmp_path / "b", 2, PROMPTS[::-1][:3])]
    sets = [prompt_scores.opened(str(place), None) for place in places]
    record, columns = prompt_scores.scored(scorer, sets, batch_size=3)
    cosines = [each["cosine"] for each in columns]
    tokens = text.Tokenizer.open(folder)
    pair = jax.jit(lambda ids, image: module.apply({"params": params}, ids, normalised(image)))
    for place, prompts, found in zip(places, (PROMPTS, PROMPTS[::-1][:3]), cosines):
        assert len(found) == len(prompts)
        for i, prompt in enumerate(prompts):
            image = Image.open(place / f"{i}.png").resize((16, 19), Image.Resampling.BICUBIC).crop((0, 1, 16, 17))
            words, picture, _ = pair(tokens([prompt]).ids, np.asarray(image)[None])
            assert found[i] == pytest.approx(float((words * picture).sum()), abs=2e-6)
    figures = record["sets"][str(places[0])]
    scale = float(np.exp(params["logit_scale"]))
    assert figures["clip_score"]["value"] == pytest.approx(100 * np.maximum(cosines[0], 0).mean(), rel=1e-5)
    assert figures["score"]["value"] == pytest.approx(scale * cosines[0].mean(), rel=1e-6)
    (met,) = record["pairs"]  # a cat 0 with 0, a cat 3 with none left, the red car 1 with 2, bad 2 with 1
    here, there = cosines[0][[0, 1, 2]], cosines[1][[0, 2, 1]]
    assert met["higher"]["share"] == (here > there).mean() and met["higher"]["count"] == 3
    expected = np.mean(1 / (1 + np.exp(scale * (there - here))))
    assert met["preferred"]["value"] == pytest.approx(expected, rel=1e-6)


def test_a_share_counts_the_pictures_of_a_prompt_as_they_agree():
    """One a prompt: Wilson's interval of them; alike within a prompt: that of the prompts; also where all are right."""
    right = [True, False, True, True]
    alone = clustered.share(right, "abcd")
    assert alone["interval"] == pytest.approx(bootstrap.wilson_interval(3, 4))
    alike = clustered.share(np.repeat(right, 5), np.repeat([*"abcd"], 5))
    assert alike["interval"] == pytest.approx(bootstrap.wilson_interval(3, 4))
    assert (alike["share"], alike["count"], alike["prompts"]) == (0.75, 20, 4)
    all_right = clustered.share([True] * 8, [*"aabbccdd"])
    assert all_right["interval"] == pytest.approx(bootstrap.wilson_interval(4, 4))
    between = clustered.share([True, False] * 4, [*"aabbccdd"])  # each prompt has one of both
    assert between["interval"] == pytest.approx(bootstrap.wilson_interval(2, 4))
    unlike = clustered.share([True, False] * 3 + [True, True], [*"aabbccdd"])
    # s^2 = 4/3 (3 (1/4)^2 + (3/4)^2) / 8^2 = 1/64, so that 4/3 p (1 - p) / s^2 = 20: more pictures than there are
    assert unlike["interval"] == pytest.approx(bootstrap.wilson_interval(5, 8))


def test_a_tie_counts_half_for_either_set(tmp_path):
    """A tie counted for the second set alone: two equal sets had 0 and 100 %."""
    values = lambda seen, prompts: {"score": np.array([picture[0, 0, 0] > 127 for picture in seen], float)}
    scorer = Scorer(values, {"score": "made"}, {}, choice=None, compiled=False)
    sets = []
    for name, grey in (("a", (0, 255, 255, 0)), ("b", (0, 255, 0, 0))):
        (tmp_path / name).mkdir()
        for i, level in enumerate(grey):
            pictures.write(tmp_path / name / f"{i}.png", np.full((2, 2, 3), level, np.uint8), {"prompt": str(i)})
        sets.append(prompt_scores.opened(str(tmp_path / name), None))
    (pair,) = prompt_scores.scored(scorer, sets)[0]["pairs"]
    assert pair["higher"]["share"] == (1 + 3 / 2) / 4
    (pair,) = prompt_scores.scored(scorer, sets[::-1])[0]["pairs"]
    assert pair["higher"]["share"] == (3 / 2) / 4


def test_pictures_of_equal_prompts_are_compared_in_whichever_order_they_lie(tmp_path):
    """The first set is brighter for both prompts: 10 above 5, and 200 above 100."""
    values = lambda seen, prompts: {"score": np.array([float(picture[0, 0, 0]) for picture in seen])}
    scorer = Scorer(values, {"score": "made"}, {}, choice=None, compiled=False)
    sets = []
    for name, greys in (("a", {"cat": 10, "dog": 200}), ("b", {"dog": 100, "cat": 5})):
        (tmp_path / name).mkdir()
        for i, (prompt, grey) in enumerate(greys.items()):
            pictures.write(tmp_path / name / f"{i}.png", np.full((2, 2, 3), grey, np.uint8), {"prompt": prompt})
        sets.append(prompt_scores.opened(str(tmp_path / name), None))
    (pair,) = prompt_scores.scored(scorer, sets)[0]["pairs"]
    assert pair["higher"]["share"] == 1


def test_the_pictures_of_a_prompt_are_one_draw(tmp_path, monkeypatch):
    """Four pictures of each of two prompts, alike within a prompt, have the error of two draws."""
    reported = []

    @contextlib.contextmanager
    def bar(*about):
        yield reported.append

    monkeypatch.setattr(prompt_scores.progress, "bar", bar)
    values = lambda seen, prompts: {"score": np.array([float(prompt) for prompt in prompts])}
    scorer = Scorer(values, {"score": "made"}, {}, choice=1.0, compiled=False)
    sets = [
        prompt_scores.opened(str(drawn(tmp_path / name, seed, ["0"] * 4 + ["1"] * 4, (2, 2))), None)
        for seed, name in enumerate("ab")
    ]
    record, _ = prompt_scores.scored(scorer, sets, batch_size=3)
    expected = {"value": 0.5, "standard_error": pytest.approx(0.5), "samples": 8, "prompts": 2}
    assert record["sets"][str(tmp_path / "a")]["score"] == expected
    assert record["pairs"][0]["preferred"] == {"value": 0.5, "standard_error": 0.0, "samples": 8, "prompts": 2}
    assert report.with_error(record["pairs"][0]["preferred"]) == "0.5 ± 0"
    assert report.with_error({"value": 0.5, "standard_error": None}) == "0.5"
    assert reported == [3, 6, 8] * 2  # of 8 pictures


@pytest.mark.slow
def test_the_command_scores_pictures_of_others_by_a_file_of_prompts(clip, tmp_path):
    np.savez(tmp_path / "theirs.npz", images=np.zeros((2, 16, 16, 3), np.uint8))
    (tmp_path / "prompts.txt").write_text("a cat\nbad\n")
    flags = [f"--clip={clip[0]}", f"--images={tmp_path / 'theirs.npz'}", f"--prompts={tmp_path / 'prompts.txt'}"]
    done = commands.run("diffusion", "prompt_scores", *flags, f"--out={tmp_path / 'out'}")
    assert done.returncode == 0 and "CLIP score" in done.stdout, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "prompt_scores.csv").open()))
    assert [row["prompt"] for row in rows] == ["a cat", "bad"] and rows[0]["cosine"] != rows[1]["cosine"]
    record = json.loads((tmp_path / "out" / "prompt_scores.json").read_text())
    assert (
        len(record["weights"]["sha256"]) == 64 and record["sets"][str(tmp_path / "theirs.npz")]["score"]["samples"] == 2
    )


@pytest.mark.extended
def test_bad_input_is_one_sentence(clip, tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="not every picture carries a prompt"):
        prompt_scores.opened(str(tmp_path / "bare.npz"), None)
    with pytest.raises(ConfigError, match=r"--prompts has 1 lines, but .*bare\.npz has 2 pictures"):
        prompt_scores.opened(str(tmp_path / "bare.npz"), ["one"])
    with pytest.raises(ConfigError, match=r"--weights=.*nothing"):
        prompt_scores.scorer_of("clip", Source(str(tmp_path / "nothing")))
    tower = CLIPVision(size=8, patch=4, width=8, depth=1, heads=2, hidden=12)
    params = parameters(tower.init, np.zeros((1, 8, 8, 3)))["params"]
    interchange.save(tmp_path / "tower", tower, params)
    with pytest.raises(ConfigError, match=r"it holds a CLIPVision\. Valid: the folder of a CLIPModel"):
        prompt_scores.scorer_of("clip", Source(str(tmp_path / "tower")))
    with pytest.raises(ConfigError, match=r"--score: unknown score 'hps'\. Did you mean 'hpsv2'"):
        prompt_scores.scorer_of("hps", Source())
    with pytest.raises(ConfigError, match=r"--answerer: unknown function.*'mine'"):
        prompt_scores.scorer_of("vqascore", Source(), "mine")


ANSWERER = """
import numpy as np
from diffusion.recipe import names


def brightness():
    def answer(pictures, questions, answers):
        sun = [0.5 * ("the sun" in question) for question in questions]
        return np.log([picture.mean() / 510 + more + 1e-9 for picture, more in zip(pictures, sun)])

    return answer


names.add(names.ANSWER_LIKELIHOODS, brightness)
"""


@pytest.mark.slow
def test_a_function_of_ones_own_answers_questions(tmp_path):
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 51, 255)])
    np.savez(tmp_path / "theirs.npz", images=images)
    (tmp_path / "prompts.txt").write_text("a cat\nthe sun\na cat\n")
    (tmp_path / "mine.py").write_text(ANSWERER)
    flags = [f"--images={tmp_path / 'theirs.npz'}", f"--prompts={tmp_path / 'prompts.txt'}", "--batch_size=2"]
    flags += ["--score=vqascore", f"--extend={tmp_path / 'mine.py'}", "--answerer=brightness"]
    done = commands.run("diffusion", "prompt_scores", *flags, f"--out={tmp_path / 'out'}")
    assert done.returncode == 0 and "VQAScore" in done.stdout, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "prompt_scores.csv").open()))
    assert [float(row["score"]) for row in rows] == pytest.approx([0, 0.6, 0.5], abs=1e-6)
    record = json.loads((tmp_path / "out" / "prompt_scores.json").read_text())
    (figures,) = record["sets"].values()
    assert figures["score"]["value"] == pytest.approx(1.1 / 3) and figures["score"]["samples"] == 3
    assert record["protocol"]["question"].startswith("Does this figure show") and record["answerer"] == "brightness"

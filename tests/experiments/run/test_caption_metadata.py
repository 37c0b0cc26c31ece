"""The facts of captions that a reward reads: computed once for each caption, in each record, and what is refused."""

import types

import numpy as np
import pytest

from configs import digits
from diffusion import objectives
from diffusion.data import captions, pipeline
from diffusion.data.sources import sequences
from diffusion.experiments.run import caption_metadata, examples
from diffusion.recipe import ConfigError, checks, names
from tests.experiments.run.made_tuning import pictures

TEXTS = ["two cats", "a dog", "two cats"]


def recipe_of(metadata):
    return types.SimpleNamespace(objective=types.SimpleNamespace(beside=types.SimpleNamespace(metadata=metadata)))


def records(number):
    return sequences.Records([{"x": np.zeros(2)} for _ in range(number)])


def test_each_caption_is_read_once_beside_the_empty_one_and_each_record_has_its_facts():
    read = []

    def facts(text):
        read.append(text)
        return {"count": 2 if text.startswith("two") else len(text), "letters": np.zeros(3) + len(text)}

    source = caption_metadata.with_metadata(recipe_of(facts), records(3), lambda: TEXTS)
    assert read.count("two cats") == read.count("a dog") == 1
    found = [source[row]["metadata"] for row in range(3)]
    assert [int(one["count"]) for one in found] == [2, 5, 2]
    np.testing.assert_array_equal(found[1]["letters"], [5, 5, 5])
    assert {name: leaf.dtype.name for name, leaf in found[0].items()} == {"count": "int32", "letters": "float32"}


def test_without_such_a_reward_no_caption_is_read():
    source = records(2)
    assert caption_metadata.with_metadata(recipe_of(None), source, lambda: pytest.fail("read")) is source
    assert caption_metadata.facts_of(recipe_of(None), "") == {}


@pytest.mark.parametrize(
    "facts, words",
    [
        (lambda text: {"count": np.zeros(len(text))}, r"of the caption 'two cats' are \{'count': 'float32 \[8\]'\}"),
        (lambda text: {"count": len(text) or 0.5}, r"the facts of the empty caption are \{'count': 'float32 \[\]'\}"),
        (lambda text: {text or "none": 0}, "Valid: one form for all captions"),
    ],
)
def test_facts_of_several_forms_are_refused(facts, words):
    with pytest.raises(ConfigError, match=words):
        caption_metadata.with_metadata(recipe_of(facts), records(3), lambda: TEXTS)


def test_records_without_captions_and_streams_are_refused():
    def none():
        raise ValueError("made has no captions.")

    with pytest.raises(ConfigError, match=r"its reward reads captions\. made has no captions"):
        caption_metadata.with_metadata(recipe_of(lambda text: {"n": 0}), records(1), none)
    stream = object.__new__(captions.CaptionedStream)
    stream.spec = types.SimpleNamespace(name="made")
    with pytest.raises(ConfigError, match=r"its reward reads captions, but made is a stream\. Valid: data that can be"):
        caption_metadata.with_metadata(recipe_of(lambda text: {"n": 0}), stream, none)


def test_a_run_of_pictures_with_captions_has_them_in_its_batches(tmp_path, monkeypatch):
    """Whose network receives no text at all."""
    folder = pictures(tmp_path / "pictures", side=8)
    for row in range(5):
        (folder / f"{row}.txt").write_text("a" * (row + 1))
    reward = objectives.CaptionReward(lambda x, condition, facts: facts["n"], lambda text: {"n": len(text)})
    monkeypatch.setitem(names.REWARDS, "long", lambda: reward)
    config = digits.get_config("tiny")
    config.model.num_classes = 0
    config.sample.guidance.scale = 1.0
    config.data.source = {"name": "picture_folder", "path": str(folder)}
    config.objective = {"name": "policy_gradient", "reward": {"name": "long"}, "group": 4}
    recipe = checks.validate(config)
    opened = examples.open_examples(recipe)
    batch = next(pipeline.batches(opened.source, opened.spec, seed=0, batch_size=5, threads=0))
    assert sorted(batch["metadata"]["n"]) == [1, 2, 3, 4, 5] and "condition" not in batch

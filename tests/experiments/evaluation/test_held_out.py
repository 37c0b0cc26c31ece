"""Records that were trained on are counted, and a figure that calls them held out is refused or says so."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from configs import digits
from diffusion.data.sources import python_objects
from diffusion.experiments import evaluate, train
from diffusion.experiments.evaluation import held_out, real_images, run_report, sample_metrics
from diffusion.experiments.run import training_evaluation
from diffusion.io.files import write_text
from diffusion.metrics import classifier
from diffusion.recipe import ConfigError, Recipe, data
from diffusion.recipe.sections import sectioned
from tests.experiments.run.test_every_source import config_of

QUICK = sample_metrics.Effort(0, 2)


def config_with(**changes):
    config = digits.get_config("tiny")
    config.update_from_flattened_dict({"evaluate.features": ("pixels",), **changes})
    return config


def required(**changes):
    config = config_with(**changes)
    return held_out.require(config, *real_images.splits_of(config))


def at_start(config):
    recipe = Recipe.from_config(config, (8, 8, 1))
    return held_out.at_start(recipe, data.open_recipe(recipe))


@pytest.fixture
def copied(tmp_path):
    """A folder whose test pictures are copies of 4 of the 6 training pictures."""
    for split, numbers in (("train", range(6)), ("test", range(2, 6))):
        (tmp_path / split).mkdir()
        for number in numbers:
            Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(tmp_path / split / f"{number}.png")
    return {"name": "picture_folder", "path": str(tmp_path)}


def test_a_run_whose_data_have_changed_is_not_evaluated_on_parts_of_them(copied, monkeypatch):
    """A picture more in a folder moved trained ones into the part that was held out, which shared none by its rows."""
    config = config_with(**{"data.source": copied, "data.split": "train[:50%]"})
    source = data.source(config, "train[:50%]")
    about = {"data": source.fingerprint() | {"pixels": "viewed"}}
    monkeypatch.setattr(held_out.checkpoints, "steps", lambda folder: [1, 2])
    monkeypatch.setattr(held_out.checkpoints, "read_about", lambda folder, step: about if step == 2 else {})
    held_out.require_trained_data(config, "run")
    path = f"{copied['path']}/train"
    Image.new("RGB", (8, 8)).save(f"{path}/00.png")
    Image.new("RGB", (8, 8)).save(f"{path}/01.png")
    with pytest.raises(ConfigError, match=r"since run was trained on them \(records 3 -> 4; sha256 .*may now count as"):
        held_out.require_trained_data(config, "run")
    accepted = config_with(**{"data.source": copied, "data.split": "train[:50%]", "data.changed": "accept"})
    held_out.require_trained_data(accepted, "run")
    about.clear()  # an earlier version noted none
    held_out.require_trained_data(config, "run")


def test_a_changed_part_of_a_mixture_is_a_change_of_its_data(copied, monkeypatch):
    """The mixture has as many records as before, and its own fingerprint names its parts' alone."""
    config = config_with(**{"data.source": {"name": "mixture", "of": (copied, copied)}})
    about = {"data": json.loads(json.dumps(data.source(config, "train").fingerprint()))}
    monkeypatch.setattr(held_out.checkpoints, "steps", lambda folder: [1])
    monkeypatch.setattr(held_out.checkpoints, "read_about", lambda folder, step: about)
    held_out.require_trained_data(config, "run")
    Image.fromarray(np.full((8, 8, 3), 250, np.uint8)).save(f"{copied['path']}/train/0.png")
    with pytest.raises(ConfigError, match="the data have changed since run was trained on them"):
        held_out.require_trained_data(config, "run")


@pytest.mark.parametrize("split, words", [("train", "1,258 of the 1,258"), ("train[50%:]", "629 of the 629"),
                                          ("train[:9]+test", "9 of the 368")])  # fmt: skip
def test_a_split_with_records_of_the_training_is_refused(split, words):
    with pytest.raises(
        ConfigError, match=rf"^{words} records of .* are among those of 'train', which the model is trained on"
    ):
        required(**{"evaluate.split": split})
    count, of = map(int, words.replace(",", "").replace(" of the ", " ").split())
    accepted = required(**{"evaluate.split": split, "evaluate.overlap": "accept"})
    assert accepted == (count, of)


@pytest.mark.parametrize("train_split, split", [("train", "test"), ("train[:50%]", "train[50%:]"), ("test", "train")])
def test_disjoint_splits_pass(train_split, split):
    assert required(**{"data.split": train_split, "evaluate.split": split}).count == 0


def test_copies_of_training_pictures_are_trained_on_whatever_split_they_lie_in(copied):
    config = config_of(copied)
    with pytest.raises(ConfigError, match="4 of the 4 records"):
        held_out.require(config, *real_images.splits_of(config))


def test_parts_of_alike_pictures_are_not_refused(copied):
    """Two training pictures that look alike are two records: numbers decide where there are numbers."""
    config = config_of(copied, **{"data.split": "train[:50%]", "evaluate.split": "train[50%:]"})
    assert held_out.require(config, *real_images.splits_of(config)) == (0, 3)


def test_records_of_ones_own_are_compared_by_content():
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    read = lambda rows, name: real_images._read(
        python_objects.source_of([{"x": row} for row in rows], split=name), "stop", ()
    )
    with pytest.raises(ConfigError, match=r"^2 of the 5 records of 'held'"):
        held_out.require(config_with(), read(x[:6], "train"), read(x[4:], "held"))


def test_what_earlier_runs_were_trained_on_counts(tmp_path):
    """A run that begins with the weights of another has seen its records, through any number of runs."""
    folders = [tmp_path / name for name in "abc"]
    for folder, split, before in zip(folders, ("train[50%:]", "test", "test"), ("", folders[0], folders[1])):
        folder.mkdir()
        saved = config_with(**{"data.split": split, "init_from.path": str(before)})
        write_text(folder / "config.json", json.dumps(saved.to_dict()))
    later = {"data.split": "train[:50%]", "evaluate.split": "train[90%:]"}
    assert required(**later).count == 0
    for field in ("init_from.path", "teacher.path"):
        with pytest.raises(ConfigError, match=r"126 of the 126 records .* are among those of 'train\[50%:\]'"):
            required(**later, **{field: str(folders[2])})
    assert required(**later, **{"init_from.path": str(tmp_path / "gone")}).count == 0


def test_of_several_trainings_the_one_with_the_most_shared_records_counts(tmp_path):
    """Of the 1,258 records a tenth is trained on here, and a twentieth in an earlier run, whose own start it is too."""
    later = {"data.split": "train[:50%]", "evaluate.split": "train[40%:]", "evaluate.overlap": "accept"}
    for split, count in (("train[95%:]", 126), ("train[80%:]", 252)):
        saved = config_with(**{"data.split": split, "init_from.path": str(tmp_path)})
        write_text(tmp_path / "config.json", json.dumps(saved.to_dict()))
        assert required(**later, **{"init_from.path": str(tmp_path)}) == (count, 755)


@pytest.mark.extended
def test_a_report_is_refused_before_anything_is_measured_or_says_it(tmp_path, monkeypatch):
    config = config_with(**{"evaluate.split": "train[:60]", "evaluate.features": ("pixels", "classifier")})
    images, labels = (getattr(real_images.split_of(config, "validation"), name)[:60] for name in ("images", "labels"))
    np.savez(tmp_path / "samples.npz", images=images, labels=labels)
    monkeypatch.setattr(classifier, "cached", lambda *args, **more: pytest.fail("a classifier was trained"))
    with pytest.raises(ConfigError, match="60 of the 60 records"):
        evaluate.run(config, tmp_path, "diffusion evaluate", QUICK)
    assert not (tmp_path / "report.json").exists()
    config = config_with(**{"evaluate.split": "train[:60]", "evaluate.overlap": "accept"})
    content = evaluate.run(config, tmp_path, "diffusion evaluate", QUICK)
    assert content["figures"]["trained_on"] == {"count": 60, "of": 60}
    text = (tmp_path / "report.md").read_text()
    assert "| train[:60] records | **trained on: 60 of 60** |" in text and "held-out images" not in text
    assert "60 of 60 train[:60] images" in text  # the exact copies
    content = evaluate.run(config_with(), tmp_path, "diffusion evaluate", QUICK)
    text = run_report.markdown(content, tmp_path)
    assert "**trained on" not in text and "| test: 359, trained on: 0 |" in text


def test_the_split_of_the_training_cannot_be_changed_afterwards():
    saved = config_with()
    held_out.require_trained_split(config_with(**{"evaluate.split": "train[50%:]", "data.dir": "/elsewhere"}), saved)
    with pytest.raises(ConfigError, match=r"config.data.split = 'train\[:50%\]', but the run was trained on 'train'"):
        held_out.require_trained_split(config_with(**{"data.split": "train[:50%]"}), saved)
    nested = lambda split: config_with(
        **{"data.source": {"name": "mixture", "of": ({"name": "tfds", "dataset": "digits", "split": split},)}}
    )
    held_out.require_trained_split(nested("train"), nested("train"))
    with pytest.raises(ConfigError, match=r"'train\[:9\]', but the run was trained on 'train', 'train'"):
        held_out.require_trained_split(nested("train[:9]"), nested("train"))


def test_a_run_says_at_its_start_that_nothing_is_held_out(copied):
    assert at_start(config_with()) == ""
    assert at_start(config_with(**{"data.split": "train[:90%]", "evaluate.split": "train[90%:]"})) == ""
    said = at_start(config_with(**{"evaluate.split": "none"}))
    assert said.startswith("no records are held out (") and "has no split 'none'" in said and "'train[90%:]'" in said
    recipe = types.SimpleNamespace(makes_samples=True, data=[1], held_out=None, on_latents=False)
    assert "Recipe(held_out=records)" in held_out.at_start(recipe, None)
    recipe = types.SimpleNamespace(makes_samples=False)
    assert held_out.at_start(recipe, None) == ""


def test_a_run_on_overlapping_splits_does_not_begin_unless_it_is_accepted(tmp_path):
    overlapping = {"evaluate.split": "train[90%:]"}
    with pytest.raises(ConfigError, match="126 of the 126 records"):
        train.run(config_with(**overlapping), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    said = at_start(config_with(**overlapping, **{"evaluate.overlap": "accept"}))
    assert said == "of the records that samples are compared with, trained on: 126 of 126"


def test_a_source_that_ignores_its_split_is_known_by_its_fingerprint():
    """Records without numbers: the whole of one split is the whole of the other."""
    records = [{"x": row} for row in np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)]
    parts = {
        "makes_samples": True, "data": records, "held_out": records, "on_latents": False, "num_classes": 0,
        "config": {"evaluate": {"overlap": "stop"}},
    }  # fmt: skip
    recipe = types.SimpleNamespace(**sectioned(parts))
    with pytest.raises(held_out.Overlap, match="9 of the 9 records"):
        held_out.at_start(recipe, python_objects.source_of(records))
    others = [{"x": row["x"] + 1} for row in records]
    assert held_out.at_start(recipe, python_objects.source_of(others)) == ""


@pytest.mark.parametrize("split, expected", [("train", "validation"), ("train+validation", "test")])
def test_the_loop_compares_with_validation_where_it_is_held_out(split, expected):
    assert held_out.split_in_the_loop(config_with(**{"data.split": split})) == expected


def test_an_overlap_that_only_the_content_shows_fails_the_evaluation_and_not_the_run():
    def work():
        raise held_out.Overlap("9 of the 9 records")

    assert training_evaluation._attempt(work) == (None, "9 of the 9 records")


def test_a_reference_of_the_training_says_so():
    """An FID against the training set is usual; the report says how many of the reference were trained on."""
    config = config_with(**{"data.split": "train[:50%]"})
    assert held_out.count_in_reference(config, "digits@train") == 629
    assert held_out.count_in_reference(config, "digits@test") == 0
    assert held_out.count_in_reference(config, "reference.npz") is None


def class_folders(folder, **splits):
    for split, classes in splits.items():
        for number, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            value = 40 * number + 7 * len(split)
            Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(folder / split / name / "0.png")
    return {"name": "class_folders", "path": str(folder)}


@pytest.mark.parametrize("test, aligned", [("abc", True), ("ab", True), ("ac", False), ("abd", False), ("abcd", False)])
def test_a_split_in_which_numbers_stand_for_other_classes_is_refused(test, aligned, tmp_path):
    entry = class_folders(tmp_path, train="abc", test=test)
    config = config_of(entry)
    if aligned:
        assert held_out.require(config, *real_images.splits_of(config)).count == 0
        return
    have = f"have the classes {', '.join(test)}"
    words = rf"held-out examples, .* \(test\), {have}, but .* \(train\), have a, b, c,"
    for refused in (
        lambda: held_out.require(config, *real_images.splits_of(config)),
        lambda: held_out.at_start(Recipe.from_config(config, (8, 8, 3)), data.source(config, "train")),
    ):
        with pytest.raises(ConfigError, match=words):
            refused()
    named = config_of(entry | {"classes": ("a", "b", "c", "d")})
    train_split, real = real_images.splits_of(named)
    assert held_out.require(named, train_split, real).count == 0
    assert real.labels.tolist() == ["abcd".index(name) for name in test]

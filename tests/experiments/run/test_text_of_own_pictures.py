"""Captions of one's own pictures as the condition of a run: trained, gone on with, and sampled with a prompt."""

import io
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.data import captions
from diffusion.experiments import train
from diffusion.experiments.run.examples import open_examples
from diffusion.models.layers import conditions
from diffusion.recipe import ConfigError, checks, data, names
from diffusion.recipe.defaults import defaults
from diffusion.text import Tokenizer, byte_pairs
from diffusion.training.checkpointing import checkpoints
from diffusion.training.step import prepare
from tests.data.made import png
from tests.data.sources import stored

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Reader(nn.Module):
    """A network of a user's own, which receives the tokens of a caption, and what else the data have."""

    text_inputs = conditions.TOKENS

    @nn.compact
    def __call__(self, x, t, condition):
        said = nn.Embed(600, 4)(condition["ids"]).mean(1)
        others = [jnp.reshape(leaf, (len(t), -1)) for name, leaf in condition.items() if name not in ("ids", "mask")]
        rows = jnp.concatenate([x.reshape(len(t), -1), said, *others, t[:, None]], axis=1, dtype=jnp.float32)
        return nn.Dense(x[0].size)(rows).reshape(x.shape)


@pytest.fixture(autouse=True)
def by_name(monkeypatch, tmp_path):
    monkeypatch.setitem(names.MODELS, "reader", Reader)
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))


def drawings(folder, side=4, number=12):
    """Pictures of a colour each, with a caption, a label and a mask."""
    (folder / "masks").mkdir(parents=True)
    lines = ["file_name,caption,label,shade_file_name"]
    for k in range(number):
        name, rgb = list(COLOURS.items())[k % 3]
        (folder / f"{k}.png").write_bytes(png(np.full((side, side, 3), rgb, np.uint8) // (1 + k // 3)))
        (folder / f"masks/{k}.png").write_bytes(png(np.full((side, side), 12 * k, np.uint8)))
        lines.append(f"{k}.png,a {name} square,{name},masks/{k}.png")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return {"name": "picture_folder", "path": str(folder)}


def config_of(folder, source, **changes):
    byte_pairs.write(folder / "tokenizer", byte_pairs.learn(["a red square"], 600), 24)
    config = defaults()
    config.data.source = source
    config.data.text.tokenizer = str(folder / "tokenizer")
    config.model = {"name": "reader"}
    settings = {"train.steps": 2, "train.batch_size": 4, "checkpoint.every": 1, "data.threads": 0, "train.log_every": 1}
    config.update_from_flattened_dict(settings | changes)
    return config


def batch_of(config):
    found = open_examples(checks.validate(config)).batches(config, 0, np.arange(4), 0)
    return next(found)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["class_folders", "picture_folder", "tar_shards", "parquet", "array_records"])
def test_every_format_has_captions_as_the_condition_of_a_run(tmp_path, monkeypatch, name):
    source = stored.FORMATS[name](tmp_path / "data")
    if name == "array_records":
        source["parse"] = {"name": "with_words"}
        monkeypatch.setitem(names.PARSERS, "with_words", lambda: with_words)
    batch = batch_of(config_of(tmp_path, source))
    records = data.source(config_of(tmp_path, source), "train")
    vocabulary = Tokenizer.open(tmp_path / "tokenizer")
    expected = [f"{k}" if name == "parquet" else words(k, name) for k in range(stored.NUMBER)]
    assert sorted(captions.texts_of(records)) == sorted(expected)
    by_picture = {records[k]["image"].tobytes(): text for k, text in enumerate(captions.texts_of(records))}
    for image, ids in zip(batch["image"], batch["condition"]["ids"]):
        np.testing.assert_array_equal(ids, vocabulary([by_picture[image.tobytes()]]).ids[0])


def words(k, name):
    said = stored.NAMES[stored.LABELS[k]]
    return said if name == "class_folders" else f"a {said}"


def with_words(record):
    with np.load(io.BytesIO(record)) as arrays:
        return {name: arrays[name] for name in arrays} | {"caption": f"a {stored.NAMES[int(arrays['label'])]}"}


def test_a_caption_a_label_and_a_mask_together(tmp_path):
    source = drawings(tmp_path / "drawings") | {"condition": ("label", "shade")}
    batch = batch_of(config_of(tmp_path, source))
    assert set(batch["condition"]) == {"ids", "mask", "label", "shade"}
    records = data.source(config_of(tmp_path, source), "train")
    vocabulary = Tokenizer.open(tmp_path / "tokenizer")
    assert records.spec.classes == ("blue", "green", "red")
    for label, ids, shade in zip(batch["label"], batch["condition"]["ids"], batch["condition"]["shade"]):
        np.testing.assert_array_equal(ids, vocabulary([f"a {records.spec.classes[label]} square"]).ids[0])
        assert COLOURS[records.spec.classes[label]].index(255) == (shade[0, 0, 0] // 12) % 3
    np.testing.assert_array_equal(batch["condition"]["label"], batch["label"])


@pytest.mark.slow
def test_a_run_on_captions_goes_on_bit_for_bit(tmp_path, compilation_cache):
    source = drawings(tmp_path / "drawings") | {"condition": ("shade",)}
    assert train.run(config_of(tmp_path, source, **{"train.steps": 1}), tmp_path / "parts") == 0
    assert train.run(config_of(tmp_path, source), tmp_path / "parts") == 0
    assert train.run(config_of(tmp_path, source), tmp_path / "whole") == 0
    both = [checkpoints.load_ema(tmp_path / folder, 2)[0] for folder in ("parts", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *both)
    (tmp_path / "drawings/metadata.csv").write_text(
        (tmp_path / "drawings/metadata.csv").read_text().replace("a red square", "a pale square")
    )
    with pytest.raises(
        ConfigError, match=r"not the examples that the run has been trained on: digest of their conditions"
    ):
        train.run(config_of(tmp_path, source, **{"train.steps": 3}), tmp_path / "whole")


@pytest.mark.extended
def test_a_caption_and_what_stands_beside_it_are_dropped_together(tmp_path, compilation_cache):
    """A dropped example has the empty caption's tokens and zeros; the others have all that is theirs."""
    source = drawings(tmp_path / "drawings") | {"condition": ("label", "shade")}
    config = config_of(
        tmp_path,
        source,
        **{"objective.wrappers": ({"name": "condition_dropout", "rate": 0.5},), "train.batch_size": 12},
    )
    recipe = checks.on_its_data(checks.validate(config))
    batch = prepare(batch_of(config) | {"index": np.arange(4)})
    seen = []
    network = lambda x, t, condition: seen.append(condition) or jnp.zeros_like(x)
    recipe.objective({"model": network}, recipe.schedule, jax.random.split(jax.random.key(1), 4), batch, 0)
    empty = Tokenizer.open(tmp_path / "tokenizer")([""])
    nothing = {"ids": empty.ids[0], "mask": empty.mask[0], "label": 0, "shade": np.zeros((4, 4, 1))}
    same = lambda a, b, k: all(np.array_equal(a[name][k], b(name, k)) for name in ("ids", "mask", "label", "shade"))
    kept = [same(seen[0], lambda name, k: batch["condition"][name][k], k) for k in range(4)]
    dropped = [same(seen[0], lambda name, k: nothing[name], k) for k in range(4)]
    assert any(kept) and any(dropped) and [a != b for a, b in zip(kept, dropped)] == [True] * 4
    assert jax.tree.all(jax.tree.map(np.array_equal, recipe.examples.null, nothing))
    assert train.run(config, tmp_path / "run") == 0


def test_what_has_no_captions_says_what_it_has(tmp_path):
    source = drawings(tmp_path / "drawings")
    with pytest.raises(ConfigError, match=r"no column 'captoin' for caption; its columns are .*Did you mean 'caption'"):
        batch_of(config_of(tmp_path, source | {"caption": "captoin"}))
    with pytest.raises(ConfigError, match=r"drawings.*0\.png: its label is 2; a caption must be a text"):
        text = (tmp_path / "drawings/metadata.csv").read_text()
        for k, name in enumerate(COLOURS):
            text = text.replace(f",{name},", f",{2 - k},")
        (tmp_path / "drawings/metadata.csv").write_text(text)
        batch_of(config_of(tmp_path, source | {"caption": "label"}))
    np.savez(tmp_path / "a.npz", image=stored.PICTURES)
    with pytest.raises(
        ConfigError, match=r"a\.npz has the columns image, and none of them is called caption, .*COLUMN"
    ):
        batch_of(config_of(tmp_path, {"name": "arrays", "path": str(tmp_path / "a.npz")}))
    with pytest.raises(ConfigError, match=r"is a Records without captions|record 0 of the data has no text"):
        batch_of(config_of(tmp_path, {"name": "spirals"}))
    with pytest.raises(ConfigError, match=r'cannot hold the captions too.*e\.g\. condition = \("mask",\)'):
        batch_of(config_of(tmp_path, drawings(tmp_path / "others") | {"condition": "shade"}))


def test_a_command_names_a_source_by_its_entry(tmp_path):
    entry = json.dumps(drawings(tmp_path / "drawings"))
    assert len(data.named(f"{entry}@train")) == 12 and len(data.named(f"{entry}@train[:50%]")) == 6
    for text, words in (
        (entry, r'drawings"\} is not a dataset with its split'),
        (entry[:-3] + "@train", "--data="),
        (entry.replace("drawings", "away") + "@train", "away: there is no such folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            data.named(text)


class Receiver(nn.Module):
    """A network that receives what a text encoder made of a caption."""

    text_inputs = conditions.EMBEDDINGS

    @nn.compact
    def __call__(self, x, t, condition):
        return nn.Dense(x[0].size)(condition["text"].mean(1)).reshape(x.shape)


def test_captions_that_have_changed_since_they_were_encoded_are_refused(tmp_path, monkeypatch):
    """Another picture's caption belonged to each where a file had another name, and the old one to a mended caption."""
    monkeypatch.setitem(names.MODELS, "receiver", Receiver)
    config = config_of(tmp_path, drawings(tmp_path / "drawings"), **{"data.text.dir": str(tmp_path / "texts")})
    config.model, config.data.text.tokenizer = {"name": "receiver"}, ""
    source = data.source(config, "train")
    texts = captions.texts_of(source)
    read = lambda few: {
        "text": np.array([[[len(text)]] for text in few], np.float32),
        "text_mask": np.ones((len(few), 1), bool),
    }
    for noted in (texts, ()):  # earlier versions noted none
        captions.write(tmp_path / "texts", captions.table(texts, read), captions.describe(source.spec, "none", noted))
        assert batch_of(config)["condition"]["text"].shape == (4, 1, 1)
    table = tmp_path / "drawings/metadata.csv"
    head, *lines = table.read_text().splitlines()
    for changed in (lines[::-1], [line.replace("a red square", "a pale square") for line in lines]):
        table.write_text("\n".join([head, *changed]) + "\n")
        batch_of(config)
        captions.write(tmp_path / "texts", captions.table(texts, read), captions.describe(source.spec, "none", texts))
        with pytest.raises(
            ConfigError, match=r"texts was written for other captions, .*another order.*encode_text into"
        ):
            batch_of(config)
        captions.write(tmp_path / "texts", captions.table(texts, read), captions.describe(source.spec, "none"))

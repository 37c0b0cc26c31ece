"""Where a run that tunes a model writes what its networks make of the records, and from where it reads them."""

import dataclasses
import pathlib
import types

import numpy as np
import pytest

from diffusion.data import captions, sources
from diffusion.experiments.run import encoded_pictures, tuned_examples
from diffusion.experiments.run.examples import Examples
from diffusion.objectives.objective_facts import Beside
from diffusion.published import pipeline_kinds
from diffusion.recipe import base as recipe_base
from diffusion.recipe.base import TunedNetwork
from tests.data.sources import stored

TABLE = captions.Table({"text": np.zeros((2, 2), np.float32)}, np.arange(2, dtype=np.int32))


@dataclasses.dataclass(frozen=True)
class Base:
    """A model of which the null condition alone is read."""

    null: dict


@pytest.mark.parametrize("prompt", ["", "a cat"])
def test_each_entry_is_read_from_where_it_was_written(prompt, monkeypatch, tmp_path):
    """An image prompt beside the latents of three pictures; a prompt of the config is the caption of each."""
    spec = types.SimpleNamespace(shape=(2, 2, 4), pairs=False)
    source = type("Pictures", (), {"spec": spec, "__len__": lambda self: 3})()
    texts = ["a dog", "a bird", "a fish"]
    about = types.SimpleNamespace(shape=spec.shape, views=("plain",), autoencoder={"sha256": "weights"})
    latents = types.SimpleNamespace(description=about, draw="draw")
    table = types.SimpleNamespace(null={"text": np.zeros(2), tuned_examples.CAPTIONED: np.zeros(1)})
    written, read, captioned = [], [], []
    monkeypatch.setattr(tuned_examples, "encode", lambda recipe, source, cache: None)
    monkeypatch.setattr(tuned_examples.latent_cache, "open_cache", lambda cache: (latents, None))
    monkeypatch.setattr(tuned_examples.captions, "texts_of", lambda source: texts)
    monkeypatch.setattr(tuned_examples, "read", lambda recipe, spec, texts, folder: captioned.append((texts, folder)))
    monkeypatch.setattr(tuned_examples.captions, "read", lambda folder: table)
    monkeypatch.setattr(tuned_examples, "_sights", lambda *about: {"image_prompt": "sight"})
    write = lambda sight, source, folder, threads: written.append((sight, folder))
    seen = lambda records, name, sight, folder: read.append((records, name, sight, folder)) or "seen"
    monkeypatch.setattr(encoded_pictures, "write", write)
    monkeypatch.setattr(encoded_pictures, "Seen", seen)
    monkeypatch.setattr(tuned_examples.captions, "Captioned", lambda records, table: (records, table))
    settings = {"latents": {"dir": ""}, "threads": 0, "text": {"prompt": prompt}}
    tuning = types.SimpleNamespace(reads=(), latents=(), sees={"image_prompt": (5,)})
    recipe = types.SimpleNamespace(
        companions=types.SimpleNamespace(tuned=TunedNetwork(Base({}), tuning)),
        objective=types.SimpleNamespace(beside=Beside()),
        config={"data": settings},
        with_parts=lambda **parts: parts,
    )
    parts, found = tuned_examples.encoded(recipe, tmp_path, Examples(source, spec, ()))
    place = tmp_path / "seen" / "image_prompt"
    assert written == [("sight", place)] and read == [(latents, "image_prompt", "sight", place)]
    assert captioned == [(["a cat"] * 3 if prompt else texts, tmp_path / "captions")]
    assert found.source == ("seen", table) and found.augment == ("draw",)
    assert parts["network"] is parts["tuned"] and parts["tuned"].base.null.keys() == {"text"}


def test_only_what_a_tuning_reads_is_stored_beside_latents():
    """Columns that it does not read are stored where it reads more than latents, and not where it reads those alone."""
    picture, depth = sources.Leaf((8, 8, 3), "uint8"), sources.Leaf((2,), "float32")
    spec = types.SimpleNamespace(shape=(8, 8, 3), name="pictures", condition={"edited": picture, "depth": depth})
    model = types.SimpleNamespace(modules={"vae": types.SimpleNamespace(factor=4)}, channels=5)
    latents = sources.Leaf((2, 2, 5), "float32")
    for reads, expected in (
        (("edited",), {"edited": latents}),
        (("edited", "depth"), {"edited": latents, "depth": depth}),
    ):
        tuning = types.SimpleNamespace(reads=reads, latents=("edited",), sees_of="")
        network = types.SimpleNamespace(tuning=tuning, base=types.SimpleNamespace(model=model))
        assert tuned_examples._data_entries(network, spec) == expected


def test_prompts_are_read_again_by_other_encoders_and_not_from_another_folder(monkeypatch, tmp_path):
    """A changed file of the tokenizer or of the weights changes the inputs; a moved model does not."""
    folder = tmp_path / "model"
    for name in ("tokenizer/vocab.json", "text_encoder/model.safetensors", "unet/model.safetensors"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("1")
    kind = types.SimpleNamespace(files=pipeline_kinds.Files())
    readers = {"text_encoder": pipeline_kinds.Reader()}
    model = types.SimpleNamespace(kind=kind, readers=readers, zeros=False)
    spec = sources.arrays(stored.arrays(tmp_path / "data")["path"], x="image").spec
    rows = {"text": np.zeros((1, 2), np.float32)}
    written = []
    monkeypatch.setattr(tuned_examples.captions, "table", lambda texts, entries, batch: written.append(texts) or TABLE)

    def read(folder, texts, encodes):
        base = recipe_base.Base(str(folder), model)
        reader = types.SimpleNamespace(tokens=lambda few: rows, encoded=lambda params, tokens: rows)
        tuning = types.SimpleNamespace(encodes=encodes, base=reader)
        network = types.SimpleNamespace(base=base, tuning=tuning, text=dict)
        monkeypatch.setattr(tuned_examples, "tuned_network", lambda recipe: network)
        monkeypatch.setattr(recipe_base.Base, "load", lambda self, parts: {})
        tuned_examples.read(None, spec, texts, tmp_path / "captions")

    def change(folder, part):
        (folder / part).write_text((folder / part).read_text() + "1")

    changes = {"unet/model.safetensors": 1, "text_encoder/model.safetensors": 2, "tokenizer/vocab.json": 3}
    for part, number in changes.items():
        change(folder, part)
        for _ in range(2):
            read(folder, ["a", "b"], encodes=False)
        assert len(written) == number, part
    moved = folder.rename(tmp_path / "moved")
    read(moved, ["a", "b"], encodes=False)
    assert len(written) == 3
    read(moved, ["a", "c"], encodes=False)
    assert len(written) == 4
    read(moved, ["a", "c"], encodes=True)  # the run trains the text encoders, and stores tokens
    assert len(written) == 5
    change(moved, "text_encoder/model.safetensors")
    read(moved, ["a", "c"], encodes=True)
    assert len(written) == 5
    change(moved, "tokenizer/vocab.json")
    read(moved, ["a", "c"], encodes=True)
    assert len(written) == 6


def test_rejected_pictures_have_latents_of_their_own_as_the_second_of_each_pair(monkeypatch, tmp_path):
    class Paired(Exception):
        pass

    def preferences(of):
        raise Paired([cache.description.name for cache in of])

    spec = sources.DataSpec("pairs", "train", (2, 2, 4), 0, 3, pairs=True)
    source = type("Pairs", (), {"spec": spec, "where": "", "__len__": lambda self: 3})()
    encoded = []
    encode = lambda recipe, source, cache: encoded.append((type(source).__name__, pathlib.Path(cache).name))
    about = lambda folder: types.SimpleNamespace(
        name=pathlib.Path(folder).name, shape=spec.shape, views=("plain",), autoencoder={"sha256": "weights"}
    )
    open_cache = lambda folder: (types.SimpleNamespace(description=about(folder), draw="draw"), None)
    monkeypatch.setattr(tuned_examples, "encode", encode)
    monkeypatch.setattr(tuned_examples.latent_cache, "open_cache", open_cache)
    monkeypatch.setattr(tuned_examples, "read", lambda *_: None)
    monkeypatch.setattr(tuned_examples.captions, "read", lambda folder: types.SimpleNamespace(null={}))
    monkeypatch.setattr(tuned_examples, "_sights", lambda *_: {})
    monkeypatch.setattr(tuned_examples, "_moves", lambda tuning: ())
    monkeypatch.setattr(tuned_examples.sources, "preferences", preferences)
    tuning = types.SimpleNamespace(reads=(), latents=())
    companions = types.SimpleNamespace(tuned=TunedNetwork(Base({}), tuning))
    config = {"data": {"latents": {"dir": ""}, "text": {"prompt": "a cat"}, "threads": 0}}
    recipe = types.SimpleNamespace(config=config, companions=companions)
    with pytest.raises(Paired) as paired:
        tuned_examples.encoded(recipe, tmp_path, Examples(source, spec, ()))
    assert encoded == [("Pairs", "latents"), ("Rejected", tuned_examples.REJECTED)]
    assert paired.value.args == (["latents", tuned_examples.REJECTED],)


@pytest.mark.parametrize("column, shape", [("", (4, 4, 3)), ("view", (2, 6, 3))])
def test_the_pictures_of_a_column_have_its_shape_and_no_classes(column, shape):
    leaf = sources.spec.Leaf((2, 6, 3), "uint8")
    spec = sources.DataSpec("named", "train", (4, 4, 3), 2, 9, "", "uint8", {"view": leaf}, ("cat", "dog"))
    source = type("Pictures", (), {"spec": spec, "where": "here", "__len__": lambda self: 9})()
    own = encoded_pictures.Pictures(source, column).spec
    assert (own.shape, own.num_classes, own.classes, own.condition) == (shape, 0, (), None)
    assert (own.name, own.dtype) == ("named", "uint8")

"""`diffusion caption`: what it writes beside pictures, what a later call goes on with, and what it refuses."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from diffusion.data import sources
from diffusion.experiments import caption
from diffusion.models import captioning, interchange
from diffusion.models.blip_captioner import BLIPCaptioner
from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.text_encoders.med import MEDDecoder
from diffusion.recipe import ConfigError
from diffusion.text import Tokenizer
from tests.peers.made_weights import made
from tests.text import vocabularies

SMALL = {"width": 16, "depth": 1, "heads": 2, "hidden": 32}
NO_KEYS = None  # the likeliest tokens need none
MEAN = [0.48145466, 0.4578275, 0.40821073]


def pictures(folder, names=("a.png", "b.jpg", "deep/c.png", "d.png", "e.png")):
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + i, 2, 3), np.uint8).repeat(7, axis=1)).save(path)
    return folder


def captions(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.txt"))}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A captioner's folder with made weights."""
    folder = vocabularies.folder_of(tmp_path_factory.mktemp("captioner") / "model", "bert")
    words = len((folder / "vocab.txt").read_text().split())
    (stop,) = Tokenizer.open(folder).end
    text = MEDDecoder(vocabulary=words + 2, positions=12, start=words, stop=stop, **SMALL)
    module = BLIPCaptioner(BLIP(size=16, patch=8, **SMALL), text)
    shapes = interchange.folders.shapes_of(interchange.FAMILIES["BlipForConditionalGeneration"], module)
    interchange.save(folder, module, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    file = folder / "model.safetensors"
    save_file({name: made(name, tensor.shape) for name, tensor in load_file(file).items()}, file)
    (folder / "preprocessor_config.json").write_text(json.dumps({"resample": 3, "image_mean": MEAN}))
    return folder


class Seen(list):
    """A stand-in for a captioner, whose captions are the sizes of the pictures; a list of its batches."""

    def __call__(self, images, keys):
        self.append((len(images), jax.random.key_data(keys).tolist()))
        return [f"{len(image)} rows" for image in images]


@pytest.fixture
def seen(monkeypatch):
    batches = Seen()
    monkeypatch.setattr(captioning, "opened", lambda *arguments, **options: batches)
    return batches


@pytest.mark.extended
def test_captions_of_a_folder_are_those_of_the_network_and_train_a_model(model, tmp_path):
    """Each from its own squeezed picture, also in an incomplete batch, and with the prompt before it."""
    folder = pictures(tmp_path / "photos", ("a.png", "b.jpg", "deep/c.png"))
    done = caption.run(model, folder, prompt="a cat", length=12, batch_size=2)
    assert done == caption.Captions(3, 0, ())
    module, params = interchange.load(model)
    tokenizer = Tokenizer.open(model)
    found = captions(folder)
    assert found.keys() == {"a.txt", "b.txt", "deep/c.txt"} and len(set(found.values())) > 1
    squares = []
    for name in ("a.png", "b.jpg", "deep/c.png"):
        square = Image.open(folder / name).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
        squares.append(np.asarray(square, np.float32) / 127.5 - 1)
    assert all(text.startswith("a cat") and text.endswith("\n") for text in found.values())
    options = {"prompt": tokenizer.ids("a cat"), "length": 12, "top_p": None}
    ids = jax.jit(lambda params: captioning.generated(module, params, np.stack(squares), NO_KEYS, **options))(params)
    for row, text in zip(np.asarray(ids), found.values()):
        words = [*row[1:].tolist(), module.text.stop]
        assert tokenizer.join(words[: words.index(module.text.stop)]).strip() == text.strip()
    source = sources.picture_folder(str(folder), side=8)
    assert source.captions() == [text.strip() for text in found.values()]


def test_a_later_call_goes_on_with_the_draws_of_an_uninterrupted_one(seen, tmp_path):
    folder = pictures(tmp_path / "photos")
    caption.run("model", folder, tmp_path / "whole", batch_size=2)
    assert captions(tmp_path / "whole") == {
        "a.txt": "9 rows\n", "b.txt": "10 rows\n", "d.txt": "12 rows\n", "deep/c.txt": "11 rows\n", "e.txt": "13 rows\n"
    }  # fmt: skip
    assert [size for size, _ in seen] == [2, 2, 2]  # one program
    keys = {name: key for name, key in zip("abdce", [key for _, batch in seen for key in batch])}
    seen.clear()

    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text("mine")
    (folder / ".d.txt.new").write_text("torn")
    assert caption.run("model", folder, batch_size=2) == caption.Captions(3, 2, ())
    assert captions(folder)["a.txt"] == "mine" and captions(folder)["d.txt"] == "12 rows\n"
    again = {name: key for name, key in zip("dce", [key for _, batch in seen for key in batch])}
    assert again == {name: keys[name] for name in "dce"} and len(set(map(tuple, keys.values()))) == 5
    seen.clear()
    assert caption.run("model", folder, batch_size=2) == caption.Captions(0, 5, ()) and not seen
    assert caption.run("model", folder, batch_size=2, again=True).written == 5
    assert captions(folder)["a.txt"] == "9 rows\n"


def test_a_damaged_picture_stops_the_command_or_is_left_out(seen, tmp_path, capsys):
    folder = pictures(tmp_path / "photos")
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:200])
    with pytest.raises(sources.DamagedRecord, match=r"b\.jpg is not a valid picture.*--damaged=skip"):
        caption.run("model", folder, batch_size=1)
    assert captions(folder) == {"a.txt": "9 rows\n"}  # what was done stays
    done = caption.run("model", folder, batch_size=2, damaged="skip")
    assert (done.written, done.there) == (3, 1) and "b.jpg" in done.damaged[0]
    assert "left out" in capsys.readouterr().err and "b.txt" not in captions(folder)


@pytest.mark.parametrize(
    "names, others, words",
    [
        ((), {"a.pdf": ""}, "holds no pictures"),
        (("a.png", "a.jpg"), {}, "a.txt would be the caption of several pictures"),
        (("a.png",), {"metadata.csv": ""}, r"are read from .*metadata\.csv.*--out"),
        (("train/a.png",), {"train/metadata.jsonl": ""}, r"are read from .*train.metadata\.jsonl"),
    ],
)
def test_folders_whose_captions_nobody_would_read_are_refused(names, others, words, seen, tmp_path):
    folder = pictures(tmp_path / "photos", names)
    folder.mkdir(exist_ok=True)
    for name, content in others.items():
        (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=words):
        caption.run("model", folder)
    assert captions(folder) == {}


def changed(part, **fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (config[part] if part else config).update(fields)
        (folder / "config.json").write_text(json.dumps(config))

    return change


def in_file(change):
    def change_file(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change_file


def missing(tensors):
    del tensors["text_decoder.cls.predictions.transform.dense.weight"]


def not_a_number(tensors):
    tensors["text_decoder.cls.predictions.bias"][3] = np.nan


@pytest.mark.extended
@pytest.mark.parametrize(
    "change, options, words",
    [
        (changed("text_config", hidden_size=10**12), {}, "hidden_size"),
        (changed("vision_config", num_hidden_layers=10**6), {}, "num_hidden_layers"),
        (changed("text_config", vocab_size=10**6), {}, r"word_embeddings\.weight has shape"),
        (changed("", architectures=["BertModel"]), {}, "BertModel"),
        (changed("text_config", sep_token_id=0), {}, "do not belong together"),
        (changed("text_config", hidden_act="relu"), {}, "hidden_act"),
        (in_file(missing), {}, r"transform\.dense\.weight .* is missing"),
        (in_file(not_a_number), {}, "holds NaN"),
        (lambda folder: (folder / "vocab.txt").unlink(), {}, "holds no vocabulary"),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0]}'),
            {},
            "image_mean",
        ),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"resample": 9}'), {}, "resample = 9"),
        (lambda folder: None, {"length": 13}, r"length = 13\. Valid: 2 \.\. 12"),
        (lambda folder: None, {"top_p": 0.0}, r"top_p = 0\.0"),
        (lambda folder: None, {"length": 3, "prompt": "a cat"}, "the prompt 'a cat' has"),
    ],
)
def test_a_model_that_does_not_load_is_refused_in_one_sentence(change, options, words, model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    change(folder)
    with pytest.raises(ConfigError, match=words) as refusal:
        caption.run(folder, pictures(tmp_path / "photos", ("a.png",)), **{"length": 12, **options})
    assert "\n" not in str(refusal.value)

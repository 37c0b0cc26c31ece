"""The captions of a dataset, encoded by a model's text encoder."""

import pathlib

import numpy as np
import pytest

from diffusion import text, text_to_image
from diffusion.data import captions, sources
from diffusion.experiments import encode_text
from diffusion.io import json_files
from diffusion.recipe import ConfigError

DRAWINGS = pathlib.Path(__file__).parents[2] / "weights" / "drawings"


@pytest.mark.extended
def test_captions_are_encoded_as_the_model_encodes_prompts(tmp_path):
    source = sources.spelled_drawings("test", number=4)
    written = encode_text.run(DRAWINGS / "text_encoder", DRAWINGS / "tokenizer", source, tmp_path)
    texts = captions.texts_of(source)
    read = captions.read(tmp_path)
    model = text_to_image.load(DRAWINGS)
    expected = model.encoded(model.params, model.tokens(texts))
    for name, rows in expected.items():
        np.testing.assert_allclose(read.entries[name][np.asarray(read.row)], np.asarray(rows), rtol=1e-5, atol=1e-5)
    assert read.row.tolist() == written.row.tolist()


def test_texts_longer_than_the_encoder_takes_are_refused(tmp_path):
    """They were a traceback."""
    source = sources.spelled_drawings("test", number=4)
    encode_text.vocabulary(source, tmp_path / "tokenizer", 600, 60)
    with pytest.raises(ConfigError, match=r"--text_encoder=.* does not take the texts of .*60 tokens.*16 positions"):
        encode_text.run(DRAWINGS / "text_encoder", tmp_path / "tokenizer", source, tmp_path / "captions")
    assert not (tmp_path / "captions").exists()


def test_captions_are_not_written_among_the_files_of_a_run(tmp_path):
    """`--out` of a run wrote them there without a word."""
    (tmp_path / "config.json").write_text("{}")
    source = sources.spelled_drawings("test", number=4)
    with pytest.raises(captions.CacheError, match=r"holds config\.json, but no captions\. Valid: a new or"):
        encode_text.run("no encoder", "no tokenizer", source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_vocabulary_takes_the_place_of_no_files(tmp_path):
    """`--out` of a folder with runs removed them all."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/metrics.jsonl").write_text("precious")
    source = sources.spelled_drawings("test", number=4)
    with pytest.raises(FileExistsError, match="runs holds files already; choose another folder"):
        encode_text.vocabulary(source, tmp_path / "runs", 600, 40)
    assert (tmp_path / "runs/metrics.jsonl").read_text() == "precious"
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is a file"):
        encode_text.vocabulary(source, tmp_path / "runs/metrics.jsonl", 600, 40)
    assert encode_text.vocabulary(source, tmp_path / "new", 600, 40) > 500


def test_captions_take_the_place_of_no_others(tmp_path, monkeypatch):
    """The captions of the split "test" replaced those of "train", with the same --out."""
    texts = {name: sources.spelled_drawings(name, number=4) for name in ("train", "test")}
    described = {name: captions.describe(source.spec, "f" * 8) for name, source in texts.items()}
    json_files.write(tmp_path / captions.INDEX, described["train"])
    encode_text._require_same(tmp_path, described["train"])
    encode_text._require_same(tmp_path / "new", described["test"])
    with pytest.raises(captions.CacheError, match="holds other captions than these: split: 'train' -> 'test'"):
        encode_text._require_same(tmp_path, described["test"])
    with pytest.raises(captions.CacheError, match="encoder: 'ffffffff' -> 'e'"):
        encode_text._require_same(tmp_path, described["train"] | {"encoder": "e"})


def test_captions_of_another_vocabulary_are_not_replaced(tmp_path):
    """The note said nothing of the vocabulary, so the same encoder with another one replaced what a run reads."""
    source = sources.spelled_drawings("test", number=4)
    texts = captions.texts_of(source)
    folders = {number: tmp_path / str(number) for number in (520, 600)}
    for number, folder in folders.items():
        encode_text.vocabulary(source, folder, number, 60)
    few, many = (
        captions.describe(source.spec, "f" * 8, texts, tokens=text.Tokenizer.open(folder)(texts))
        for folder in folders.values()
    )
    json_files.write(tmp_path / captions.INDEX, few)
    encode_text._require_same(tmp_path, few)
    with pytest.raises(captions.CacheError, match=f"tokens: '{few['tokens']}' -> '{many['tokens']}'"):
        encode_text._require_same(tmp_path, many)
    json_files.write(tmp_path / captions.INDEX, captions.describe(source.spec, "f" * 8, texts))
    encode_text._require_same(tmp_path, many)  # a note of an earlier version, which says nothing of it

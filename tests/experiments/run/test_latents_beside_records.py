"""Latents of one's own pictures beside the captions and masks of their folder, which are paired with them by rows."""

import json
import re

import flax.linen as nn
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from diffusion.data import captions, fingerprints, identities, latent_cache, latent_writer, sources
from diffusion.models.layers import conditions
from diffusion.recipe import ConfigError, data, names
from tests.data.made import png
from tests.data.sources import stored
from tests.experiments.run.test_text_of_own_pictures import Receiver, batch_of, by_name, config_of  # noqa: F401

NUMBER = 300  # more than a fingerprint samples
UNREAD = tuple(row for row in range(150, NUMBER) if row not in fingerprints.rows(NUMBER))[:2]


class Words(nn.Module):
    """A network that receives the tokens of a caption, and what else the data have."""

    text_inputs = conditions.TOKENS

    @nn.compact
    def __call__(self, x, t, condition):
        return nn.Dense(x[0].size)(x.reshape(len(x), -1)).reshape(x.shape)


class Masked(Words):
    """A network that receives no text."""

    text_inputs = None


def folder_of(folder):
    """A folder of pictures, all of one size in bytes, with a caption and a mask each."""
    folder.mkdir()
    for k in range(NUMBER):
        (folder / f"{k:03}.png").write_bytes(png(np.full((4, 4, 3), k % 256, np.uint8)))
    lines = [f"{k:03}.png,the number {k},{k:03}.png" for k in range(NUMBER)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption,mask_file_name", *lines]) + "\n")
    return {"name": "picture_folder", "path": str(folder)}


def swapped(folder, one=UNREAD[0], other=UNREAD[1]):
    """Exchanges two lines of the table, whose pictures no fingerprint samples."""
    head, *lines = (folder / "metadata.csv").read_text().splitlines()
    lines[one], lines[other] = lines[other], lines[one]
    (folder / "metadata.csv").write_text("\n".join([head, *lines]) + "\n")


def removed(folder, row=UNREAD[0]):
    head, *lines = (folder / "metadata.csv").read_text().splitlines()
    (folder / lines.pop(row).split(",")[0]).unlink()
    (folder / "metadata.csv").write_text("\n".join([head, *lines]) + "\n")


def encode(folder, source):
    """Writes latents as `diffusion encode` does, by an encoder of pictures that tells their numbers."""
    spec = source.spec
    description = latent_cache.Description(
        latent_cache.dataset_of(spec), {"sha256": "ab"}, (1, 1, 1), "mean", ("plain",), "float32", 1.0, 0.0
    )
    means = lambda images: images[:, :1, :1, :1].astype(np.float32)[:, None]
    latent_writer.write(folder, source, spec, description, means, threads=0, fingerprint=source.fingerprint())


def config(tmp_path, entry, monkeypatch, network=Words, **changes):
    monkeypatch.setitem(names.MODELS, "reader", network)
    return config_of(
        tmp_path, entry, **{"data.latents.dir": str(tmp_path / "latents"), "data.shape": (1, 1, 1), **changes}
    )


def opened(entry):
    return data.named(json.dumps(entry) + "@train")


@pytest.mark.extended
@pytest.mark.parametrize("change, words", [(swapped, "in another order"), (removed, "300 records, but .* has 299 now")])
def test_captions_of_records_that_have_changed_since_they_were_encoded_are_refused(
    tmp_path, monkeypatch, change, words
):
    """The captions of the picture behind, and of another one, went to a picture's latents."""
    entry = folder_of(tmp_path / "pictures")
    encode(tmp_path / "latents", opened(entry))
    run = config(tmp_path, entry, monkeypatch)
    batch_of(run)
    change(tmp_path / "pictures")
    with pytest.raises(ConfigError, match=rf"latents of records.*{words}|holds latents of {words}"):
        batch_of(run)


def parquet_of(folder, rows):
    """A Parquet file of pictures with masks, whose rows have no names."""
    pictures = [{"bytes": png(np.full((4, 4, 3), k % 256, np.uint8)), "path": None} for k in rows]
    table = pyarrow.table({"image": pictures, "mask": pictures, "number": list(rows)})
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    return {"name": "parquet", "path": str(folder)}


@pytest.mark.extended
def test_masks_of_records_without_names_are_compared_by_their_pictures(tmp_path, monkeypatch):
    """Rows of Parquet have no names: in another order, each latent silently got another picture's mask."""
    entry = parquet_of(tmp_path / "rows", range(NUMBER))
    encode(tmp_path / "latents", opened(entry))
    masked = lambda entry: config(tmp_path, entry | {"condition": ("mask",)}, monkeypatch, Masked)
    run = masked(entry)
    run.data.text.tokenizer = ""
    batch_of(run)
    parquet_of(tmp_path / "rows", range(NUMBER)[::-1])
    with pytest.raises(ConfigError, match="in another order"):
        batch_of(run)
    source = opened(entry)
    orders = {identities.order_of(opened(entry | more)) for more in ({}, {"side": 4}, {"condition": ("mask",)})}
    assert len(orders) == 1 and orders != {None}  # of the pictures, whatever else is read
    keep = lambda rows: sources.combined.filtered(source, lambda record: record["number"] in rows)
    mixed = lambda *parts: identities.order_of(sources.combined.mixture(parts))
    assert identities.order_of(keep(range(9))) != identities.order_of(keep(range(1, 10)))
    assert mixed(keep(range(9)), keep(range(1, 10))) != mixed(keep(range(1, 10)), keep(range(9)))


def test_masks_of_other_records_are_refused(tmp_path, monkeypatch):
    """The condition of the records is no part of the fingerprint that the latents note."""
    entry = folder_of(tmp_path / "pictures")
    encode(tmp_path / "latents", opened(entry))
    run = config(tmp_path, entry | {"condition": ("mask",)}, monkeypatch, Masked)
    run.data.text.tokenizer = ""
    batch_of(run)
    swapped(tmp_path / "pictures")
    with pytest.raises(ConfigError, match="in another order"):
        batch_of(run)


def test_a_cache_of_an_earlier_version_is_compared_by_its_fingerprint(tmp_path, monkeypatch):
    entry = folder_of(tmp_path / "pictures")
    encode(tmp_path / "latents", opened(entry))
    index = tmp_path / "latents/latents.json"
    note = json.loads(index.read_text())
    del note["order"], note["lengths"]
    index.write_text(json.dumps(note))
    run = config(tmp_path, entry, monkeypatch)
    batch_of(run)
    swapped(tmp_path / "pictures", 0, 100)
    with pytest.raises(ConfigError, match="latents of other pictures"):
        batch_of(run)
    del note["pictures"]  # before, none was noted
    index.write_text(json.dumps(note))
    batch_of(run)


def test_encoded_captions_and_latents_of_different_orders_are_refused(tmp_path, monkeypatch):
    """Between the two commands two lines of the table were exchanged."""
    entry = folder_of(tmp_path / "pictures")
    encode(tmp_path / "latents", opened(entry))
    run = config(tmp_path, entry, monkeypatch, Receiver, **{"data.text.dir": str(tmp_path / "texts")})
    run.data.text.tokenizer = ""
    read = lambda few: {
        "text": np.array([[[len(text)]] for text in few], np.float32),
        "text_mask": np.ones((len(few), 1), bool),
    }
    for change, refused in ((lambda folder: None, False), (swapped, True)):
        change(tmp_path / "pictures")
        source = opened(entry)
        texts = captions.texts_of(source)
        note = captions.describe(source.spec, "none", texts, identities.order_of(source))
        captions.write(tmp_path / "texts", captions.table(texts, read), note)
        if refused:
            with pytest.raises(ConfigError, match="with different names, or in a different order"):
                batch_of(run)
        else:
            batch_of(run)


def test_a_part_is_completed_in_the_same_order_alone(tmp_path):
    """A writing that was killed, and went on with a table in another order, gave one picture two latents."""
    entry = folder_of(tmp_path / "pictures")
    source = opened(entry)

    def write(source, encode, **options):
        dataset = latent_cache.dataset_of(source.spec)
        about = latent_cache.Description(dataset, {}, (1, 1, 1), "mean", ("plain",), "float32", 1.0, 0.0)
        latent_writer.write(
            tmp_path / "latents", source, source.spec, about, encode, threads=0, shard_records=100, batch_size=50
        )

    calls = []

    def dies(images):
        calls.append(images)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return images[:, :1, :1, :1].astype(np.float32)[:, None]

    with pytest.raises(KeyboardInterrupt):
        write(source, dies)
    swapped(tmp_path / "pictures")
    with pytest.raises(latent_cache.CacheError, match="in another order"):
        write(opened(entry), dies)
    swapped(tmp_path / "pictures")
    write(opened(entry), dies)
    assert latent_cache.order_of_pictures(tmp_path / "latents") == identities.order_of(source)


def test_a_picture_that_was_edited_is_not_taken_for_the_encoded_one(tmp_path):
    """Among more pictures than a fingerprint samples: the same command said that all were encoded already."""
    entry = folder_of(tmp_path / "pictures")
    encode(tmp_path / "latents", opened(entry))
    encode(tmp_path / "latents", opened(entry))
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    (tmp_path / f"pictures/{UNREAD[0]:03}.png").write_bytes(png(picture))
    with pytest.raises(latent_cache.CacheError, match="files of the same names have other lengths"):
        encode(tmp_path / "latents", opened(entry))
    with pytest.raises(latent_cache.CacheError, match="files of the same names have other lengths"):
        latent_cache.require_same_records(tmp_path / "latents", opened(entry))


@pytest.mark.parametrize("name", ["class_folders", "picture_folder", "tar_shards"])
def test_names_stay_where_a_folder_moves(tmp_path, name):
    source = data.named(json.dumps(stored.FORMATS[name](tmp_path / "data")) + "@train")
    listed = identities.names_of(source)
    (tmp_path / "other").mkdir()
    (tmp_path / "data").rename(tmp_path / "other/data")
    entry = {"name": name, "path": str(tmp_path / "other/data")}
    again = data.named(json.dumps(entry) + "@train")
    assert identities.names_of(again) == listed and len(set(listed)) == stored.NUMBER
    lengths = identities.lengths_of(again)
    numbers = [int(re.search(r"(\d+)(\.png)?$", text)[1]) for text in listed]
    assert lengths == [len(png(stored.PICTURES[k])) for k in numbers]
    kept = sources.filtered(again, lambda record: record["label"] == 1)
    both = sources.mixture([again, kept])
    rows = [row for row in range(len(again)) if again[row]["label"] == 1]
    assert identities.names_of(kept) == [listed[row] for row in rows]
    expected = [f"0/{text}" for text in listed] + [f"1/{listed[row]}" for row in rows]
    assert identities.names_of(both) == expected
    assert identities.lengths_of(both) == [*lengths, *(lengths[row] for row in rows)]
    assert identities.order_of([{"x": np.zeros(2)}]) is None

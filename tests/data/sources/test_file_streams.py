"""Tar shards and Parquet as streams: every record once a pass, exact from any state, and what is damaged is named."""

import gzip
import io
import json
import re
import tarfile

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.data.sources import file_streams
from diffusion.data.stream_batches import StreamBatches
from diffusion.recipe import ConfigError, data
from diffusion.recipe.defaults import defaults
from tests.data.sources import stored

CLASSES = ("cat", "dog")


def opened(folder, name, **options):
    path = stored.FORMATS[{"tar_stream": "tar_shards", "parquet_stream": "parquet"}[name]](folder)["path"]
    return getattr(sources, name)(path, **({"classes": CLASSES} | options))


def taken(stream, number, **options):
    batches = StreamBatches(stream, seed=0, batch_size=4, **options)
    found = [next(batches) for _ in range(number)]
    batches.close()
    return found, json.loads(json.dumps(batches.state))


@pytest.mark.extended
@pytest.mark.parametrize("window", [1, 2, 4, 100])
@pytest.mark.parametrize("name", ["tar_stream", "parquet_stream"])
def test_every_record_once_a_pass_and_exact_from_any_state(tmp_path, name, window):
    stream = opened(tmp_path / "data", name, window=window)
    assert stream.resume == "state" and stream.spec.classes == CLASSES
    found, _ = taken(stream, 6)
    images = np.concatenate([batch["image"] for batch in found])
    labels = np.concatenate([batch["label"] for batch in found])
    row = {picture.tobytes(): k for k, picture in enumerate(stored.PICTURES)}
    order = [row[image.tobytes()] for image in images]
    assert [stored.LABELS[k] for k in order] == labels.tolist()
    passes = np.reshape(order, (4, stored.NUMBER))
    assert all(sorted(one) == list(range(stored.NUMBER)) for one in passes.tolist())
    assert (window == 1) == (len({tuple(one) for one in passes.tolist()}) == 1)
    for stop in range(1, 6):
        _, state = taken(stream, stop)
        again = getattr(sources, name)(stream.where, classes=CLASSES, window=window)
        rest, _ = taken(again, 6 - stop, state=state, start=4 * stop)
        for ours, theirs in zip(rest, found[stop:], strict=True):
            np.testing.assert_array_equal(ours["image"], theirs["image"])


def order_of(counts, window):
    """The order of files of so many records, which are their names and numbers."""
    order = object.__new__(file_streams._Order)
    order.read = lambda file, first: ((f"{file}{number}", {}) for number in range(first, counts[file]))
    order.parts = list(order._parts(list(counts), 0, None))
    order.window, order.seed = window, 3
    return order


def test_a_state_counts_windows_and_the_records_of_its_window():
    """Checkpoints hold it: with other numbers a resumed run would read the records of a window in another order."""
    one_pass = file_streams._Pass(order_of({"a": 5}, 2), 0)
    states = [one_pass.get_state()]
    for _ in one_pass:
        states.append(one_pass.get_state())
    at = [(state["window"], state["record"], state["at"]) for state in states]
    assert at == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 2, 1), (1, 2, 2), (2, 4, 1)]


def test_each_window_of_each_pass_has_an_order_of_its_own():
    counts = {"a": 25, "b": 31, "c": 24}
    order, orders = order_of(counts, 10), []
    for epoch in range(3):
        found = [name for name, _ in file_streams._Pass(order, epoch)]
        files = list(dict.fromkeys(name[0] for name in found))
        read = [f"{file}{number}" for file in files for number in range(counts[file])]
        assert sorted(found) == sorted(read) and len(files) == 3
        for first in range(0, 80, 10):
            orders.append(tuple(read.index(name) - first for name in found[first : first + 10]))
            assert sorted(orders[-1]) == list(range(10))
        for stop in (0, 1, 9, 10, 11, 57, 79):
            stopped, again = file_streams._Pass(order, epoch), file_streams._Pass(order, epoch)
            assert [next(stopped)[0] for _ in range(stop)] == found[:stop]
            again.set_state(stopped.get_state())
            assert [name for name, _ in again] == found[stop:]
    assert len(set(orders)) == 24


@pytest.mark.parametrize("first, last, parts", [
    (0, None, [("a", 0, None), ("b", 0, None)]), (3, None, [("a", 3, None), ("b", 0, None)]), (5, 9, [("b", 1, 5)]),
    (4, None, [("b", 0, None)]), (2, 4, [("a", 2, 4)]), (2, 6, [("a", 2, 4), ("b", 0, 2)]), (44, None, []),
])  # fmt: skip
def test_a_part_is_of_the_files_that_hold_it(first, last, parts):
    """Of files of 4 and 40 records."""
    found = order_of({"a": 4, "b": 40}, 1)._parts(["a", "b"], first, last)
    assert list(map(tuple, found)) == parts


def test_members_are_named_by_their_endings_in_small_letters(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("x/1.PNG", b"one"), ("x/1.Seg.Png", b"two"), ("x/2.png", b"three")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = [members for _, members in file_streams.tar_records(tmp_path / "a.tar", 0)]
    assert found == [{"png": b"one", "seg.png": b"two"}, {"png": b"three"}]


def test_a_compressed_shard_and_a_config(tmp_path):
    stored.tar_shards(tmp_path / "data")
    for shard in (tmp_path / "data").glob("*.tar"):
        shard.with_suffix(".tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
        shard.unlink()
    config = defaults()
    config.data.source = {"name": "tar_stream", "path": str(tmp_path / "data"), "classes": CLASSES}
    source = data.source(config, "train")
    config.seed = 7
    other = data.source(config, "train")
    ours, theirs = (np.concatenate([b["image"] for b in taken(each, 3)[0]]) for each in (source, other))
    assert len(ours) == len(theirs) and not np.array_equal(ours, theirs)  # the run's seed says the order


def test_what_is_damaged_is_named(tmp_path):
    stream = opened(tmp_path / "tar", "tar_stream", window=1)
    shard = tmp_path / "tar/train-1.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(sources.DamagedRecord, match=r"train-1\.tar is not a complete tar archive: after record '0004'"):
        taken(stream, 2)
    opened(tmp_path / "other", "tar_stream")
    shard = tmp_path / "other/train-1.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"\x00PNG", 1))
    with pytest.raises(sources.DamagedRecord, match=r"train-1\.tar, record '0004' at byte 0 cannot be used: its image"):
        taken(sources.tar_stream(str(tmp_path / "other"), classes=CLASSES), 2)
    (tmp_path / "none.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(
        sources.DamagedRecord, match=r"none\.parquet is damaged from row 0 on: .*not an intact Parquet file"
    ):
        sources.parquet_stream(str(tmp_path / "none.parquet"))


def test_what_a_stream_cannot_do_is_refused(tmp_path):
    for options, words in (
        ({"classes": ()}, "stream, so the classes of its column 'cls' are not known in advance"),
        ({"split": "train[:50%]"}, "is a share of the records, but a stream does not know how many it has"),
        ({"split": "train[9:]"}, "(train[9:]) holds no records"),
        ({"split": "train[3:2]"}, "split = 'train[3:2]' is empty"),
        ({"window": 0}, "window = 0. Valid: at least 1"),
        ({"label": "clas"}, "no column 'clas' for label; its columns are png, cls, txt. Did you mean 'cls'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            opened(tmp_path / f"{words[:5]}", "tar_stream", **options)
    opened(tmp_path / "data", "tar_stream")
    config = defaults()
    of = {"name": "tar_stream", "path": str(tmp_path / "data"), "classes": CLASSES}
    config.data.source = {"name": "mixture", "of": (of, of)}
    with pytest.raises(ConfigError, match=r"config\.data\.source: data is a stream whose.*so its"):
        data.source(config, "train")


@pytest.mark.extended
@pytest.mark.parametrize("number", [1, 3, 4, 5])
@pytest.mark.parametrize("name", ["tar_stream", "parquet_stream"])
def test_two_parts_hold_every_record_once(tmp_path, name, number):
    """Files of 4 and 2 records, or of 2 and 4."""
    path = opened(tmp_path / "data", name).where
    part = lambda split, **options: getattr(sources, name)(path, split, classes=CLASSES, **options)
    row = {picture.tobytes(): k for k, picture in enumerate(stored.PICTURES)}
    rows = lambda stream: [row[record["image"].tobytes()] for record in stream.records(99)]
    assert rows(part(f"train[:{number}]", window=1)) == list(range(number))
    assert rows(part(f"train[{number}:]", window=1)) == list(range(number, 6))
    assert rows(part(f"train[1:{number + 1}]", window=1)) == list(range(1, number + 1))
    held_out, rest = part(f"train[:{number}]"), part(f"train[{number}:]", window=2)
    assert sorted(rows(held_out)) == list(range(number)) and sorted(rows(rest)) == list(range(number, 6))
    found, _ = taken(rest, 6)
    assert {row[image.tobytes()] for batch in found for image in batch["image"]} == {*range(number, 6)}
    for stop in range(1, 6):
        _, state = taken(rest, stop)
        again, _ = taken(part(f"train[{number}:]", window=2), 1, state=state, start=4 * stop)
        np.testing.assert_array_equal(again[0]["image"], found[stop]["image"])

"""Hugging Face's datasets by their interface: a stand-in that has what the library uses of it, and the real thing."""

import numpy as np
import pytest

from diffusion.data import buckets, pipeline, sources
from diffusion.data.sources import python_objects
from diffusion.data.sources.streams import Stream
from diffusion.data.stream_batches import StreamBatches
from tests.data.sources import hugging_face, stored


def real(streaming=False):
    """The same dataset by the real library."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed here")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(stored.NAMES))}
    columns = {
        "image": list(stored.PICTURES),
        "label": stored.LABELS,
        "text": [f"a {stored.NAMES[label]}" for label in stored.LABELS],
    }
    made = datasets.Dataset.from_dict(columns, datasets.Features(kinds | {"text": datasets.Value("string")}))
    return made.to_iterable_dataset(num_shards=2) if streaming else made


def stand_in(streaming=False):
    return hugging_face.pictures(hugging_face.IterableDataset if streaming else hugging_face.Dataset)


@pytest.mark.parametrize("make", [stand_in, real])
def test_a_dataset_has_random_access_classes_and_captions(make):
    source = python_objects.source_of(make())
    assert source.spec.classes == stored.NAMES and source.spec.num_classes == 2 and len(source) == stored.NUMBER
    assert source.captions() == [f"a {stored.NAMES[label]}" for label in stored.LABELS]
    for k, record in enumerate(source.__getitems__(range(stored.NUMBER))):
        np.testing.assert_array_equal(record["image"], stored.PICTURES[k])
        assert record["label"] == stored.LABELS[k]
    part = sources.huggingface(make(), "train[:50%]", side=2, label="")
    assert len(part) == 3 and part.spec.shape == (2, 2, 3) and part.spec.num_classes == 0
    assert source.fingerprint() == python_objects.source_of(make()).fingerprint() != part.fingerprint()


@pytest.mark.parametrize("make", [stand_in, real])
def test_pictures_of_several_sizes_stay_as_they_are(make, monkeypatch, tmp_path):
    """For the buckets of a run, as those of any other source; the shape is that of the samples."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    wide = [picture.reshape(2, 8, 3) if k % 2 else picture for k, picture in enumerate(stored.PICTURES)]
    monkeypatch.setattr(stored, "PICTURES", wide)
    with pytest.raises(
        sources.DamagedRecord, match=r"row 1 .*the shape \(2, 8, 3\), but the first one has .*set side = N"
    ):
        python_objects.source_of(make())[1]
    source = sources.huggingface(make(), varied=(4, 4))
    assert source.spec.shape == (4, 4, 3) and source[1]["image"].shape == (2, 8, 3)
    sizes = buckets.measured_once(source)
    assert sizes.tolist() == [[4, 4], [2, 8]] * 3
    order = buckets.Order.from_buckets(buckets.nearest(sizes, [(4, 4), (2, 8)]), 2, 3, seed=0)
    batches = buckets.batches(source, order, [(4, 4), (2, 8)])
    assert sorted(next(batches)["image"].shape[1:3] for _ in range(2)) == [(2, 8), (4, 4)]


@pytest.mark.parametrize("make", [stand_in, real])
def test_a_stream_goes_on_by_its_own_state(make):
    stream = python_objects.source_of(make(streaming=True))
    assert isinstance(stream, Stream) and stream.resume == "state" and stream.spec.classes == stored.NAMES
    batches = StreamBatches(stream, seed=0, batch_size=4)
    whole = [next(batches) for _ in range(4)]
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in whole[:3]]), [*stored.PICTURES] * 2)
    assert np.concatenate([batch["label"] for batch in whole[:3]]).tolist() == stored.LABELS * 2
    for stop in (1, 2, 3):
        batches = StreamBatches(python_objects.source_of(make(streaming=True)), seed=0, batch_size=4)
        for _ in range(stop):
            next(batches)
        again = python_objects.source_of(make(streaming=True))
        later = StreamBatches(again, seed=0, batch_size=4, start=4 * stop, state=batches.state)
        np.testing.assert_array_equal(next(later)["image"], whole[stop]["image"] if stop < 4 else [])


def chained():
    """A stream in which each example comes through the states of several objects of the library."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed here")
    rows = lambda label: ({"x": [float(label), float(k)]} for k in range(6))
    parts = [datasets.IterableDataset.from_generator(rows, gen_kwargs={"label": label}) for label in (0, 1)]
    return datasets.interleave_datasets(parts).map(lambda row: {"x": [2 * value for value in row["x"]]})


@pytest.mark.parametrize("make", [lambda: stand_in(streaming=True), lambda: real(streaming=True), chained])
def test_a_reading_beside_the_run_leaves_the_state_of_the_run(make):
    """As an evaluation in the loop reads the first records of the stream that the run reads."""
    entry = lambda record: np.asarray(record.get("image", record.get("x")))
    straight = [entry(record) for record in python_objects.source_of(make()).records(6)]
    stream = python_objects.source_of(make())
    cursor = stream.cursor()
    for _ in range(3):
        cursor.next()
    assert len(list(stream.records(2))) == 2
    np.testing.assert_array_equal(entry(stream.decode(cursor.next())), straight[3])
    again = python_objects.source_of(make())
    resumed = again.cursor(cursor.state())
    np.testing.assert_array_equal(entry(again.decode(resumed.next())), straight[4])
    np.testing.assert_array_equal([entry(record) for record in again.records(2)], straight[:2])
    np.testing.assert_array_equal(entry(again.decode(resumed.next())), straight[5])


def test_a_buffer_for_shuffling_is_read_again():
    stream = python_objects.source_of(real(streaming=True).shuffle(seed=1, buffer_size=3))
    assert stream.resume == "skip"
    batches = StreamBatches(stream, seed=0, batch_size=4)
    whole = [next(batches)["image"] for _ in range(4)]
    batches = StreamBatches(stream, seed=0, batch_size=4)
    next(batches), next(batches)
    np.testing.assert_array_equal(
        next(StreamBatches(stream, seed=0, batch_size=4, start=8, state=batches.state))["image"], whole[2]
    )


@pytest.mark.parametrize("make", [stand_in, real])
def test_two_parts_of_a_stream_hold_every_record_once(make):
    part = lambda split: sources.huggingface(make(streaming=True), split)
    found = [record["image"] for split in ("train[:2]", "train[2:5]", "train[5:]") for record in part(split).records(9)]
    np.testing.assert_array_equal(found, stored.PICTURES)
    batches = StreamBatches(part("train[2:]"), seed=0, batch_size=4)
    whole = [next(batches)["image"] for _ in range(3)]
    np.testing.assert_array_equal(np.concatenate(whole), [*stored.PICTURES[2:]] * 3)
    batches = StreamBatches(part("train[2:]"), seed=0, batch_size=4)
    next(batches)
    later = StreamBatches(part("train[2:]"), seed=0, batch_size=4, start=4, state=batches.state)
    np.testing.assert_array_equal(next(later)["image"], whole[1])


def test_what_is_wrong_is_named():
    broken = stand_in()
    broken.columns["image"][4] = {"bytes": b"no picture", "path": None}
    source = python_objects.source_of(broken)
    with pytest.raises(sources.DamagedRecord, match=r"Dataset 'Dataset', row 4 \(record 4\) cannot be used: its image"):
        pipeline.fetch(source, np.arange(6))
    with pytest.raises(ValueError, match=r"no column 'txet' for caption; its columns are image, label, text. Did you"):
        sources.huggingface(stand_in(), caption="txet")
    unknown = stand_in(streaming=True)
    unknown.features["label"] = hugging_face.Value("int64")
    with pytest.raises(ValueError, match="stream, so the classes of its column 'label' are not known in"):
        python_objects.source_of(unknown)
    with pytest.raises(ValueError, match=r"stream,.*its pictures must all have one size\. Valid: side ="):
        sources.huggingface(stand_in(streaming=True), varied=(4, 4))
    assert sources.huggingface(unknown, classes=("a", "b")).spec.classes == ("a", "b")
    assert sources.huggingface(unknown, label="").spec.num_classes == 0

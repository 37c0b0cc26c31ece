"""Damaged records: named where the config says stop, replaced by the next sound one and counted where it says skip."""

import itertools
import re
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds

from diffusion.data import pipeline, sources
from tests.data.made import image_feature, png, write

SIZE, SEED = 12, 3
IMAGES = np.random.default_rng(0).integers(0, 256, (SIZE, 6, 5, 3), dtype=np.uint8)
IMAGES[:, 0, 0] = np.arange(SIZE)[:, None]  # a pixel that names the record


def damage(data: bytes, how: str) -> bytes:
    """An image that cannot be decoded, each time for another reason."""
    if how == "truncated":
        return data[:60]
    if how == "flipped":
        changed = bytearray(data)
        changed[len(data) // 2] ^= 0x10
        return bytes(changed)
    return {"empty": b"", "no image": b"not an image", "another size": png(np.zeros((6, 6, 3), np.uint8))}[how]


def made(folder, bad: dict[int, str]) -> tuple[sources.Records, sources.DataSpec]:
    """A dataset of SIZE records, some of them damaged."""
    features = {"image": image_feature(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(num_classes=SIZE)}
    images = [damage(png(image), bad[k]) if k in bad else png(image) for k, image in enumerate(IMAGES)]
    write(folder, features, [{"image": image, "label": k} for k, image in enumerate(images)])
    return sources.open_source("made", "train", str(folder))


def rows_by_definition(bad: set[int], count: int) -> tuple[list[int], list[int]]:
    """The record that each example shows, and 1 where it stands in for a damaged one, one after another."""
    rows, skipped = [], []
    for index in range(count):
        row = first = int(pipeline.permutation(SIZE, SEED, index // SIZE)[index % SIZE])
        while row in bad:
            row = (row + 1) % SIZE
        rows.append(row)
        skipped.append(int(row != first))
    return rows, skipped


def take(source, spec, number, **options):
    with warnings.catch_warnings(record=True):
        batches = pipeline.batches(source, spec, seed=SEED, batch_size=8, damaged="skip", **options)
        found = list(itertools.islice(batches, number))
        batches.close()
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


BAD = {0: "truncated", 4: "flipped", 5: "empty", 11: "another size"}  # two in a row, and the last


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    return made(tmp_path_factory.mktemp("flawed"), BAD)


@pytest.mark.parametrize("threads", [0, 3])
def test_the_next_sound_record_takes_the_place_under_the_same_index(flawed, threads):
    got = take(*flawed, 6, threads=threads)
    rows, skipped = rows_by_definition(set(BAD), 48)
    assert got["index"].tolist() == list(range(48))
    assert got["label"].tolist() == got["image"][:, 0, 0, 0].tolist() == rows
    assert got["skipped"].tolist() == skipped and sum(skipped) == 4 * 4  # four damaged records, four epochs


def test_processes_and_a_later_start_see_the_same(flawed):
    rows, skipped = rows_by_definition(set(BAD), 48)
    for process in range(2):
        got = take(*flawed, 4, start=16, positions=4 * process + np.arange(4))
        mine = [i for i in range(16, 48) if (i // 4) % 2 == process]
        assert got["index"].tolist() == mine
        assert got["label"].tolist() == [rows[i] for i in mine]
        assert got["skipped"].tolist() == [skipped[i] for i in mine]


def test_augmentation_draws_belong_to_the_index_and_not_to_the_record(flawed, tmp_path):
    """Examples that show sound records are the very ones of the undamaged dataset."""
    noise = lambda rng, image: image + rng.integers(0, 9, image.shape, dtype=np.uint8)
    got = take(*flawed, 6, augment=(noise,))
    whole = take(*made(tmp_path, {}), 6, augment=(noise,))
    same = got["skipped"] == 0
    np.testing.assert_array_equal(got["image"][same], whole["image"][same])
    assert whole["skipped"].sum() == 0


def test_each_damaged_record_gives_one_warning(tmp_path):
    source, spec = made(tmp_path, {4: "no image"})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        batches = pipeline.batches(source, spec, seed=SEED, batch_size=SIZE, damaged="skip")
        for _ in range(3):
            next(batches)
        batches.close()
    (one,) = [str(each.message) for each in warned if "left out" in str(each.message)]
    assert "made (train): record 4 cannot be used: its image is not a valid picture in one of these formats: PNG" in one
    assert "damaged=skip" not in one  # the run does so already


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "no image", "another size"])
def test_stop_names_dataset_split_record_cause_and_the_way_on(tmp_path, how):
    source, spec = made(tmp_path, {7: how})
    batches = pipeline.batches(source, spec, seed=SEED, batch_size=SIZE)
    with pytest.raises(sources.DamagedRecord) as caught:
        next(batches)
    pattern = r"made \(train\): record 7 cannot be used: .+\. .* by --config\.data\.damaged=skip\."
    assert re.fullmatch(pattern, str(caught.value))


def test_a_flipped_byte_in_the_file_itself(tmp_path):
    """The checksum of the record's chunk fails; its neighbours stay."""
    made(tmp_path, {})
    (path,) = tmp_path.glob("made/*/*.array_record*")
    content = bytearray(path.read_bytes())
    content[content.index(png(IMAGES[6])) + 50] ^= 1
    path.write_bytes(content)
    source, spec = sources.open_source("made", "train", str(tmp_path))
    with pytest.raises(sources.DamagedRecord, match=r"record 6 .* hash mismatch"):
        next(pipeline.batches(source, spec, seed=SEED, batch_size=SIZE))
    got = take(source, spec, 6)
    assert got["label"].tolist() == rows_by_definition({6}, 48)[0]


@pytest.mark.parametrize("size", [1000, 40_000])
def test_a_lost_file_stops_a_run_that_skips(tmp_path, size):
    made(tmp_path, {})
    (path,) = tmp_path.glob("made/*/*.array_record*")
    path.write_bytes(path.read_bytes()[:size])
    source, spec = sources.open_source("made", "train", str(tmp_path))
    with warnings.catch_warnings(record=True):
        batches = pipeline.batches(source, spec, seed=SEED, batch_size=4, damaged="skip")
        with pytest.raises(sources.DamagedRecord, match=r"the 11 records after record .* prepare the dataset again"):
            next(batches)


def test_skipping_goes_no_further_than_its_limit(tmp_path, monkeypatch):
    source, spec = made(tmp_path, {k: "truncated" for k in (2, 3, 4, 5)})
    monkeypatch.setattr(pipeline, "SKIPS", 4)
    assert take(source, spec, 3)["label"].tolist() == rows_by_definition({2, 3, 4, 5}, 24)[0]
    monkeypatch.setattr(pipeline, "SKIPS", 3)
    with pytest.raises(sources.DamagedRecord, match="the 3 records after record 2 are damaged too"):
        take(source, spec, 3)


def test_damaged_must_be_a_known_word(flawed):
    with pytest.raises(ValueError, match="damaged must be one of stop, skip, got 'ignore'"):
        pipeline.batches(*flawed, seed=0, batch_size=4, damaged="ignore")


@pytest.mark.parametrize("bad, found", [((0,), 1), ((3,), 4), ((4,), 0), ((3, 4), 0), ((4, 0), 1)])
def test_the_record_after_the_last_one_is_the_first(bad, found):
    class Source(list):
        def __getitem__(self, row):
            if row in bad:
                raise sources.DamagedRecord(f"record {row}")
            return super().__getitem__(row)

    with warnings.catch_warnings(record=True):
        assert pipeline._next_sound(Source({"label": row} for row in range(5)), bad[0]) == {"label": found}

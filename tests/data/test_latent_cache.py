"""The cache of latents: what is written is read, whatever interrupts it, and never taken for another."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from diffusion.data import latent_cache, latent_writer, pipeline
from diffusion.data.latent_cache import CacheError, Description
from diffusion.data.sources import DamagedRecord, DataSpec

SIZE, SHAPE = 11, (2, 3, 4)
SPEC = DataSpec("numbers", "train", (4, 6, 3), 5, SIZE, "1.0.0")


class Pictures:
    """Record k is a picture whose columns tell it from its mirror image, with label k mod 5."""

    def __len__(self):
        return SIZE

    def __getitem__(self, row):
        columns = 10 * row + np.arange(6, dtype=np.uint8)
        return {"image": np.broadcast_to(columns[None, :, None], (4, 6, 3)), "label": row % 5}


class Named(Pictures):
    """Pictures with names, of a dataset without a version."""

    spec = SPEC._replace(version="")

    def record_names(self):
        return [f"{row}.png" for row in range(SIZE)]

    def fingerprint(self):
        return {"records": SIZE, "sha256": "ab"}


def encode(images):
    """[B, 2, 2, 3, 4]: means that tell the picture's first column, and the log variance of a deviation of 0.5."""
    mean = np.broadcast_to(images[:, 0, 0, 0].astype(np.float32)[:, None, None, None], (len(images), *SHAPE))
    return np.stack([mean, np.full_like(mean, 2 * np.log(0.5))], axis=1)


def description(**changes):
    dataset = {
        "name": "numbers",
        "version": "1.0.0",
        "split": "train",
        "size": SIZE,
        "num_classes": 5,
        "shape": [4, 6, 3],
    }
    description = Description(
        dataset,
        {"family": "AutoencoderKL", "config": {"act_fn": "silu"}, "sha256": "ab" * 32},
        SHAPE,
        "moments",
        ("plain",),
        "float32",
        0.5,
        2.0,
    )
    return description._replace(**changes)


def write(folder, function=encode, of=None, source=None, spec=SPEC, **options):
    latent_writer.write(
        folder,
        source or Pictures(),
        spec,
        of or description(),
        function,
        **{"batch_size": 2, "threads": 0, "shard_records": 4} | options,
    )


def content(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir() if path.name != ".lock"}


def test_what_was_written_is_read(tmp_path):
    write(tmp_path)
    assert sorted(content(tmp_path)) == [f"latents-0000{i}-of-00003.array_record" for i in range(3)] + ["latents.json"]
    cache, spec = latent_cache.open_cache(tmp_path)
    assert spec == DataSpec("numbers", "train", SHAPE, 5, SIZE, "1.0.0", "float32") and len(cache) == SIZE
    assert latent_cache.describe(tmp_path) == description()
    for row, record in zip((7, 0, 10), cache.__getitems__([7, 0, 10])):
        assert record["label"] == row % 5
        np.testing.assert_array_equal(record["x"], encode(Pictures()[row]["image"][None]))


def test_training_reads_it_through_the_same_pipeline(tmp_path):
    write(tmp_path)
    cache, spec = latent_cache.open_cache(tmp_path)
    read = lambda **options: pipeline.batches(cache, spec, seed=1, threads=0, augment=(cache.draw,), **options)
    data = read(batch_size=4)
    first = [next(data) for _ in range(2 * SIZE)]
    assert first[0]["x"].shape == (4, *SHAPE) and first[0]["x"].dtype == np.float32
    x, labels, index = (np.concatenate([batch[name] for batch in first]) for name in ("x", "label", "index"))
    np.testing.assert_array_equal(index, np.arange(8 * SIZE))
    rows = np.concatenate([pipeline.permutation(SIZE, 1, e) for e in range(8)])
    np.testing.assert_array_equal(labels, rows % 5)
    # scale (mean + 0.5 eps - shift), a new eps for every epoch.
    eps = (x / 0.5 + 2 - 10.0 * rows[:, None, None, None]) / 0.5
    assert abs(eps.mean()) < 0.06 and eps.std() == pytest.approx(1, abs=0.05)
    same = eps[rows == 3]
    assert np.unique(same.round(4)).size == same.size
    # Where a run goes on, and how its batches are cut, changes nothing.
    again = next(read(batch_size=3, start=5, positions=(2, 0)))
    np.testing.assert_array_equal(again["x"], x[[7, 5]])


def test_mirrored_views_are_drawn_as_often(tmp_path):
    write(
        tmp_path,
        of=description(views=("plain", "flipped"), kind="mean", scale=1.0, shift=0.0),
        function=lambda images: encode(images)[:, :1],
    )
    cache, spec = latent_cache.open_cache(tmp_path)
    data = pipeline.batches(cache, spec, seed=0, batch_size=400, threads=0, augment=(cache.draw,))
    batch = next(data)
    rows = np.concatenate([pipeline.permutation(SIZE, 0, e) for e in range(40)])[:400]
    mirrored = batch["x"][:, 0, 0, 0] - 10 * rows
    assert set(mirrored) == {0, 5} and 160 < (mirrored == 5).sum() < 240


def test_mirrored_views_of_clips_are_mirrored_left_to_right(tmp_path):
    """The encoder sees the clip, and the clip whose columns are in the other order; rows and frames stay."""
    clip = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    seen = []

    def encode_clips(clips):
        seen.append(clips[0])
        return np.zeros((len(clips), 1, *SHAPE), np.float32)

    write(
        tmp_path,
        encode_clips,
        of=description(views=("plain", "flipped"), kind="mean"),
        source=[{"image": clip, "label": 0}] * SIZE,
        spec=SPEC._replace(shape=clip.shape),
    )
    np.testing.assert_array_equal(seen[0], clip)
    np.testing.assert_array_equal(seen[1], np.take(clip, range(5, -1, -1), axis=2))


def test_each_number_of_a_latent_has_a_noise_of_its_own():
    """Of deviation e, for the log variance is 2, about the mean 3, and then twice that."""
    moments = np.stack([np.full((40, 40, 2), value, np.float16) for value in (3, 2)])[None]
    cache = types.SimpleNamespace(_scale=np.float32(2), _shift=np.float32(0))
    drawn = latent_cache.Latents.draw(cache, np.random.default_rng(0), moments)
    assert drawn.dtype == np.float32 and len(np.unique(drawn)) > 3000
    assert drawn.mean() == pytest.approx(6, abs=0.3) and drawn.std() == pytest.approx(2 * np.e, rel=0.06)


def test_scale_and_shift_may_be_of_each_channel(tmp_path):
    scale, shift = (1.0, 2.0, 0.5, 3.0), (0.0, 1.0, -1.0, 0.25)
    write(
        tmp_path, of=description(kind="mean", scale=scale, shift=shift), function=lambda images: encode(images)[:, :1]
    )
    cache, _ = latent_cache.open_cache(tmp_path)
    drawn = cache.draw(np.random.default_rng(0), cache[3]["x"])
    np.testing.assert_allclose(drawn, np.broadcast_to((30 - np.array(shift)) * np.array(scale), SHAPE), rtol=1e-6)


def test_half_precision_takes_half_and_refuses_what_it_cannot_hold(tmp_path):
    write(tmp_path / "a", of=description(dtype="float16"))
    cache, _ = latent_cache.open_cache(tmp_path / "a")
    assert cache[4]["x"].dtype == np.float16 and cache[4]["x"][0, 0].max() == 40
    assert description(dtype="float16").record_bytes == 4 + 2 * 24 * 2 == description().record_bytes - 2 * 24 * 2
    with pytest.raises(ValueError, match="record 7 has values that are not finite in float16"):
        large = lambda images: np.where(encode(images) == 70, 1e5, encode(images))
        write(tmp_path / "b", large, of=description(dtype="float16"))


class Killed(Exception):
    pass


def test_an_interrupted_writing_goes_on_and_ends_in_the_same_files(tmp_path):
    write(tmp_path / "whole")
    calls = []

    def failing(images):
        calls.append(len(images))
        if len(calls) == 4:  # of six batches: within the second file
            raise Killed
        return encode(images)

    with pytest.raises(Killed):
        write(tmp_path / "resumed", failing)
    with pytest.raises(FileNotFoundError, match="its writing was never finished"):
        latent_cache.open_cache(tmp_path / "resumed")
    progress, counts = [], []

    def begin(records):
        counts.append(records)
        return progress.append

    calls[:] = [0] * 9
    write(tmp_path / "resumed", failing, begin=begin)
    assert counts == [7] and progress == [2, 4, 6, 7] and len(calls) == 13  # the first file was not made anew
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")
    write(tmp_path / "resumed", failing)
    assert len(calls) == 13


def test_a_cut_file_of_an_interrupted_writing_is_written_again(tmp_path):
    """Its size was noted as that of a whole file, and a training ended in a traceback."""
    write(tmp_path / "whole")
    calls = []

    def failing(images):
        calls.append(len(images))
        if len(calls) == 4:  # within the second file
            raise Killed
        return encode(images)

    with pytest.raises(Killed):
        write(tmp_path / "copied", failing)
    first = tmp_path / "copied/latents-00000-of-00003.array_record"
    first.write_bytes(first.read_bytes()[:-100])
    write(tmp_path / "copied")
    assert content(tmp_path / "copied") == content(tmp_path / "whole")


def test_a_file_without_its_end_is_no_traceback(tmp_path):
    """Of the noted length, with other bytes: the cache is damaged."""
    write(tmp_path)
    first = tmp_path / "latents-00000-of-00003.array_record"
    data = first.read_bytes()
    first.write_bytes(bytes(len(data)))
    with pytest.raises(CacheError, match=r"cannot be read: .*The cache on disk is damaged: remove .*diffusion encode"):
        latent_cache.open_cache(tmp_path)


def test_a_lost_or_cut_file_is_named_and_written_again(tmp_path):
    write(tmp_path)
    before = content(tmp_path)
    lost, cut = (tmp_path / f"latents-0000{i}-of-00003.array_record" for i in (0, 1))
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"latents-00001.*bytes, but .* were written"):
        latent_cache.open_cache(tmp_path)
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=r"latents-00000-of-00003.array_record is missing"):
        latent_cache.open_cache(tmp_path)
    write(tmp_path)
    assert content(tmp_path) == before
    cut.write_bytes(before[cut.name] + b"0")  # longer than it was written
    with pytest.raises(CacheError, match=r"latents-00001.*bytes, but .* were written"):
        latent_cache.open_cache(tmp_path)
    write(tmp_path)
    assert content(tmp_path) == before


def test_no_two_processes_write_one_folder(tmp_path):
    """The second would write into the parts of the first."""

    def encode_twice(images):
        with pytest.raises(CacheError, match="is being written by another process"):
            write(tmp_path)
        return encode(images)

    write(tmp_path, encode_twice)
    write(tmp_path)  # the lock ends with the writing


def test_a_writing_that_goes_on_notes_the_order_of_its_first_records(tmp_path):
    """What was not known of the latents that exist is not asserted later; what was known is not lost."""

    def interrupted(images):
        if images[0, 0, 0, 0] >= 50:  # within the second file
            raise Killed
        return encode(images)

    for name, first, then in (("unknown", Pictures(), Named()), ("known", Named(), Pictures())):
        with pytest.raises(Killed):
            write(tmp_path / name, interrupted, source=first)
        before = json.loads((tmp_path / name / latent_cache.BEGUN).read_text()).get(latent_cache.ORDER)
        assert (before is None) == (name == "unknown")
        write(tmp_path / name, source=then)
        after = json.loads((tmp_path / name / latent_cache.INDEX).read_text()).get(latent_cache.ORDER)
        assert after == before


def test_other_latents_are_refused_by_what_differs(tmp_path):
    write(tmp_path)
    other = {"family": "AutoencoderKL", "config": {"act_fn": "silu", "scaling_factor": 0.5}, "sha256": "cd" * 32}
    with pytest.raises(CacheError, match=r"autoencoder.config.scaling_factor: None -> 0.5; autoencoder.sha256: 'abab"):
        write(tmp_path, of=description(autoencoder=other))
    with pytest.raises(CacheError, match=r"views: \['plain'\] -> \['plain', 'flipped'\]"):
        write(tmp_path, of=description(views=latent_cache.VIEWS))
    there = latent_cache.describe(tmp_path)
    latent_cache.require(there, "numbers", "train", there.autoencoder)
    latent_cache.require(there, "numbers:1.0.0", "train")
    for wanted, match in [
        (("letters", "train"), "dataset.name is 'numbers' there, but the run needs 'letters'"),
        (("numbers", "test"), "dataset.split is 'train'"),
        (("numbers:2.0.0", "train"), "dataset.version is '1.0.0' there, but the run needs '2.0.0'"),
        (("numbers", "train", other), "autoencoder.sha256 is 'abab"),
    ]:
        with pytest.raises(CacheError, match=match):
            latent_cache.require(there, *wanted)


def test_damage_is_named_by_its_record(tmp_path):
    write(tmp_path)
    path = tmp_path / "latents-00001-of-00003.array_record"
    data = bytearray(path.read_bytes())
    at = data.find(np.full(4, 50, "<f4").tobytes())  # a mean of record 5
    data[at] ^= 255
    path.write_bytes(bytes(data))
    cache, spec = latent_cache.open_cache(tmp_path)
    assert cache[4]["label"] == 4
    with pytest.raises(DamagedRecord, match=r"latents of numbers \(train\): record 5 cannot be used"):
        cache.__getitems__([4, 5, 6])
    with pytest.warns(UserWarning, match="record 5"):
        batch = next(
            pipeline.batches(cache, spec, seed=0, batch_size=SIZE, threads=0, augment=(cache.draw,), damaged="skip")
        )
    assert batch["skipped"].sum() == 1
    with pytest.raises(IndexError, match=r"row 11 is not in 0\.\.10"):
        cache[11]


@pytest.mark.extended
@pytest.mark.parametrize(
    "change, match",
    [
        ({"format": 2}, "format 1"),
        ({"shape": [2, 3]}, "out of range"),
        ({"shape": [2, 3, -4]}, "damaged"),
        ({"kind": "median"}, "out of range|damaged"),
        ({"scale": [1.0, 2.0]}, "damaged"),
        ({"scale": float("nan")}, "range"),
        ({"views": "plain"}, "range|damaged"),
        ({"files": {"../x": 3}}, "damaged.*leads out"),
        ({"dataset": {}}, "damaged"),
        ({"dataset": {**description().dataset, "num_classes": -7}}, "out of range"),
        ({"dtype": "object"}, "range|damaged"),
        ({"files": []}, "damaged"),
        ({"pictures": [1]}, "range|damaged"),
        ({"order": 3}, "range|damaged"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path, change, match):
    write(tmp_path)
    path = tmp_path / "latents.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CacheError, match=match):
        latent_cache.open_cache(tmp_path)


def test_a_cache_cannot_claim_more_than_its_files_hold(tmp_path):
    write(tmp_path)
    path = tmp_path / "latents.json"
    there = json.loads(path.read_text())
    there["dataset"]["size"] = 10**15
    path.write_text(json.dumps(there))
    with pytest.raises(CacheError, match="declares 1,000,000,000,000,000 latents"):
        latent_cache.open_cache(tmp_path)


def test_what_the_encoder_gives_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"returns arrays of shape \(1, 1, 2, 3, 4\)"):
        write(tmp_path, lambda images: encode(images)[:, :1])


SCRIPT = """
import sys, time
from tests.data import test_latent_cache as t
def slow(images):
    time.sleep(0.2)
    return t.encode(images)
t.write(sys.argv[1], slow)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_another_goes_on_with_and_two_do_not_write_at_once(tmp_path):
    write(tmp_path / "whole")
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=pathlib.Path(__file__).parents[2])
    first = folder / "latents-00000-of-00003.array_record"
    while not first.exists():
        assert process.poll() is None
    with pytest.raises(CacheError, match="is being written by another process"):
        write(folder)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "latents.json").exists()
    write(folder)
    found = {name: data for name, data in content(folder).items() if not name.endswith(".part")}
    assert found == content(tmp_path / "whole")


STORED, VIEWED = {"records": 11, "sha256": "ab"}, {"records": 11, "sha256": "ab", "pixels": "viewed"}


@pytest.mark.parametrize(
    "earlier, now, message",
    [
        (None, VIEWED, r'an earlier version encoded from the stored pixels.*"viewed": false in the source, or remove'),
        (None, {"of": [VIEWED]}, "encoded from the stored pixels"),
        (
            STORED,
            VIEWED,
            r'with the fingerprint .*"ab"\}; now it is .*"viewed"\}\. Read the same pictures in the same way',
        ),
        (STORED, STORED | {"sha256": "cd"}, "Read the same pictures"),
        (None, STORED, None),
        (VIEWED, VIEWED, None),
    ],
)
def test_a_part_of_other_pixels_is_not_completed(tmp_path, earlier, now, message):
    """One that earlier versions began holds the stored pixels of pictures, and its description says nothing of it."""
    count = 0

    def dies(images):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return encode(images)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, dies, fingerprint=earlier)
    assert (tmp_path / "latents-00000-of-00003.array_record").is_file()
    if message is None:
        write(tmp_path, fingerprint=now)
        assert latent_cache.describe(tmp_path) == description()
        write(tmp_path, fingerprint=VIEWED)  # nothing is missing
        return
    before = content(tmp_path)
    with pytest.raises(CacheError, match=message):
        write(tmp_path, fingerprint=now)
    assert content(tmp_path) == before


def test_nothing_encoded_yet_is_no_part_of_other_pixels(tmp_path):
    def dies(images):
        raise KeyboardInterrupt

    for fingerprint in (None, VIEWED):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, dies, fingerprint=fingerprint)
    assert json.loads((tmp_path / "encoding.json").read_text())["pictures"] == VIEWED


def test_a_finished_cache_of_other_pictures_is_refused(tmp_path):
    """A second folder of the same name and size was taken for the first, whose latents are there."""
    first = {"records": 10, "sha256": "ab"}
    write(tmp_path, fingerprint=first)
    index = (tmp_path / latent_cache.INDEX).read_text()
    with pytest.raises(CacheError, match=r"latents of other pictures: sha256 'ab' -> 'cd'\. Choose another folder"):
        write(tmp_path, fingerprint={**first, "sha256": "cd", "pixels": "viewed"})
    assert (tmp_path / latent_cache.INDEX).read_text() == index
    write(tmp_path, fingerprint={**first, "pixels": "viewed"})  # which earlier versions do not state


@pytest.mark.parametrize("name", ["config.json", "checkpoints", "picture.png"])
def test_a_folder_with_other_files_is_no_folder_of_a_cache(tmp_path, name):
    """`diffusion encode --out=RUN` wrote latents among the files of a run without a word."""
    other = tmp_path / name
    other.mkdir() if "." not in name else other.write_text("")
    with pytest.raises(CacheError, match=rf"holds {name}, but no cache of latents\. Valid: a new or empty folder, or"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    other.rmdir() if other.is_dir() else other.unlink()
    write(tmp_path / "features", of=description(dtype="float16"))  # features may be written before the latents
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("")  # beside a cache, which is known by its description
    write(tmp_path)

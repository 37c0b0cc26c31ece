"""Sets of images: the same pixels from every kind of file, and what cannot be measured is refused in words."""

import hashlib
import io
import os
import pathlib
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from diffusion.data import catalog, sources
from diffusion.metrics import image_sets
from diffusion.metrics.image_sets import ImageSetError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


def png(image):
    data = io.BytesIO()
    Image.fromarray(image).save(data, "png")
    return data.getvalue()


def folder(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        place = path / f"{i // 3}" / f"{i:02}.png"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(png(image))
    return path


def array_record(path, images):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for image in images:
        writer.write(png(image))
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["arr_0", "images", "folder", "array_record", "array"])
def test_every_kind_gives_the_same_pixels(tmp_path, images, kind):
    if kind == "folder":
        found = image_sets.open_set(str(folder(tmp_path / "pngs", images)))
    elif kind == "array_record":
        found = image_sets.open_set(str(array_record(tmp_path / "a.array_record", images)))
    elif kind == "array":
        found = image_sets.from_array(images)
    else:
        np.savez(tmp_path / "a.npz", **{kind: images, "labels": np.zeros(7)})
        found = image_sets.open_set(str(tmp_path / "a.npz"))
    assert (found.count, found.shape) == (7, (6, 5, 3))
    np.testing.assert_array_equal(found.read(0, 7), images)
    np.testing.assert_array_equal(found.read(2, 5), images[2:5])
    assert found.record["dtype"] == "uint8"


def test_grey_pictures_have_one_channel(tmp_path, images):
    found = image_sets.open_set(str(folder(tmp_path / "grey", images[..., 0])))
    np.testing.assert_array_equal(found.read(0, 7), images[..., :1])


def test_a_dataset_at_its_split():
    found = image_sets.open_set("digits@test[:20]")
    records, spec = sources.open_source("digits", "test[:20]")
    assert (found.count, found.shape) == (20, spec.shape)
    np.testing.assert_array_equal(found.read(3, 9), np.stack([records[i]["image"] for i in range(3, 9)]))
    assert found.fingerprint != image_sets.open_set("digits@test[:21]").fingerprint
    assert found.fingerprint == image_sets.open_set("digits@test[:20]").fingerprint


def test_a_dataset_that_was_prepared_anew_is_another_set_for_features_on_disk(tmp_path):
    """Its files have whole blocks of 64 KiB: other pictures, of equal sizes, had the features of the earlier ones."""
    prepared = pathlib.Path(catalog.find("digits"))
    copy = tmp_path / "digits" / prepared.name
    shutil.copytree(prepared, copy)
    before = image_sets.open_set("digits@test", str(tmp_path))
    pictures = before.read(0, before.count)
    (path,) = copy.glob("*-test.*")
    reader, size = ArrayRecordReader(str(path)), path.stat().st_size
    stored = reader.read_all()
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in reversed(stored):
        writer.write(record)
    writer.close()
    os.utime(path, (0, 0))
    after = image_sets.open_set("digits@test", str(tmp_path))
    np.testing.assert_array_equal(after.read(0, after.count), pictures[::-1])
    assert path.stat().st_size == size and after.stamp != before.stamp
    assert image_sets.open_set("digits@test", str(tmp_path)).stamp == after.stamp


def test_the_digest_of_files_is_of_their_bytes_in_order_and_of_their_names_by_choice(tmp_path):
    paths = [tmp_path / "b", tmp_path / "a"]
    paths[0].write_bytes(b"xyz")
    paths[1].write_bytes(b"u")
    assert image_sets.files_digest(paths) == hashlib.sha256(b"xyzu").hexdigest()
    assert image_sets.files_digest(paths, named=True) == hashlib.sha256(b"b 3\nxyza 1\nu").hexdigest()


def test_the_fingerprint_is_of_the_content(tmp_path, images):
    first = image_sets.open_set(str(folder(tmp_path / "a", images))).fingerprint
    assert first == image_sets.open_set(str(folder(tmp_path / "b", images))).fingerprint
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    assert first == image_sets.open_set(str(tmp_path / "b")).fingerprint
    images[6, 5, 4, 2] ^= 1
    assert first != image_sets.open_set(str(folder(tmp_path / "c", images))).fingerprint


@pytest.mark.parametrize(
    "array, match",
    [
        (np.zeros((4, 3, 8, 8), np.uint8), "channels first"),
        (np.zeros((4, 8, 8), np.uint8), r"shape \[4, 8, 8\]"),
        (np.zeros((4, 8, 8, 4), np.uint8), "alpha"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"\[0, 8, 8, 3\]"),
        (np.zeros((4, 8, 8, 3), np.int64), "int64"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, match):
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(ImageSetError, match=match):
        image_sets.open_set(str(tmp_path / "a.npz"))
    with pytest.raises(ImageSetError, match=match):
        image_sets.from_array(array)


def test_two_arrays_of_images_in_one_file_are_refused(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images, samples=images[::-1])
    with pytest.raises(ImageSetError, match=r"holds images and samples\. Valid: a single array of images"):
        image_sets.open_set(str(tmp_path / "a.npz"))


def test_arrays_are_not_resized(tmp_path, images):
    np.savez(tmp_path / "a.npz", images[:, :5])
    assert image_sets.open_set(str(tmp_path / "a.npz"), side=5).shape == (5, 5, 3)
    for side, array in ((4, images[:, :5]), (5, images), (6, images)):
        np.savez(tmp_path / "a.npz", array)
        with pytest.raises(ImageSetError, match=rf"images of {array.shape[1]} x 5 pixels.* side is {side}\."):
            image_sets.open_set(str(tmp_path / "a.npz"), side=side)


def test_pictures_that_do_not_fit(tmp_path, images):
    path = folder(tmp_path / "pngs", images)
    (path / "1" / "04.png").write_bytes(png(images[0, :4]))
    with pytest.raises(ImageSetError, match=r"04\.png has the shape \[4, 5, 3\]"):
        image_sets.open_set(str(path)).read(0, 7)
    (path / "1" / "04.png").write_bytes(png(images[0])[:60])
    with pytest.raises(ImageSetError, match=r"04\.png is not a valid picture"):
        image_sets.open_set(str(path)).read(0, 7)
    (path / "0" / "00.png").write_bytes(png(np.dstack([images[0], images[0, :, :, :1]])))
    with pytest.raises(ImageSetError, match="mode RGBA"):
        image_sets.open_set(str(path))


def test_what_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    (tmp_path / "a.txt").write_text("no images")
    broken = tmp_path / "b.array_record"
    broken.write_bytes(b"\0" * 100)
    writer = ArrayRecordWriter(str(tmp_path / "c.array_record"), "group_size:1")
    writer.write(b"no picture")
    writer.close()
    for spec, match in [
        ("nowhere.npz", "does not exist"),
        (f"{tmp_path}/empty", "holds no pictures"),
        (f"{tmp_path}/other.npz", r"images\. Valid: an array named arr_0, images, samples"),
        (f"{tmp_path}/a.txt", "is not a set of images"),
        ("digits@tset", "no split 'tset'"),
        ("no_such_dataset@test", "is not in"),
        (str(broken), "not a valid array_record"),
        (f"{tmp_path}/c.array_record", "not encoded pictures"),
    ]:
        with pytest.raises(ImageSetError, match=match):
            image_sets.open_set(spec)


def test_a_side_makes_squares_of_the_pictures_of_a_folder(tmp_path):
    """The side halves by averaging, as ADM's code does, and the middle is kept."""
    wide = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    square = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    for name, picture in (("0.png", wide), ("1.png", square)):
        Image.fromarray(picture).save(tmp_path / name)
    images = image_sets.open_set(str(tmp_path), side=8)
    assert images.count == 2 and images.shape == (8, 8, 3) and images.record["side"] == 8
    assert "side" not in image_sets.open_set(str(tmp_path)).record
    halved = wide.reshape(8, 2, 12, 2, 3).mean((1, 3))
    np.testing.assert_allclose(images.read(0, 2)[0], halved[:, 2:10], atol=1)  # Pillow rounds twice
    np.testing.assert_array_equal(images.read(0, 2)[1], square)
    others = image_sets.open_set(str(tmp_path), side=4)
    assert others.shape == (4, 4, 3) and others.fingerprint != images.fingerprint
    with pytest.raises(image_sets.ImageSetError, match="all must have one shape"):
        image_sets.open_set(str(tmp_path)).read(0, 2)

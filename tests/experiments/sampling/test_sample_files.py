"""What is read of a folder of samples, and which samples can be compared with a dataset."""

import json

import numpy as np
import pytest

from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sampling import sample_files

IMAGES = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)


def test_images_and_labels_come_back_as_they_were_written(tmp_path):
    np.savez(tmp_path / "samples.npz", images=IMAGES, labels=np.array([3, 1], np.uint8), seeds=[0, 1])
    images, labels = sample_files.read_samples(tmp_path)
    np.testing.assert_array_equal(images, IMAGES)
    assert images.dtype == np.uint8 and labels.dtype == np.int64 and labels.tolist() == [3, 1]


def test_leaves_of_a_pytree_are_packed_side_by_side_in_their_order(tmp_path):
    leaves = {"images/b": np.array([[1, 2], [3, 4]], np.float64), "images/a": np.array([[[5], [6]], [[7], [8]]])}
    np.savez(tmp_path / "samples.npz", **leaves, labels=np.array([0, 1]))
    images, labels = sample_files.read_samples(str(tmp_path))
    np.testing.assert_array_equal(images, [[1, 2, 5, 6], [3, 4, 7, 8]])
    assert images.dtype == np.float32 and labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "arrays, message",
    [
        (None, "samples.npz does not exist"),
        ({"labels": np.zeros(2, int)}, r"lacks images; it holds only \['labels'\]"),
        ({"images": IMAGES}, r"lacks labels; it holds only \['images'\]"),
        ({"images/a": IMAGES}, r"lacks labels; it holds only \['images/a'\]"),
        ({"seeds": IMAGES}, r"lacks images, labels; it holds only \['seeds'\]"),
        ({"images": IMAGES, "labels": np.zeros(2)}, "labels are float64. Valid: integers"),
        ({"images": IMAGES, "labels": np.zeros(2, bool)}, "labels are bool. Valid: integers"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(WorkdirError, match=rf"{message}.* Make it by: .*sample"):
        sample_files.read_samples(tmp_path)


def test_a_damaged_file_is_refused_with_the_cause(tmp_path):
    (tmp_path / "samples.npz").write_bytes(b"torn")
    with pytest.raises(WorkdirError, match=r"samples\.npz cannot be read \(.+\)\. Make it by"):
        sample_files.read_samples(tmp_path)


def test_the_record_is_a_table_or_none(tmp_path):
    assert sample_files.read_record(tmp_path) is None
    for content, found in (({"nfe": 4}, {"nfe": 4}), ([1, 2], None), ("x", None)):
        (tmp_path / "samples.json").write_text(json.dumps(content))
        assert sample_files.read_record(tmp_path) == found
    (tmp_path / "samples.json").write_text("{")
    assert sample_files.read_record(tmp_path) is None


def test_two_samples_of_all_classes_are_enough():
    sample_files.check_samples(IMAGES, np.array([1, 0]), (2, 2, 3), 2)
    sample_files.check_samples(IMAGES, np.array([7, 9]), (2, 2, 3), 0)  # of data without classes
    sample_files.check_samples(IMAGES, np.array([1, 0]), (2, 2, 3), 10)  # as many classes as samples
    more = np.concatenate([IMAGES, IMAGES])
    sample_files.check_samples(more, np.array([2, 0, 1, 1]), (2, 2, 3), 3)


@pytest.mark.parametrize(
    "images, labels, classes, message",
    [
        (IMAGES.astype(np.float32), [0, 1], 2, r"images of type float32\. Valid: uint8"),
        (IMAGES[0], [0, 1], 2, r"images of shape \[2, 2, 3\]\. Valid: \[N, 2, 2, 3"),
        (IMAGES[..., :1], [0, 1], 2, r"images of shape \[2, 2, 2, 1\]\. Valid: \[N, 2, 2, 3"),
        (IMAGES, [0, 1, 1], 2, r"2 images, but labels of shape \[3\]"),
        (IMAGES[:1], [0], 1, "there are only 1 samples, but a distance needs at least 2"),
        (IMAGES, [0, 2], 2, r"labels \[2\], which are not classes of the dataset\. Valid: 0 to 1"),
        (IMAGES, [0, -1], 2, r"labels \[-1\], which are not classes"),
        (np.concatenate([IMAGES, IMAGES]), [0, 2, 2, 0], 3, r"the samples have none of the classes \[1"),
        (IMAGES, [0, 0], 10, r"the samples have none of the classes \[1"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(images, labels, classes, message):
    with pytest.raises(WorkdirError, match=message):
        sample_files.check_samples(images, np.array(labels), (2, 2, 3), classes)

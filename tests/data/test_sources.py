"""Opening datasets by name: what is refused, in which words, and what a record is."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from diffusion.data import catalog, pipeline, sources
from diffusion.data.sources import spec as records_spec, tfds_records
from tests.data.made import image_feature, png, write

TFDS_NAMES = "tensorflow_datasets.core.features"
GREY = np.full((4, 4, 3), 128, np.uint8)
RED = np.full((4, 4, 3), (255, 0, 0), np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a dataset of three records, the last of which has a damaged image."""
    features = {
        "image": image_feature(),
        "mask": image_feature(),
        "label": tfds.features.ClassLabel(num_classes=2),
        "caption": tfds.features.Text(),
    }
    images = (png(GREY), png(RED), png(RED)[:40])
    examples = [
        {"image": image, "mask": b"not needed, so never decoded", "label": k % 2, "caption": "a square"}
        for k, image in enumerate(images)
    ]
    return write(tmp_path_factory.mktemp("made"), features, examples)


@pytest.fixture
def copy(made, tmp_path):
    """A copy of that dataset to tamper with; returns its root and the folder of its version."""
    shutil.copytree(made, tmp_path / "copy")
    return str(tmp_path / "copy"), tmp_path / "copy" / "made" / "1.2.0"


def test_records(made):
    source, spec = sources.open_source("made", "train", made)
    assert spec == sources.DataSpec("made", "train", (4, 4, 3), 2, 3, "1.2.0", classes=("0", "1"))
    assert sources.describe("made", "train", made) == spec
    assert len(source) == 3
    record = source[1]
    assert record.keys() == {"image", "label"} and record["label"] == 1
    np.testing.assert_array_equal(record["image"], RED)
    assert [r["label"] for r in source.__getitems__([1, 0, 1])] == [1, 0, 1]


@pytest.mark.parametrize("file, change", [
    ("dataset_info.json", lambda content: content.update(fileFormat=["array_record"])),
    ("dataset_info.json", lambda content: content["splits"][0].update(shardLengths=[{}])),
    ("dataset_info.json", lambda content: content["splits"][0].update(filepathTemplate="{DATASET}-{ODD}")),
    ("dataset_info.json", lambda content: content.update(odd=1)),
    ("features.json", lambda content: content.update(pythonClassName=["a"])),
    ("features.json", lambda content: content["featuresDict"]["features"]["image"].pop("image")),
])  # fmt: skip
def test_descriptions_that_tfds_cannot_read_are_named(copy, file, change):
    """Errors of protobuf and of TFDS ended in tracebacks, without the file."""
    root, place = copy
    content = json.loads((place / file).read_text())
    change(content)
    (place / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(place))}: its dataset_info\.json or .*Prepare the dataset"):
        sources.open_source("made", "train", root)


def test_what_is_kept_in_memory_cannot_be_changed(made):
    source, _ = sources.open_source("made", "train", made)
    with pytest.raises(ValueError, match="read-only"):
        source[0]["image"][0] = 0


def test_records_are_kept_in_memory_only_if_they_fit(made, monkeypatch):
    source, _ = sources.open_source("made", "train", made)
    assert source[0] is source[0]
    monkeypatch.setattr(records_spec, "MEMORY_LIMIT", 3 * 48 - 1)
    source, _ = sources.open_source("made", "train", made)
    assert source[0] is not source[0]
    np.testing.assert_array_equal(source[0]["image"], GREY)


def test_a_part_of_a_split(made):
    source, spec = sources.open_source("made", "train[1:2]", made)
    assert len(source) == spec.size == 1
    np.testing.assert_array_equal(source[0]["image"], RED)


def test_a_damaged_image_is_named_by_its_record(made):
    source, spec = sources.open_source("made", "train", made)
    with pytest.raises(ValueError, match=r"made \(train\): record 2 cannot be used"):
        list(pipeline.epoch(source, spec, 3))
    with pytest.raises(IndexError, match=r"row 3 is not in 0\.\.2"):
        source[3]


def test_a_damaged_file_is_named_by_its_record(copy):
    root, folder = copy
    (path,) = folder.glob("*.array_record*")
    content = bytearray(path.read_bytes())
    at = content.index(png(RED))
    content[at + 50] ^= 1
    path.write_bytes(content)
    source, spec = sources.open_source("made", "train", root)
    with pytest.raises(ValueError, match=r"made \(train\): record 1 cannot be used"):
        list(pipeline.epoch(source, spec, 2))
    np.testing.assert_array_equal(source[0]["image"], GREY)


def test_a_missing_file_is_named(copy):
    root, folder = copy
    (path,) = folder.glob("*.array_record*")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        sources.open_source("made", "train", root)


def test_records_that_contradict_the_description_are_named(copy):
    root, folder = copy
    path = folder / "features.json"
    content = json.loads(path.read_text())
    content["featuresDict"]["features"]["image"]["image"]["shape"]["dimensions"] = ["4", "5", "3"]
    path.write_text(json.dumps(content))
    source, _ = sources.open_source("made", "train", root)
    with pytest.raises(ValueError, match=r"record 0 .* \(4, 4, 3\); expected \(4, 5, 3\)"):
        source[0]


def test_a_number_of_classes_that_would_fill_the_memory_is_refused(copy):
    """TFDS makes a name for each class, and its description can declare any number."""
    root, folder = copy
    path = folder / "features.json"
    content = json.loads(path.read_text())
    label = content["featuresDict"]["features"]["label"]
    label["classLabel"]["numClasses"] = "1000001"
    path.write_text(json.dumps(content))
    for name in folder.glob("*labels.txt"):
        name.unlink()
    with pytest.raises(ValueError, match=r"declares 1,000,001 classes; at most 1,000,000 are read"):
        sources.open_source("made", "train", root)


@pytest.mark.parametrize("most, valid", [(2, True), (1, False)])
def test_as_many_classes_as_are_read_are_valid(made, monkeypatch, most, valid):
    monkeypatch.setattr(tfds_records, "CLASSES", most)
    if valid:
        assert sources.describe("made", "train", made).num_classes == 2
    else:
        with pytest.raises(ValueError, match="declares 2 classes; at most 1 are read"):
            sources.describe("made", "train", made)


def test_a_label_out_of_range_is_named(tmp_path):
    features = {"image": image_feature(), "label": tfds.features.ClassLabel(num_classes=2)}
    root = write(tmp_path, features, [{"image": png(RED), "label": -1}])
    source, _ = sources.open_source("made", "train", root)
    with pytest.raises(ValueError, match=r"record 0 .* label is -1\. Valid: 0\.\.1"):
        source[0]


def test_a_dataset_without_labels(tmp_path):
    root = write(tmp_path, {"image": image_feature()}, [{"image": png(RED)}] * 2)
    source, spec = sources.open_source("made", "train", root)
    assert spec.num_classes == 0
    assert source[0].keys() == {"image"}
    batch = next(pipeline.batches(source, spec, seed=0, batch_size=4))
    assert batch["label"].tolist() == [0, 0, 0, 0]


def test_a_dataset_without_images_says_what_it_has(tmp_path):
    root = write(
        tmp_path, {"text": tfds.features.Text(), "image": tfds.features.Scalar(np.int64)}, [{"text": "no", "image": 3}]
    )
    with pytest.raises(ValueError, match=r"no image feature .* its features are image \(Scalar\), text \(Text\)"):
        sources.describe("made", "train", root)


@pytest.mark.parametrize("options", [{"shape": (None, None, 3)}, {"dtype": np.uint16, "shape": (4, 4, 1)}])
def test_images_that_cannot_be_batched_are_refused(tmp_path, options):
    image = png(RED) if "dtype" not in options else png(np.zeros((4, 4), np.uint16))
    root = write(tmp_path, {"image": image_feature(**options)}, [{"image": image}])
    with pytest.raises(ValueError, match="cannot be batched"):
        sources.describe("made", "train", root)


def test_a_split_that_is_not_there_lists_those_that_are(made):
    with pytest.raises(ValueError, match="made has no split 'valid'; its splits are train"):
        sources.describe("made", "valid", made)


@pytest.mark.parametrize("part", ["[2:1]", "[3:1]", "[100%:0%]", "[-1:-3]", "[:2]+train[2:1]"])
def test_a_part_that_ends_before_it_begins_is_refused(made, part):
    """TFDS counts -2 records of [3:1], and reads all records after the second for [2:1]."""
    for open_part in (sources.describe, sources.open_source):
        with pytest.raises(
            ValueError, match=r"a part of split 'train.*' ends before it begins \(\[\d:\d\] of 'train'\)"
        ):
            open_part("made", f"train{part}", made)


def test_parts_that_touch_or_count_from_the_end(made):
    assert sources.describe("made", "train[-2:-1]+train[2:]+train[:0]", made).size == 2


def test_a_dataset_that_is_not_there_says_where_it_looked_and_what_to_do(made):
    with pytest.raises(FileNotFoundError) as caught:
        sources.open_source("mode", "train", made)
    message = str(caught.value)
    for part in ("'mode'", made, "made:1.2.0", "bundled: digits", "Did you mean 'made'?", "array_record", "data_dir"):
        assert part in message
    assert "Nothing is downloaded" in message


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent \(data_dir\): no such folder"):
        sources.open_source("cifar10", "train", str(tmp_path / "absent"))


def test_where_datasets_are_looked_for(made, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", made)
    assert sources.describe("made", "train").size == 3
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path / 'absent'} \(data_dir\)"):  # what is named comes first
        sources.describe("made", "train", str(tmp_path / "absent"))
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "tensorflow_datasets")):
        sources.describe("made", "train")


def test_the_highest_version_is_taken_unless_one_is_named(tmp_path):
    for version, count in (("1.9.0", 1), ("1.10.0", 2)):
        write(tmp_path, {"image": image_feature()}, [{"image": png(RED)}] * count, version=version)
    assert sources.describe("made", "train", str(tmp_path)).size == 2
    assert sources.describe("made:1.9.0", "train", str(tmp_path)).size == 1
    with pytest.raises(FileNotFoundError, match=r"it holds made:1\.10\.0, made:1\.9\.0"):
        sources.describe("made:2.0.0", "train", str(tmp_path))


def test_datasets_with_configs(made, tmp_path):
    shutil.copytree(Path(made) / "made", tmp_path / "made" / "small")
    assert sources.describe("made/small", "train", str(tmp_path)).size == 3
    assert catalog.available(tmp_path) == ["made/small:1.2.0"]
    with pytest.raises(FileNotFoundError, match=r"made/small:1\.2\.0"):
        sources.describe("made", "train", str(tmp_path))


@pytest.mark.parametrize("name", ["", "../made", "made:latest", "made/", "a/b/c"])
def test_names_of_another_form_are_refused(made, name):
    with pytest.raises(ValueError, match="not of the form"):
        sources.describe(name, "train", made)


def test_another_file_format_is_refused(copy):
    root, folder = copy
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match=r"stored as tfrecord.*convert_format"):
        sources.describe("made", "train", root)


FOREIGN = {"pythonClassName": "planted.Evil", "tensor": {}}
HIDDEN = {
    "top": {"pythonClassName": "planted.Evil", "featuresDict": {}},
    "nested": {
        "pythonClassName": f"{TFDS_NAMES}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": FOREIGN}},
    },
    "snake_case": {
        "pythonClassName": f"{TFDS_NAMES}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": {"python_class_name": "planted.Evil", "tensor": {}}}},
    },
    "in_a_sequence": {
        "pythonClassName": f"{TFDS_NAMES}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "list": {"pythonClassName": f"{TFDS_NAMES}.sequence_feature.Sequence", "sequence": {"feature": FOREIGN}}
            }
        },
    },
    "legacy": {"type": "planted.Evil", "content": {}},
    "legacy_nested": {
        "type": f"{TFDS_NAMES}.features_dict.FeaturesDict",
        "content": {"image": {"type": "planted.Evil", "content": {}}},
    },
    "text_in_text": {
        "pythonClassName": f"{TFDS_NAMES}.features_dict.FeaturesDict",
        "jsonFeature": {"json": json.dumps({"image": {"type": "planted.Evil", "content": {}}})},
    },
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module that writes a file when it is imported; returns that file."""
    evidence = tmp_path / "it_ran"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "planted.py").write_text(f"open({str(evidence)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield evidence
    sys.modules.pop("planted", None)


@pytest.mark.parametrize("content", HIDDEN.values(), ids=HIDDEN)
def test_a_foreign_module_is_never_imported(copy, planted, content):
    root, folder = copy
    (folder / "features.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"(names the feature class 'planted\.Evil'|is not in the form)"):
        sources.open_source("made", "train", root)
    assert not planted.exists() and "planted" not in sys.modules
    # The danger is real: TFDS alone would have run it.
    with pytest.raises(Exception):  # noqa: B017, whatever comes after the import
        tfds.builder_from_directory(folder)
    assert planted.exists()


def test_a_features_file_that_is_not_json_is_named(copy):
    root, folder = copy
    (folder / "features.json").write_text("{")
    with pytest.raises(ValueError, match=r"features\.json is not valid JSON"):
        sources.describe("made", "train", root)


CIFAR10 = pytest.mark.skipif(
    not list(Path(os.environ.get("TFDS_DATA_DIR", "/nonexistent")).glob("cifar10/*/features.json")),
    reason="TFDS_DATA_DIR holds no cifar10",
)


@CIFAR10
@pytest.mark.real_data
@pytest.mark.slow
def test_cifar10_is_the_published_dataset():
    specs = {split: sources.describe("cifar10", split) for split in ("train", "test")}
    assert {split: (spec.size, spec.shape, spec.num_classes) for split, spec in specs.items()} == {
        "train": (50_000, (32, 32, 3), 10),
        "test": (10_000, (32, 32, 3), 10),
    }
    source, spec = sources.open_source("cifar10", "train")
    total = np.zeros(3)
    labels = np.zeros(10, int)
    for batch in pipeline.epoch(source, spec, 500):
        total += batch["image"].sum(axis=(0, 1, 2), dtype=np.int64)
        labels += np.bincount(batch["label"], minlength=10)
    np.testing.assert_allclose(total / (50_000 * 32 * 32 * 255), [0.4914, 0.4822, 0.4465], atol=5e-5)
    assert labels.tolist() == [5000] * 10


@pytest.mark.extended
@CIFAR10
@pytest.mark.real_data
def test_cifar10_is_read_without_tensorflow():
    code = (
        "import sys; from diffusion.data import pipeline, sources, transforms;"
        "batch = next(pipeline.batches(*sources.open_source('cifar10', 'test'), seed=0, batch_size=8,"
        " augment=(transforms.flip(), transforms.crop())));"
        "print(batch['image'].shape, 'tensorflow' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "(8, 32, 32, 3) False\n", done.stderr


def test_images_of_several_sizes_are_read_as_squares(tmp_path):
    pictures = [np.full((8 + k, 12, 3), 40 * k, np.uint8) for k in range(3)]
    folder = write(tmp_path, {"image": image_feature(shape=(None, None, 3))}, [{"image": png(x)} for x in pictures])
    with pytest.raises(ValueError, match=r"None: this side varies\) and cannot be batched"):
        sources.open_source("made", "train", folder)
    source, spec = sources.open_source("made", "train", folder, side=6)
    assert spec.shape == (6, 6, 3)
    np.testing.assert_array_equal([record["image"][0, 0, 0] for record in source.__getitems__([0, 1, 2])], [0, 40, 80])

"""Every format of files holds the same records, in an order that a seed shuffles alike; what is damaged is named."""

import io
import json
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffusion.data import pipeline, sources
from diffusion.data.sources import columns, picture_files
from tests.data.made import png
from tests.data.sources import stored

OPEN = {name: getattr(sources, name) for name in stored.FORMATS}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=stored.FORMATS)
def entry(request, tmp_path):
    return stored.FORMATS[request.param](tmp_path / "data")


def opened(entry, split="train", **arguments):
    return OPEN[entry["name"]](entry["path"], split, **arguments)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_format_holds_the_records(entry, tmp_path):
    before = contents(tmp_path / "data")
    source = opened(entry)
    assert source.spec.shape == (4, 4, 3) and source.spec.num_classes == 2 and len(source) == stored.NUMBER
    found = {source[row]["image"].tobytes(): source[row]["label"] for row in range(len(source))}
    assert found == {picture.tobytes(): label for picture, label in zip(stored.PICTURES, stored.LABELS)}
    assert contents(tmp_path / "data") == before  # nothing is written into a folder that was given
    expected = stored.NAMES if entry["name"] in ("class_folders", "picture_folder", "parquet") else ("0", "1")
    assert source.spec.classes == expected and source.where.startswith(str(tmp_path / "data"))


def test_the_sequence_of_examples_is_exact_wherever_a_run_goes_on(entry):
    source = opened(entry)
    batches = lambda **how: pipeline.batches(source, source.spec, seed=3, batch_size=4, threads=0, **how)
    whole = batches()
    several = [next(whole) for _ in range(5)]
    later = batches(start=12)
    for expected in several[3:]:
        found = next(later)
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
    halves = [next(batches(start=8, positions=positions)) for positions in ([0, 2], [1, 3])]  # two processes
    np.testing.assert_array_equal(halves[0]["image"], several[2]["image"][[0, 2]])
    np.testing.assert_array_equal(halves[1]["image"], several[2]["image"][[1, 3]])


def test_parts_and_fingerprints(entry):
    first = opened(entry, "train[:50%]")
    rest = opened(entry, "train[50%:]")
    pictures = [source[row]["image"].tobytes() for source in (first, rest) for row in range(len(source))]
    assert len(first) == len(rest) == 3 and len(set(pictures)) == 6
    assert first.fingerprint() == opened(entry, "train[:50%]").fingerprint() != rest.fingerprint()
    with pytest.raises(ValueError, match="no split 'test'"):
        opened(entry, "test")


def test_squares_are_made_of_pictures_of_several_sizes(tmp_path):
    for name in ("class_folders", "picture_folder", "tar_shards", "parquet"):
        made = opened(stored.FORMATS[name](tmp_path / name), side=2)
        assert made.spec.shape == (2, 2, 3) and made[5]["image"].shape == (2, 2, 3)


def test_a_damaged_picture_is_named_by_its_file_and_place(tmp_path):
    good = png(stored.PICTURES[3])
    for name, place in (("class_folders", r"dog/3\.png"), ("tar_shards", r"train-0\.tar, record '0003' at byte \d+")):
        entry = stored.FORMATS[name](tmp_path / name)
        for path in (tmp_path / name).rglob("*"):
            if path.is_file() and good in (content := path.read_bytes()):
                path.write_bytes(content.replace(good, good[:40] + b"\0" * (len(good) - 40)))
        source = opened(entry)
        bad = [row for row in range(6) if _is_damaged(source, row)]
        assert len(bad) == 1
        with pytest.raises(sources.DamagedRecord, match=rf"{place} \(record {bad[0]}\) cannot be used"):
            source[bad[0]]
        with pytest.warns(UserWarning, match="left out"):
            batch = next(pipeline.batches(source, source.spec, seed=0, batch_size=6, threads=0, damaged="skip"))
        assert batch["skipped"].sum() == 1


def _is_damaged(source, row):
    try:
        return not source[row]
    except sources.DamagedRecord:
        return True


def test_a_damaged_array_record_is_named(tmp_path):
    entry = stored.array_records(tmp_path / "data")
    picture = stored.PICTURES[2].tobytes()
    (path,) = (tmp_path / "data").iterdir()
    content = path.read_bytes()
    assert content.count(picture) == 1
    path.write_bytes(content.replace(picture, picture[::-1]))
    with pytest.raises(sources.DamagedRecord, match=r"train\.array_record, record 2 \(record 2\) cannot be used"):
        opened(entry, label="")[2]


def test_mixed_sizes_are_named(tmp_path):
    entry = stored.class_folders(tmp_path / "data")
    (tmp_path / "data/cat/2.png").write_bytes(png(np.zeros((5, 4, 3), np.uint8)))
    with pytest.raises(
        sources.DamagedRecord, match=r"cat/2\.png .*the shape \(5, 4, 3\), but the first one has .*set side = N"
    ):
        source = opened(entry)
        [source[row] for row in range(6)]


@pytest.mark.parametrize("name", ["class_folders", "picture_folder", "tar_shards", "parquet", "array_records"])
def test_an_empty_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"holds (neither pictures|no pictures|no files)"):
        OPEN[name](str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no such"):
        OPEN[name](str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_splits_by_the_names_of_folders_and_files(tmp_path):
    stored.class_folders(tmp_path / "a/train")
    stored.class_folders(tmp_path / "a/val")
    shutil.rmtree(tmp_path / "a/val/dog")
    assert len(sources.class_folders(str(tmp_path / "a"))) == 6
    for folder in (tmp_path / "a").glob("*/*"):  # the split below the class
        shutil.copytree(folder, tmp_path / "c" / folder.name / folder.parent.name)
    other = sources.class_folders(str(tmp_path / "c"))
    assert (len(other), other.spec.classes) == (6, tuple(sorted(stored.NAMES)))
    assert len(sources.class_folders(str(tmp_path / "a"), "val", classes=stored.NAMES)) == 3
    with pytest.raises(ValueError, match="its splits are train, val"):
        sources.class_folders(str(tmp_path / "a"), "test")
    stored.tar_shards(tmp_path / "b")
    stored.tar(tmp_path / "b/test-0.tar", [5])
    assert len(sources.tar_shards(str(tmp_path / "b"), "test")) == 1
    assert len(sources.tar_shards(str(tmp_path / "b/train-*.tar"))) == 6


def test_pictures_of_two_splits_are_not_the_same_pictures(tmp_path):
    for split in ("train", "val"):
        stored.class_folders(tmp_path / "a" / split)
    train, val = (sources.class_folders(str(tmp_path / "a"), split).identities() for split in ("train", "val"))
    both = np.concatenate([train, val])
    assert len(np.unique(both, axis=0)) == len(both) == 12


def test_endings_may_be_in_capitals(tmp_path):
    (tmp_path / "a" / "cat").mkdir(parents=True)
    (tmp_path / "a" / "cat" / "A.PNG").write_bytes(png(stored.PICTURES[0]))
    assert len(sources.class_folders(str(tmp_path / "a"))) == 1


def test_members_of_a_record_have_all_that_follows_the_first_point_as_their_name(tmp_path):
    masks = [np.full((4, 4), k, np.uint8) for k in range(2)]
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for k, mask in enumerate(masks):
            for suffix, picture in (("PNG", stored.PICTURES[k]), ("mask.png", mask)):
                content = png(picture)
                info = tarfile.TarInfo(f"{k}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    source = sources.tar_shards(str(tmp_path), condition="mask.png")
    assert source.columns == ("png", "mask.png") and len(source) == 2
    np.testing.assert_array_equal(source[1]["condition"], masks[1][..., None])
    with tarfile.open(tmp_path / "train-0.tar") as archive:
        begin = archive.getmember("1.PNG").offset_data
    assert source._table.place(1).endswith(f"record '1' at byte {begin}")


def test_pictures_without_classes_are_no_class_folders(tmp_path):
    (tmp_path / "a.png").write_bytes(png(stored.PICTURES[0]))
    with pytest.raises(ValueError, match=r"lie in no class's folder, e\.g\. a\.png\. Valid: .*picture_folder"):
        sources.class_folders(str(tmp_path))
    assert sources.picture_folder(str(tmp_path)).spec.num_classes == 0


def test_labels_that_are_not_in_the_list(tmp_path):
    entry = stored.picture_folder(tmp_path / "data")
    table = tmp_path / "data/metadata.csv"
    table.write_text(table.read_text().replace("4.png,dog", "4.png,dgo"))
    with pytest.raises(
        ValueError, match=r"4\.png: its label is 'dgo', which is.*classes cat, dog\. Did you mean 'dog'"
    ):
        opened(entry, classes=stored.NAMES)
    with pytest.raises(ValueError, match="its label is 1, which is not one of the 1 classes only"):
        opened(stored.tar_shards(tmp_path / "tar"), classes=("only",))


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("metadata.csv", "file_name,caption\n0.png,un ch\xe2t\n".encode("latin-1"),
         r"not UTF-8 text: line 2 has the byte 0xe2\. If it is in Latin-1, convert it by: iconv -f LATIN1"),
        ("metadata.csv", "file_name,caption\n0.png,a\n".encode("utf-16"),
         r"line 1 has the byte 0xff\. As its mark says, it is in UTF-16; convert it by: iconv -f UTF-16 -t UTF-8"),
        ("metadata.csv", b"file,caption\n0.png,a\n", "has the columns file, caption, but no column file_name"),
        ("metadata.csv", b"file_name,caption\n0.png,a,b\n", "line 2 has another number of values"),
        ("metadata.csv", b"file_name,caption\n0.png,a\n0.png,b\n", r"names files more than once: 0\.png"),
        ("metadata.csv", b"file_name,caption\n../0.png,a\n", r"\.\./0\.png"),
        ("metadata.csv", b"file_name,caption\n", "names no picture"),
        ("metadata.jsonl", b'{"file_name": "0.png"\n', "line 1 is not JSON"),
        ("metadata.jsonl", b'{"file_name": "0.png", "a": 1}\n{"file_name": "1.png"}\n', r"line 2 differs .* in a"),
        ("metadata.jsonl", b'{"caption": "a"}\n', "line 1 is not an object with the field 'file_name'"),
        ("0.txt", b"a cat", r"5 of 6 pictures have no caption, e\.g\. 1\.png has no 1\.txt"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused_in_one_sentence(tmp_path, name, text, words):
    entry = stored.picture_folder(tmp_path / "data")
    (tmp_path / "data/metadata.csv").unlink()
    (tmp_path / "data" / name).write_bytes(text)
    with pytest.raises(ValueError, match=words):
        opened(entry)


def test_pictures_that_are_missing_are_all_named(tmp_path):
    entry = stored.picture_folder(tmp_path / "data")
    (tmp_path / "data/1.png").unlink()
    (tmp_path / "data/4.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)2 of 6 pictures are not in .*1\.png.*4\.png$"):
        opened(entry)


@pytest.mark.parametrize("number, more", [(20, ""), (21, "\n  and 1 more")])
def test_twenty_missing_pictures_are_named_and_further_ones_counted(tmp_path, number, more):
    missing = [f"{k:02}.png" for k in range(number)]
    with pytest.raises(FileNotFoundError) as error:
        picture_files._require_there(tmp_path, missing, {})
    names = "".join(f"\n  {k:02}.png" for k in range(20))
    assert str(error.value) == f"{number} of {number} pictures are not in {tmp_path}:{names}{more}"


def test_captions_masks_and_numbers_are_columns(tmp_path):
    folder = tmp_path / "data"
    stored.picture_folder(folder)
    (folder / "masks").mkdir()
    lines = ["file_name,caption,age,mask_file_name"]
    for k in range(6):
        (folder / "masks" / f"{k}.png").write_bytes(png(np.full((4, 4), 40 * k, np.uint8)))
        lines.append(f'{k}.png,"a cat, a dog",{k / 2},masks/{k}.png')
    (folder / "metadata.csv").write_text("\n".join(lines))
    source = sources.picture_folder(str(folder), condition=("mask", "age"))
    record = source[3]
    np.testing.assert_array_equal(record["condition"]["mask"], np.full((4, 4, 1), 120, np.uint8))
    assert record["condition"]["age"] == 1.5 and source.column("caption") == ["a cat, a dog"] * 6
    assert source.spec.num_classes == 0 and source.spec.condition["mask"].shape == (4, 4, 1)


def test_a_column_of_whole_numbers_is_of_integers_and_a_name_is_never_a_number(tmp_path):
    """Here the labels, which no other numbers may be, and the names of files and masks without an ending."""
    for k in range(6):
        (tmp_path / str(k)).write_bytes(png(stored.PICTURES[k]))
    lines = [f"{k},{label},{5 - k}" for k, label in enumerate(stored.LABELS)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,mask_file_name", *lines]))
    source = sources.picture_folder(str(tmp_path), condition="mask")
    assert [source[row]["label"] for row in range(6)] == stored.LABELS and source.spec.classes == ("0", "1")
    np.testing.assert_array_equal(source[1]["image"], stored.PICTURES[1])
    np.testing.assert_array_equal(source[1]["condition"], stored.PICTURES[4])


def test_captions_beside_the_pictures(tmp_path):
    entry = stored.picture_folder(tmp_path / "data")
    (tmp_path / "data/metadata.csv").unlink()
    for k in range(6):
        (tmp_path / "data" / f"{k}.txt").write_text(f"number {k}\n")
    assert opened(entry).column("caption") == [f"number {k}" for k in range(6)]


def test_a_parquet_without_the_column_lists_those_that_it_has(tmp_path):
    entry = stored.parquet(tmp_path / "data")
    with pytest.raises(
        ValueError, match=r"no column 'img' for x; its columns are image, label, text\. Did you mean 'image'"
    ):
        opened(entry, x="img")
    (tmp_path / "data/data/train-00001-of-00002.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet is not an intact Parquet file"):
        opened(entry)


def test_the_names_of_classes_are_those_of_the_column_of_the_label(tmp_path):
    table = pa.table({"x": [[0.5]] * 3, "kind": [1, 0, 1], "label": [0, 0, 0]})
    features = {name: {"names": names} for name, names in (("kind", ["cat", "dog"]), ("label", ["other"]))}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    source = sources.parquet(str(tmp_path / "a.parquet"), label="kind")
    assert source.spec.classes == ("cat", "dog") and [source[row]["label"] for row in range(3)] == [1, 0, 1]


def test_parquet_of_numbers_and_its_arrow_file(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    pq.write_table(pa.table({"x": list(x), "label": list("abababab")}), tmp_path / "a.parquet")
    in_memory = sources.parquet(str(tmp_path / "a.parquet"))
    assert in_memory.spec.shape == (3,) and in_memory.spec.classes == ("a", "b")
    np.testing.assert_allclose(in_memory[5]["x"], x[5])
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr("diffusion.data.sources.parquet_files.IN_MEMORY", 0)
    mapped = sources.parquet(str(tmp_path / "a.parquet"))
    for row in range(8):
        np.testing.assert_allclose(mapped[row]["x"], x[row])
    assert list((tmp_path / "cache/parquet").glob("*.arrow"))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_tar_cut_short_is_refused(tmp_path, share):
    entry = stored.tar_shards(tmp_path / "data")
    path = tmp_path / "data/train-0.tar"
    content = path.read_bytes()
    length = int(len(content.rstrip(b"\0")) * share)
    path.write_bytes(content[:length])
    with pytest.raises(
        ValueError, match=rf"train-0\.tar is (truncated at byte {length:,}: the last complete member is|not a tar)"
    ):
        opened(entry)


def test_a_tar_whose_records_differ_or_that_is_compressed_is_refused(tmp_path):
    import gzip

    entry = stored.tar_shards(tmp_path / "data")
    with tarfile.open(tmp_path / "data/train-2.tar", "w") as archive:
        info = tarfile.TarInfo("9.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(
        ValueError, match=r"train-2\.tar, record '9' .*its members are png, but the first record has cls, png, txt"
    ):
        opened(entry)
    (tmp_path / "data/train-2.tar").write_bytes(gzip.compress(b"abc" * 1000))
    with pytest.raises(ValueError, match=r"train-2\.tar is not a tar archive .*compressed, and has no random access"):
        opened(entry)


def test_a_parser_of_ones_own(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for k in range(4):
        writer.write(np.float32([k, -k]).tobytes())
    writer.close()
    source = sources.array_records(str(tmp_path), parse=lambda record: {"x": np.frombuffer(record, np.float32)})
    assert source.spec.shape == (2,) and source[3]["x"].tolist() == [3, -3]
    with pytest.raises(ValueError, match=r"picture, \.npz, \.npy nor JSON\. Say how to.*by parse=FUNCTION,"):
        sources.array_records(str(tmp_path))


def test_a_palette_with_a_transparent_colour_has_four_channels(tmp_path):
    picture = Image.fromarray(stored.PICTURES[0]).quantize(4)
    for name, how in (("clear", {"transparency": 0}), ("opaque", {})):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "0.png", **how)
    shapes = [sources.picture_folder(str(tmp_path / name)).spec.shape for name in ("clear", "opaque")]
    assert shapes == [(4, 4, 4), (4, 4, 3)]


def test_a_picture_of_a_condition_has_its_own_channels(tmp_path):
    picture = Image.fromarray(stored.PICTURES[0])
    picture.save(tmp_path / "0.png")
    picture.quantize(4).save(tmp_path / "1.png", transparency=0)
    picture.convert("L").save(tmp_path / "2.png")
    (tmp_path / "metadata.csv").write_text("file_name,a_file_name,b_file_name\n0.png,1.png,2.png")
    for name, channels in (("a", 4), ("b", 1)):
        source = sources.picture_folder(str(tmp_path), condition=name)
        assert source[0]["image"].shape == (4, 4, 3) and source[0]["condition"].shape == (4, 4, channels)


@pytest.mark.parametrize(
    "mode, channels",
    [("1", 1), ("L", 1), ("LA", 4), ("P", 3), ("RGB", 3), ("RGBA", 4), ("CMYK", 3), ("YCbCr", 3), ("F", 3)],
)
def test_an_encoded_picture_has_the_channels_of_its_mode(mode, channels):
    file = io.BytesIO()
    Image.new(mode, (4, 4)).save(file, "TIFF" if mode in ("CMYK", "YCbCr", "F") else "PNG")
    of = columns.Columns("a file", ["image"], x="image")
    assert of.channels_of(file.getvalue()) == channels
    assert of.channels_of(np.zeros([4, 4, 2])) == 0  # it is not encoded


def test_channels_of_stored_pixels_are_those_of_the_first_picture(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for k, mode in enumerate(("L", "RGB")):
        Image.fromarray(stored.PICTURES[k]).convert(mode).save(folder / f"{k}.png")
    source = sources.picture_folder(str(tmp_path), viewed=False)
    assert source.spec.shape == (4, 4, 1) and source[1]["image"].shape == (4, 4, 1)

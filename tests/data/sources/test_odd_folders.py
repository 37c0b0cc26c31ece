"""Ordinary but odd folders and arrays: what would be left out or taken for something else is refused or named."""

import hashlib
import io
import json
import os
import pathlib
import re
import tarfile
import warnings

import numpy as np
import pytest

from diffusion.data import identities, sources
from diffusion.data.sources import clip_files, picture_files, python_objects, spec, splits, tar_files
from diffusion.data.sources.table_records import stamp_of
from diffusion.io import limits, wav
from diffusion.metrics import image_sets
from tests.data.made import png

PICTURE = png(np.zeros((4, 4, 3), np.uint8))


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)
    return folder


READERS = {
    "class_folders": lambda folder: sources.class_folders(str(folder)),
    "picture_folder": lambda folder: sources.picture_folder(str(folder)),
    "image_set": lambda folder: image_sets.open_set(str(folder)),
    "films": clip_files.films_of,
    "files": lambda folder: splits.files_at(str(folder), (".png",), "train"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_link_to_a_folder_is_refused(name, tmp_path):
    write(tmp_path / "elsewhere", "1.png")
    os.symlink(tmp_path / "elsewhere", write(tmp_path / "photos", "cat/1.png") / "dog")
    with pytest.raises((limits.Refused, image_sets.ImageSetError), match="photos/dog is a link to a folder"):
        READERS[name](tmp_path / "photos")
    (tmp_path / "photos" / "dog").unlink()
    os.symlink(tmp_path / "photos", tmp_path / "link")  # a link that the user names is one to read
    READERS[name](tmp_path / "link")


@pytest.mark.parametrize("name", ["image_set", "files"])
def test_a_folder_that_cannot_be_listed_is_not_left_out(name, tmp_path, monkeypatch):
    write(tmp_path, "cat/1.png", "dog/1.png")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises((OSError, image_sets.ImageSetError), match="dog"):
        READERS[name](tmp_path)


def test_hidden_files_are_left_out_and_odd_names_are_not(tmp_path):
    hidden = (".hidden.png", "._1.png", ".ipynb_checkpoints/1-checkpoint.png", "Thumbs.db", ".DS_Store")
    shown = ("a/1.png", "a/b\nc.PNG", "a/é.Jpg", "a/deep/er/x.jpeg")
    write(tmp_path, *shown, *hidden, *(f"a/{name}" for name in hidden))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture_files.pictures_in(tmp_path) == sorted(shown)
        assert image_sets.open_set(str(tmp_path)).count == len(shown)


def test_pictures_of_other_formats_are_named(tmp_path):
    write(tmp_path, "a/1.png", "a/2.HEIC", "a/3.gif")
    with pytest.warns(UserWarning, match=re.escape("pictures of other formats are left out (2, e.g. a/2.HEIC). Only")):
        assert len(sources.class_folders(str(tmp_path))) == 1


@pytest.mark.parametrize("last, said", [(9, None), (11, "the class '10' has the number 2")])
def test_classes_whose_numbers_are_others_than_their_names_are_named(last, said, tmp_path):
    write(tmp_path, *(f"{number}/1.png" for number in range(last + 1)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = sources.class_folders(str(tmp_path))
    assert source.spec.classes == tuple(sorted(map(str, range(last + 1))))
    assert [said in str(one.message) for one in caught] == ([True] if said else [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = sources.class_folders(str(tmp_path), classes=tuple(map(str, range(last + 1))))
    assert sorted(named[row]["label"] for row in range(len(named))) == list(range(last + 1))


@pytest.mark.parametrize("shape, first", [((3, 8, 8), True), ((1, 28, 28), True), ((5, 3, 8, 8), True),
                                          ((8, 8, 3), False), ((3, 8, 3), False), ((3, 8, 8, 3), False),
                                          ((3, 4, 4), False)])  # fmt: skip
def test_channels_that_come_first_are_named(shape, first, tmp_path):
    images = np.zeros((2, *shape), np.uint8)
    np.savez(tmp_path / "a.npz", image=images)
    for opened in (
        lambda: sources.arrays(str(tmp_path / "a.npz")),
        lambda: python_objects.source_of([{"image": image} for image in images]),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert opened().spec.shape == shape
        assert ["channels come first" in str(one.message) for one in caught] == [True] * first
    with warnings.catch_warnings():  # numbers are no pictures
        warnings.simplefilter("error")
        assert python_objects.source_of([{"x": image.astype(np.float32)} for image in images]).spec.shape == shape


def test_a_label_between_two_classes_is_refused():
    assert spec.class_of({"label": np.float64(2.0)}) == 2
    with pytest.raises(ValueError, match=r"its label is 1\.7\. Valid: an integer"):
        spec.class_of({"label": 1.7})
    records = python_objects.source_of([{"x": np.zeros(1)}, {"x": np.zeros(1), "label": 1.7}][1:], 3)
    with pytest.raises(sources.DamagedRecord, match=r"record 0 of the data cannot be used: its label is 1\.7"):
        records[0]


@pytest.mark.parametrize("low, high, named", [(0, 1, True), (0, 255, True), (-1, 1, False), (-0.1, 3, False)])
def test_floats_in_another_range_than_networks_expect_are_named(low, high, named, tmp_path):
    images = np.linspace(low, high, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)[:, ::-1]
    np.savez(tmp_path / "a.npz", image=images)
    for opened in (
        lambda: sources.arrays(str(tmp_path / "a.npz")),
        lambda: python_objects.source_of([{"x": image} for image in images]),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            source = opened()
        assert ["Networks receive floats as they are" in str(one.message) for one in caught] == [True] * named
        np.testing.assert_array_equal(source[1]["x"], images[1])


@pytest.mark.parametrize("value, named", [(200.0, True), (-1e4, True), (4.0, False), (np.nan, False)])
def test_floats_far_from_unit_variance_are_named(value, named, tmp_path):
    x = np.array([[0.5, value], [1.0, 2.0]])
    np.savez(tmp_path / "a.npz", x=x)
    for opened in (
        lambda: sources.arrays(str(tmp_path / "a.npz")),
        lambda: python_objects.source_of([{"x": {"place": row[:1], "charge": row[1:]}} for row in x]),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            opened()
        said = [re.search(r"the first example holds (\S+)\. .*unit variance", str(one.message)) for one in caught]
        assert [float(match[1]) for match in said] == [value] * named


@pytest.mark.parametrize("combine", [sources.mixture, sources.preferences])
def test_sources_whose_numbers_stand_for_different_classes_are_not_combined(combine, tmp_path):
    write(tmp_path, "one/cat/1.png", "one/dog/1.png", "two/ant/1.png", "two/cat/1.png")
    open_both = lambda **how: [sources.class_folders(str(tmp_path / name), **how) for name in ("one", "two")]
    with pytest.raises(ValueError, match="two has the classes ant, cat, but one has cat, dog, so the same number"):
        combine(open_both())
    assert combine(open_both(label="")).spec.num_classes == 0
    assert combine(open_both(classes=("ant", "cat", "dog"))).spec.classes == ("ant", "cat", "dog")
    numbers = [python_objects.source_of([{"image": np.zeros((4, 4, 3), np.uint8), "label": 0}] * 2, 2)]
    assert combine([open_both()[0], *numbers]).spec.num_classes == 2  # numbers alone have no names


def test_files_of_no_split_beside_those_of_splits_are_named(tmp_path):
    write(tmp_path, "train/cat/1.png", "test/cat/2.png", "more/3.png", "more/4.png")
    for split in ("train", "test"):
        with pytest.warns(UserWarning, match=re.escape("belong to no split are left out (2, e.g. more/3.png). Move")):
            assert len(sources.class_folders(str(tmp_path), split)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert splits.files_of("train", ["a.tar", "b.tar"], "it") == ["a.tar", "b.tar"]
        assert splits.files_of("test", ["train-0.tar", "test-0.tar"], "it") == ["test-0.tar"]


def test_pictures_that_a_table_does_not_name_are_counted_and_named(tmp_path):
    write(tmp_path, "1.png", "2.png", "mask.png", "more/3.JPG", ".hidden.png")
    (tmp_path / "metadata.csv").write_text("file_name,mask_file_name\n1.png,mask.png\n")
    with pytest.warns(
        UserWarning, match=r"csv does not name 2 of the 4 pictures .* left out: 2\.png, more/3\.JPG\. Add"
    ):
        assert len(sources.picture_folder(str(tmp_path))) == 1
    with pytest.warns(UserWarning, match=r"csv does not name 3 of the 4 pictures"):
        picture_files.warn_of_unnamed(tmp_path / "metadata.csv", ["1.png"])
    write(tmp_path, *(f"{i:02}.png" for i in range(10)))
    with pytest.warns(UserWarning, match=r"does not name 12 of .*: 00\.png, .*, 09\.png \.\.\.\. Add"):
        sources.picture_folder(str(tmp_path))


@pytest.mark.parametrize("number, listed", [(10, r"09\.png\. Add"), (11, r"09\.png \.\.\.\. Add")])
def test_ten_pictures_are_listed_and_more_are_dots(tmp_path, number, listed):
    with pytest.warns(UserWarning, match=rf"does not name {number} of the {number} pictures .*{listed}"):
        picture_files.warn_of_unnamed(tmp_path / "metadata.csv", [], [f"{i:02}.png" for i in range(number)])


def test_a_table_with_a_letter_after_a_closing_quote_is_refused(tmp_path):
    write(tmp_path, "1.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\n1.png,"a"b\n')
    with pytest.raises(ValueError, match=r"metadata\.csv is not a CSV file: .* expected after"):
        sources.picture_folder(str(tmp_path))


@pytest.mark.parametrize("name", ["metadata.json", "captions.csv", "labels.TSV", "1.caption"])
def test_a_table_of_another_name_is_named(name, tmp_path):
    write(tmp_path, "1.png")
    (tmp_path / name).write_text('[{"file_name": "1.png", "caption": "a cat"}]')
    said = re.escape(
        f"{tmp_path}: captions and labels are not read from {name}. Valid: metadata.csv, metadata.jsonl or"
    )
    with pytest.warns(UserWarning, match=said):
        sources.picture_folder(str(tmp_path))
    (tmp_path / "1.txt").write_text("a dog")
    assert sources.picture_folder(str(tmp_path)).column("caption") == ["a dog"]


def test_a_folder_with_a_table_is_listed_once_and_no_plain_file_looked_up(tmp_path, monkeypatch):
    """A folder of a million pictures took as many questions to its file system, and then a list for a warning."""
    write(tmp_path, "1.png", "more/2.png", "away/3.png")
    (tmp_path / "away/3.png").rename(tmp_path.parent / "away.png")
    (tmp_path / "more/3.png").symlink_to("2.png")
    (tmp_path / "more/4.png").symlink_to("4.png")  # in a circle
    names = ["1.png", "more/2.png", "more/3.png"]
    (tmp_path / "metadata.csv").write_text("file_name\n" + "\n".join(names) + "\n")
    (tmp_path / "more/5.png").mkdir()
    looked, listed = [], []
    is_file, scandir = pathlib.Path.is_file, os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "is_file", lambda path: looked.append(path.name) or is_file(path))
        patch.setattr(os, "scandir", lambda path: listed.append(os.path.relpath(path, tmp_path)) or scandir(path))
        with pytest.warns(UserWarning, match=r"does not name 1 of the 4 pictures .*: more/4\.png"):
            picture_files.PictureFolder(str(tmp_path), "train")
    assert [name for name in looked if name.endswith(".png")] == ["3.png"]  # the link
    assert sorted(listed) == [".", "away", "more", "more/5.png"]
    for name, missing in (("more/4.png", "more/4"), ("more/5.png", "more/5"), ("away/3.png", "away/3")):
        (tmp_path / "metadata.csv").write_text(f"file_name\n1.png\n{name}\n")
        with pytest.raises(FileNotFoundError, match=rf"(?s)1 of 2 pictures are not in .*\n  {missing}\.png$"):
            picture_files.PictureFolder(str(tmp_path), "train")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_names_with_dots_are_those_of_the_same_files(form, tmp_path):
    """They were refused as damaged or hostile."""
    write(tmp_path, "1.png", "2.png", "masks/1.png")
    rows = [{"file_name": "./1.png", "mask_file_name": "masks/./1.png"},
            {"file_name": "masks/../2.png", "mask_file_name": "masks//1.png"}]  # fmt: skip
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    text = "\n".join(lines if form == "csv" else map(json.dumps, rows))
    (tmp_path / f"metadata.{form}").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no picture is named by none
        source = sources.picture_folder(str(tmp_path), condition=("mask",))
    assert identities.names_of(source) == ["1.png", "2.png"] and source[1]["condition"]["mask"].shape == (4, 4, 3)
    for name, words in (("/1.png", "is an absolute path"), ("masks/../../1.png", "leads out of its folder"),
                        ("a\\1.png", "has a backslash, where this system has /"), ("", "is empty")):  # fmt: skip
        (tmp_path / f"metadata.{form}").write_text(
            text.replace("./1.png", name.replace("\\", "\\" * 2 ** (form == "jsonl")), 1)
        )
        with pytest.raises(limits.Refused, match=f"row 1 names the file .*, which {words}"):
            sources.picture_folder(str(tmp_path))
    (tmp_path / f"metadata.{form}").write_text(text.replace("masks/../2.png", "1.png"))
    with pytest.raises(ValueError, match=r"names files more than once: 1\.png"):
        sources.picture_folder(str(tmp_path))


def test_a_long_cell_takes_the_time_of_its_length(tmp_path):
    """Whether a text is a number took the square of its digits: minutes of a cell of 100,000."""
    write(tmp_path, "1.png", "2.png")
    cell = "1" * 120_000
    (tmp_path / "metadata.csv").write_text(f"file_name,caption,size\n1.png,{cell}x,1.5\n2.png,.5,2.\n")
    source = sources.picture_folder(str(tmp_path))
    assert source.captions() == [f"{cell}x", ".5"] and source.column("size") == [1.5, 2.0]


def test_a_table_and_pictures_beside_the_folders_of_splits_are_named(tmp_path):
    """The table counts for the whole folder elsewhere; here its captions would be left out."""
    write(tmp_path, "train/1.png", "train/more/2.png", "3.png", "others/4.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\ntrain/1.png,a cat\n")
    with pytest.warns(
        UserWarning, match=r"belong to no split are left out \(3, e\.g\. metadata\.csv\)\. Move.*'train'"
    ):
        assert len(sources.picture_folder(str(tmp_path))) == 2
    for name in ("3.png", "others/4.png", "metadata.csv"):
        (tmp_path / name).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sources.picture_folder(str(tmp_path))


@pytest.mark.parametrize(
    "table, message",
    [
        ("file_name,caption,caption\n1.png,a cat,x\n", r"has the column 'caption' more than once; rename or remove"),
        (
            "file_name,mask,mask_file_name\n1.png,3,2.png\n",
            r"columns mask and mask_file_name both make .* 'mask' of the",
        ),
        ("file_name,image\n1.png,3\n", r"columns file_name and image both make the column 'image'"),
        ("file_name,image_file_name\n1.png,2.png\n", r"columns file_name and image_file_name both make the col"),
    ],
)
def test_no_column_of_a_table_takes_the_place_of_another(table, message, tmp_path):
    """The last of two was read, a number in the place of the picture too."""
    write(tmp_path, "1.png", "2.png")
    (tmp_path / "metadata.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        sources.picture_folder(str(tmp_path))


def tar_of(path, *members):
    """An archive of pictures with these names and values; a link where the value is None."""
    with tarfile.open(path, "w") as archive:
        for name, value in members:
            info = tarfile.TarInfo(name)
            if value is None:
                info.type, info.linkname = tarfile.LNKTYPE, members[0][0]
                archive.addfile(info)
                continue
            content = png(np.full((4, 4, 3), value, np.uint8))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def values_of(source):
    records = source.take(3) if hasattr(source, "take") else [source[row] for row in range(len(source))]
    return [int(record["image"][0, 0, 0]) for record in records]


def test_links_and_members_of_one_name_in_a_tar_are_named(tmp_path, monkeypatch):
    """GNU tar writes the second of two equal files as a link, and tar -A joins shards whose records have one name."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    joined = tar_of(tmp_path / "joined.tar", ("0.png", 1), ("1.png", 2), ("0.png", 3))
    for _ in range(2):  # nor does the cache of positions hide it
        with pytest.warns(
            UserWarning, match=r"joined\.tar: members are left out \(1, e\.g\. 0\.png\): links, .*--deref"
        ):
            assert values_of(sources.tar_shards(joined)) == [3, 2]
    linked = tar_of(tmp_path / "linked.tar", ("0.png", 1), ("1.png", 2), ("2.png", None), ("3.png", None), ("4.png", 5))
    with pytest.warns(UserWarning, match=r"linked\.tar: members are left out \(2, e\.g\. 2\.png"):
        assert values_of(sources.tar_shards(linked)) == [1, 2, 5]
    with pytest.warns(UserWarning, match=r"linked\.tar: members are left out \(1, e\.g\. 2\.png"):
        assert values_of(sources.tar_stream(linked, window=1)) == [1, 2, 5]
    both = tar_of(tmp_path / "both.tar", ("0.png", 1), ("0.PNG", 2), ("1.png", 3), ("2.png", 4))
    with pytest.warns(UserWarning, match=r"both\.tar: members are left out \(1, e\.g\. 0\.PNG"):
        assert values_of(sources.tar_stream(both, window=1)) == [2, 3, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert values_of(sources.tar_stream(joined, window=1)) == [1, 2, 3]  # neighbours alone are one record


def test_the_cache_of_positions_states_what_is_left_out(tmp_path, monkeypatch):
    """Archives whose positions alone an earlier version had cached were read without the warning."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    linked = tar_of(tmp_path / "linked.tar", ("0.png", 1), ("1.png", None), ("2.png", 3))
    stamp = [str(tmp_path / "linked.tar"), stamp_of([linked])]
    old = tmp_path / "cache/tar_index" / f"{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:32]}.json"
    old.parent.mkdir(parents=True)
    with tarfile.open(linked) as archive:
        at = {info.name[0]: {"png": [info.offset_data, info.size]} for info in archive if info.isfile()}
    old.write_text(json.dumps(list(at.items())))
    said = lambda: pytest.warns(UserWarning, match=r"linked\.tar: members are left out \(1, e\.g\. 1\.png")
    with said():
        assert values_of(sources.tar_shards(linked)) == [1, 3]
    with monkeypatch.context() as patch, said():
        patch.setattr(tar_files, "_scan", lambda content, file: pytest.fail("it is scanned again"))
        assert values_of(sources.tar_shards(linked)) == [1, 3]
    (new,) = {*old.parent.iterdir()} - {old}
    new.write_text("[1, 2")  # a damaged cache is written again
    with said():
        assert values_of(sources.tar_shards(linked)) == [1, 3]


def test_clips_of_other_formats_and_pictures_without_a_number_are_named(tmp_path):
    for name in ("a.gif", "b.M4V", "c.wmv", "scan/0001.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"clips of other formats are left out \(3, e\.g\. b\.M4V\)\. Only \.gif"):
        assert clip_files.films_of(tmp_path) == [tmp_path / "a.gif"]
    write(tmp_path / "others", "dog/1.png", "dog/2.png", "dog/last.png", "covers/dog.png")
    with pytest.warns(UserWarning, match=r"are left out of the clips \(1, e\.g\. dog/last\.png\)\. Number them"):
        assert clip_files.films_of(tmp_path / "others") == [tmp_path / "others" / "dog"]


def test_sounds_of_other_formats_are_named(tmp_path):
    """A class of MP3 files alone was no class."""
    for name in ("bell/1.wav", "bell/2.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        wav.write(tmp_path / name, np.zeros(64, np.float32), 8000)
    for name in ("drum/1.mp3", "drum/2.FLAC"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(
        UserWarning, match=r"sounds of other formats are left out \(2, e\.g\. drum/1\.mp3\)\. Only \.wav"
    ):
        source = sources.wav_folder(str(tmp_path), sample_rate=8000, length=64)
    assert source.spec.classes == ("bell",)


def test_meshes_archives_and_arrays_of_other_formats_are_named(tmp_path):
    for folder in ("meshes", "shards", "arrays"):
        (tmp_path / folder).mkdir()
    (tmp_path / "meshes/a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    tar_of(tmp_path / "shards/0.tar", ("0.png", 1))
    np.save(tmp_path / "arrays/x.npy", np.zeros((3, 2), np.float32))
    for name in ("meshes/b.glb", "shards/1.tar.gz", "arrays/y.npz"):
        (tmp_path / name).write_bytes(b"")
    for read, folder, what in (
        (lambda path: sources.mesh_clouds(path, points=4), "meshes", r"meshes .* \(1, e\.g\. b\.glb\)\. Only \.obj, "),
        (sources.tar_shards, "shards", r"archives .* \(1, e\.g\. 1\.tar\.gz\)\. Only \.tar are"),
        (sources.arrays, "arrays", r"arrays .* \(1, e\.g\. y\.npz\)\. Only \.npy are"),
    ):
        with pytest.warns(UserWarning, match=what):
            assert len(read(str(tmp_path / folder))) in (1, 3)

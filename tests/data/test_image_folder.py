"""A folder of pictures with a metadata CSV as a dataset, and what is said where it is wrong."""

import numpy as np
import pytest
from PIL import Image

from diffusion.data import image_folder, sources
from tests import commands


def folder(place, lines, pictures=("a.png", "b.png"), size=(8, 8)):
    place.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(pictures):
        (place / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size, (50 * i, 10, 200)).save(place / name)
    (place / "metadata.csv").write_text("\n".join(lines) + "\n")
    return place


GOOD = ("file_name,caption,category", "a.png,a blue square,shapes", '"b.png","purple, and a square",shapes')


def test_pictures_and_captions_of_a_folder(tmp_path):
    made = image_folder.prepare(folder(tmp_path / "mine", GOOD), "mine", tmp_path / "data")
    assert made == tmp_path / "data" / "mine" / "1.0.0"
    records, spec = sources.open_source("mine", "train", str(tmp_path / "data"))
    assert spec == sources.DataSpec("mine", "train", (8, 8, 3), 0, 2, "1.0.0")
    captions = sources.column("mine", "train", "caption", str(tmp_path / "data"))
    assert sorted(captions) == ["a blue square", "purple, and a square"]
    colours = {"a blue square": (0, 10, 200), "purple, and a square": (50, 10, 200)}
    for row, caption in enumerate(captions):
        assert (records[row]["image"] == colours[caption]).all()
    assert sources.column("mine", "train", "category", str(tmp_path / "data")) == ["shapes", "shapes"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]  # no scratch folder is left
    with pytest.raises(FileExistsError, match="is there already"):
        image_folder.prepare(tmp_path / "mine", "mine", tmp_path / "data")


def test_a_part_of_the_records_is_a_fair_one(tmp_path):
    names = [f"{i:02}.png" for i in range(40)]
    lines = ["file_name,caption", *(f"{name},{i}" for i, name in enumerate(names))]
    image_folder.prepare(folder(tmp_path / "mine", lines, names), "mine", tmp_path / "data")
    numbers = [int(text) for text in sources.column("mine", "train[:50%]", "caption", str(tmp_path / "data"))]
    assert len(numbers) == 20 and 5 < sum(number < 20 for number in numbers) < 15


def test_other_modes_and_sizes_become_squares(tmp_path):
    place = folder(tmp_path / "mine", ("file_name,caption", "a.png,clear", "b.png,grey", "c.png,few", "d.jpg,wide"))
    Image.new("RGBA", (10, 20), (255, 0, 0, 0)).save(place / "a.png")  # all transparent: white
    Image.new("L", (20, 10), 77).save(place / "b.png")
    Image.new("P", (8, 8), 0).save(place / "c.png")
    Image.new("CMYK", (64, 32), (0, 0, 0, 0)).save(place / "d.jpg")
    image_folder.prepare(place, "mine", tmp_path / "data", side=8)
    records, spec = sources.open_source("mine", "train", str(tmp_path / "data"))
    assert spec.shape == (8, 8, 3)
    captions = sources.column("mine", "train", "caption", str(tmp_path / "data"))
    values = {caption: np.unique(records[row]["image"]).tolist() for row, caption in enumerate(captions)}
    assert values == {"clear": [255], "grey": [77], "few": [0], "wide": [255]}


def test_pictures_that_the_metadata_do_not_name_are_named(tmp_path):
    place = folder(tmp_path / "mine", GOOD, ("a.png", "b.png", "more/c.png"))
    with pytest.warns(UserWarning, match=r"csv does not name 1 of the 3 pictures .*: more/c\.png\. Add them"):
        image_folder.prepare(place, "mine", tmp_path / "data")


def test_names_with_dots_are_those_of_the_same_files(tmp_path):
    """They were refused as damaged or hostile."""
    lines = ("file_name,caption", "./a.png,x", "more/../b.png,y", "more//c.png,z")
    rows = image_folder.read_metadata(folder(tmp_path, lines, ("a.png", "b.png", "more/c.png")))
    assert [row.file_name for row in rows] == ["a.png", "b.png", "more/c.png"]


def test_all_missing_files_are_named(tmp_path):
    place = folder(tmp_path, ("file_name,caption", "a.png,x", "gone.png,y", "more/gone too.jpg,z"))
    with pytest.raises(FileNotFoundError, match=r"names 2 of 3 pictures .*\n  gone\.png\n  more/gone too"):
        image_folder.read_metadata(place)


@pytest.mark.parametrize("lines, message", [
    (("file_name,caption", "a.png,", "b.png,b", "c.png,  "), "lines 2, 4 have an empty caption"),
    (("file_name,caption", "a.png,a", "a.png,b"), "names files more than once: a.png"),
    (("file_name,text", "a.png,a"), r"has the columns file_name, text\. Valid: file_name, caption and, by choice, cat"),
    (("file_name,caption,caption", "a.png,a,b"), r"has the columns file_name, caption, caption\. Valid: file_name"),
    (("file_name,caption",), "names no picture"),
    (("file_name,caption", "a.png,red, blue"), "line 2 has another number of values"),
    (("file_name,caption", "../a.png,a"), r"line 2 names the file '\.\./a.png', which leads out of its folder"),
    (("file_name,caption", "b.png,b", "/data/a.png,a"), r"line 3 names .*'/data/a.png', which is an absolute path"),
    (("file_name,caption", "more\\c.png,c"), "which has a backslash, where this system has /. Valid: a path from"),
    (("file_name,caption", ",c"), "line 2 names the file '', which is empty"),
    (("file_name,caption", "a.png,a", "more/../a.png,b"), "names files more than once: a.png"),
    (("file_name,caption", '"a.png,a'), "cannot be read"),
])  # fmt: skip
def test_metadata_that_is_wrong_is_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        image_folder.read_metadata(folder(tmp_path, lines))


def test_a_folder_without_metadata_and_pictures_that_cannot_be_taken(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv does not exist.*a table of the pictures"):
        image_folder.prepare(tmp_path, "mine", tmp_path / "data")
    place = folder(tmp_path, GOOD)
    Image.new("RGB", (9, 8)).save(place / "b.png")
    with pytest.raises(ValueError, match=r"8 x 8 pixels, but these do not: b\.png \(9 x 8\)\. Name the side"):
        image_folder.prepare(place, "mine", tmp_path / "data")
    (place / "b.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"b.png cannot be read as a picture: .* Valid: PNG, JPEG"):
        image_folder.prepare(place, "mine", tmp_path / "data", side=8)
    Image.new("I;16", (8, 8)).save(place / "b.png")
    with pytest.raises(
        ValueError, match=r"b\.png cannot be read as a picture: it has more than 8 bits a value \(I;16\); save"
    ):
        image_folder.prepare(place, "mine", tmp_path / "data", side=8)
    with pytest.raises(ValueError, match="must begin with a lower-case letter"):
        image_folder.prepare(place, "My photos", tmp_path / "data")
    assert not (tmp_path / "data" / "mine" / "1.0.0").exists() and not list((tmp_path / "data").glob(".*"))


@pytest.mark.slow
def test_the_command_says_what_it_made_and_what_is_wrong(tmp_path):
    place = folder(tmp_path / "mine", GOOD)
    flags = ["-m", "experiments.image_folder", f"--folder={place}", "--name=mine", f"--data_dir={tmp_path / 'data'}"]
    done = commands.run(*flags)
    assert done.returncode == 0 and "2 pictures of 8 x 8 with captions" in done.stdout, done.stderr
    (place / "a.png").unlink()
    done = commands.run(*flags[:3], "--name=other", flags[4])
    assert done.returncode == 2 and "a.png" in done.stderr and "Traceback" not in done.stderr

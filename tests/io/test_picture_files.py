"""Picture files from strangers: no program is run for them, and little memory is taken, wherever they are opened."""

import ast
import base64
import contextlib
import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image, ImageFile

from diffusion.data import image_folder, sources, transforms
from diffusion.experiments.playground import page_request, uploads
from diffusion.experiments.run import tracking
from diffusion.experiments.sweeps import embedded_pictures
from diffusion.io import pictures
from diffusion.metrics import image_sets
from tests import commands

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
DDS = b"DDS " + struct.pack("<7I44x2I4s5I", 124, 0x1007, 8, 8, 32, 0, 1, 32, 4, b"????", 0, 0, 0, 0, 0) + bytes(64)
GIF = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";"
PPM = b"P6 8 8 255\n" + bytes(192)
PROGRAMS = ("diffusion", "experiments", "launch", "configs", "benchmarks", "examples")


def coded(kind, size=(8, 8), **options):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind, **options)
    return file.getvalue()


def set_of_pictures(path):
    image_sets.open_set(str(path.parent)).read(0, 1)


def set_of_records(path):
    records = path.with_suffix(".array_record")
    writer = ArrayRecordWriter(str(records), "group_size:1")
    for data in (coded("PNG"), path.read_bytes()):
        writer.write(data)
    writer.close()
    image_sets.open_set(str(records)).read(0, 2)


def folder_with_captions(path):
    (path.parent / "metadata.csv").write_text(f"file_name,caption\n{path.name},a cat\n")
    image_folder.prepare(path.parent, "mine", path.parent / "made")


def report(path):
    assert embedded_pictures.embedded([path]) == {str(path): None}
    raise ValueError("is not shown")


def tensorboard(path):
    with tracking.tracker(path.parent, 0, {}) as track:
        track.pictures(1, {"samples": path})


OPENED = {
    "read": pictures.read,
    "read_mask": lambda path: pictures.read_mask(path, (8, 8)),
    "settings_of": pictures.settings_of,
    "folder": set_of_pictures,
    "records": set_of_records,
    "decode": lambda path: transforms.decode(path.read_bytes(), (8, 8, 3)),
    "decode_square": lambda path: transforms.decode_square(path.read_bytes(), 8, 3, 10**6),
    "captions": folder_with_captions,
    "report": report,
    "tensorboard": tensorboard,
    "page": lambda path: uploads.keep(base64.b64encode(path.read_bytes()).decode(), path.parent / "inputs"),
    "settings on the page": lambda path: page_request.read_file(path, page_request.PageRequest(), path.parent),
}


@pytest.fixture
def run_programs(tmp_path, monkeypatch):
    """Names of programs that were run in Ghostscript's place."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\necho gs >> {tmp_path}/run\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return lambda: (tmp_path / "run").read_text() if (tmp_path / "run").exists() else ""


@pytest.mark.parametrize("name", [*pictures.FORMATS, "GIF"])
def test_the_first_bytes_say_the_format(name, tmp_path):
    """Three readers had lists of their own: TIFF was no picture to one, and a sound one to two."""
    file = io.BytesIO()
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    picture.save(file, name)
    content = file.getvalue()
    assert pictures.format_of(content) == pictures.format_of(content[: pictures.HEAD]) == name
    assert not pictures.format_of(content[1:]) and not pictures.format_of(b"RIFF\1\0\0\0WAVE" + content)
    path = tmp_path / "a.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(content)
    writer.close()
    if name == "GIF":
        with pytest.raises(image_sets.ImageSetError, match="its records are not encoded pictures"):
            image_sets.open_set(str(path))
        return
    (pixels,) = image_sets.open_set(str(path)).read(0, 1)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(file)))
    assert len(sources.array_records(str(path))) == 1


def test_the_stand_in_of_ghostscript_sees_a_program_run(tmp_path, run_programs):
    from PIL import EpsImagePlugin

    EpsImagePlugin.gs_binary = None
    with contextlib.suppress(OSError):
        Image.open(io.BytesIO(EPS)).load()
    assert run_programs()


@pytest.mark.parametrize("content", [EPS, DDS, GIF, PPM, b"no picture", b"\x89PNG\r\n\x1a\n"],
                         ids=["eps", "dds", "gif", "ppm", "text", "png"])  # fmt: skip
@pytest.mark.parametrize("name", OPENED)
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, run_programs, name, content):
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "pictures" / "a.png"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"is not a valid picture|cannot be read as a picture|is not shown|not encoded"
    ):
        OPENED[name](path)
    assert run_programs() == ""


def declaring(kind, width, height):
    """A file of a few hundred bytes whose header says another size."""
    data = bytearray(coded(kind, (211, 197), **({"lossless": True} if kind == "WEBP" else {})))
    if kind == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif kind == "WEBP":
        at = data.index(b"VP8L") + 9
        bits = int.from_bytes(data[at : at + 4], "little") >> 28 << 28 | (height - 1) << 14 | (width - 1)
        data[at : at + 4] = bits.to_bytes(4, "little")
    else:
        for tag, side in ((256, width), (257, height)):
            at = next(
                data.index(struct.pack("<HHL", tag, kind, 1))
                for kind in (3, 4)
                if struct.pack("<HHL", tag, kind, 1) in data
            )
            data[at + 2 : at + 12] = struct.pack("<HLL", 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_a_size_is_read_in_the_header_and_refused_before_a_pixel_is_decoded(tmp_path, monkeypatch, kind):
    path = tmp_path / "large.png"
    path.write_bytes(declaring(kind, 13_000, 13_000))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    for name in ("read", "read_mask", "settings_of", "folder", "captions", "report", "page", "settings on the page"):
        with pytest.raises(ValueError, match=r"declares 13000 x 13000 pixels, and at most|not shown|13000 x 13000"):
            OPENED[name](path)


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_a_truncated_picture_is_refused_in_words(tmp_path, kind):
    whole = coded(kind, (64, 64))
    for length in (4, 20, 40, len(whole) // 2, len(whole) - 20):
        (tmp_path / "a.png").write_bytes(whole[:length])
        with contextlib.suppress(ValueError):  # of some formats little is missing, and is filled in
            assert pictures.read(tmp_path / "a.png").shape == (64, 64, 3)
        if length < len(whole) // 2:
            with pytest.raises(ValueError, match="is not a valid picture"):
                pictures.read(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_of_several_pictures_the_first_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200, 90)]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "a.png", kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.png"), np.full((8, 8, 3), (10, 0, 0)))


def opens(tree):
    """Lines at which a program has Pillow, or another library, open a picture."""
    images, found = {"Image"}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("PIL"):
            images |= {name.asname or name.name for name in node.names if name.name == "Image"}
            found += [node.lineno for name in node.names if name.name in ("open", "*")]
        if isinstance(node, ast.Import):
            images |= {name.asname for name in node.names if name.name == "PIL.Image" and name.asname}
        if isinstance(node, ast.Attribute) and node.attr in ("imread", "ImageReader", "decode_image"):
            found.append(node.lineno)
        if isinstance(node, ast.Attribute) and node.attr == "open":
            of = node.value
            if getattr(of, "id", None) in images or getattr(of, "attr", None) == "Image":
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("code", ["Image.open(p)", "import PIL.Image as I\nI.open(p)", "from PIL.Image import open",
                                  "import PIL\nPIL.Image.open(p)", "f = Image.open", "plt.imread(p)",
                                  "from PIL import Image as Picture\nwith Picture.open(p): pass"])  # fmt: skip
def test_every_spelling_of_opening_is_found(code):
    assert len(opens(ast.parse(code))) == 1
    assert opens(ast.parse("path.open()\nopen(p)\nimage_sets.open_set(p)")) == []


@pytest.mark.extended
def test_pictures_are_opened_in_one_function_alone():
    found = {}
    for folder in PROGRAMS:
        for path in sorted((commands.ROOT / folder).rglob("*.py")):
            text = path.read_text()
            if re.search(r"\bopen\b|imread|ImageReader|decode_image|PIL", text) and (lines := opens(ast.parse(text))):
                found[str(path.relative_to(commands.ROOT))] = len(lines)
    theirs = {"benchmarks/peers/input_pipeline.py": 1}  # of PyTorch's environment, which has no library of ours
    assert found == {"diffusion/io/pictures.py": 1} | theirs


@pytest.mark.parametrize("orientation, turned", [
    (1, lambda x: x), (2, np.fliplr), (3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1)),
    (8, lambda x: np.rot90(x)),
])  # fmt: skip
def test_a_photograph_is_turned_as_its_exif_data_say(orientation, turned):
    """EXIF 2.3, tag 0x0112: 6 is a picture to be turned clockwise by a quarter, 8 one to be turned back."""
    stored = np.random.default_rng(0).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(pictures.read(file.getvalue(), "photo"), turned(stored))

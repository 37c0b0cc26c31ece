"""Hostile datasets, images and samples are refused in one sentence, before anything large or foreign is opened.

The attacks are modules that a file names, names that are paths, false sizes, and data that unpack to far more.
"""

import io
import json
import os
import pathlib
import pickle
import shutil
import struct
import tokenize
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from diffusion.data import catalog, sources
from diffusion.data.sources import spec as records_spec
from diffusion.data.transforms import decode
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sampling.sample_files import read_samples
from diffusion.io import limits
from tests.conformance import slow_but
from tests.data.made import image_feature, png, write
from tests.reliability.hostile import HUGE, Called, little_memory  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]


# ==== Datasets ====


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    features = {"image": image_feature(), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": png(np.zeros((4, 4, 3), np.uint8)), "label": k % 2} for k in range(4)]
    return write(tmp_path_factory.mktemp("made"), features, examples)


@pytest.fixture
def dataset(made, tmp_path):
    """A copy of the dataset with which a test may tamper: (the data folder, the folder of the dataset's version)."""
    shutil.copytree(made, tmp_path / "data")
    return str(tmp_path / "data"), tmp_path / "data/made/1.2.0"


def change(path, function):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["../made", "/etc/made", "made/..", "made/../made", "made/../../made:1.2.0", "..",
                                  "made:../1.2.0", "made\\..", "made\0", "", "made/.", "made/.hidden"])  # fmt: skip
def test_a_dataset_name_that_is_a_path_is_refused(made, name):
    with pytest.raises(ValueError, match="is not of the form"):
        catalog.find(name, made)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """The class of a module that leaves a trace when it is imported; the test fails if it was imported."""
    (tmp_path / "trap_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "trap_module.Trap"
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("where", ["top", "image", "deep", "other spelling"])
def test_features_that_name_a_module_are_refused_and_not_imported(dataset, trap, where):
    root, folder = dataset

    def tamper(content):
        features = content["featuresDict"]["features"]
        if where == "top":
            content["pythonClassName"] = trap
        elif where == "image":
            features["image"]["pythonClassName"] = trap
        elif where == "deep":
            inner = {"pythonClassName": trap, "tensor": {"shape": {}, "dtype": "int64"}}
            features["more"] = {
                "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
                "sequence": {"feature": inner, "length": "-1"},
            }
        else:
            features["image"]["python_class_name"] = trap

    change(folder / "features.json", tamper)
    with pytest.raises(ValueError, match=r"feature class 'trap_module.Trap'"):
        sources.open_source("made", "train", root)


def test_the_module_in_dataset_info_is_not_imported(dataset, trap):
    root, folder = dataset
    change(folder / "dataset_info.json", lambda info: info.update(moduleName="trap_module"))
    source, _ = sources.open_source("made", "train", root)
    assert source[0]["image"].shape == (4, 4, 3)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda info: info["splits"][0].update(filepathTemplate="../../../{DATASET}-{SPLIT}"),
        lambda info: info["splits"][0].update(filepathTemplate="/etc/passwd"),
        lambda info: info["splits"][0].update(name="../train"),
        lambda info: info.update(name="../../made"),
        lambda info: info.update(fileFormat="../array_record"),
    ],
)
def test_dataset_info_with_a_path_is_refused(dataset, tamper):
    root, folder = dataset
    change(folder / "dataset_info.json", tamper)
    with pytest.raises(ValueError, match="a path: the folder is damaged or hostile"):
        sources.open_source("made", "train", root)


def test_a_feature_whose_name_is_a_path_is_refused(dataset):
    """TFDS reads the classes' names from a file whose name contains the feature's name."""
    root, folder = dataset
    change(
        folder / "features.json",
        lambda content: content["featuresDict"]["features"].update(
            {"../../label": content["featuresDict"]["features"]["label"]}
        ),
    )
    with pytest.raises(ValueError, match="a path: the folder is damaged or hostile"):
        sources.open_source("made", "train", root)


def test_more_records_than_bytes_are_refused(dataset):
    """The false number is refused, since the order of so many records would fill the memory."""
    root, folder = dataset
    change(folder / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=[str(HUGE)]))
    with pytest.raises(ValueError, match="declares 1,000,000,000,000 records, but its files have"):
        sources.open_source("made", "train", root)


def test_giant_images_are_refused_by_the_description(dataset):
    root, folder = dataset
    change(
        folder / "features.json",
        lambda content: content["featuresDict"]["features"]["image"]["image"]["shape"].update(
            dimensions=["100000", "100000", "3"]
        ),
    )
    with pytest.raises(ValueError, match=r"28 GiB each; at most 256 MiB are read|27\.94 GiB each; at most 256 MiB"):
        sources.open_source("made", "train", root)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "not JSON", "pipe", "endless"])
def test_descriptions_of_another_form_are_refused(dataset, name, content):
    root, folder = dataset
    path = folder / name
    if content == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif content == "endless":
        os.truncate(path, 2**40)
    else:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"not valid JSON|is not a file|at most 64 MiB"):
        sources.open_source("made", "train", root)


# ==== Images ====


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG that declares a size and holds at most 1 MiB of compressed zeros as pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(min(height * (3 * width + 1), 2**20)), 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 2**31 - 1), (60_000, 60_000), (4, 5)])
def test_an_image_of_another_size_is_not_decoded(width, height):
    with pytest.raises(Exception, match=r"expected|exceeds limit|broken PNG"):
        decode(png_of(width, height), (4, 4, 3))


@pytest.mark.extended
@pytest.mark.parametrize("kind", slow_but([(b"iCCP",)], [(b"iCCP",), (b"zTXt",), (b"iTXt",)]))
def test_a_bomb_in_the_text_or_profile_of_a_png_is_not_unpacked(kind):
    bomb = zlib.compress(bytes(2**29), 9)
    head = {b"iCCP": b"name\0\0", b"zTXt": b"name\0\0", b"iTXt": b"name\0\1\0\0\0"}[kind]
    try:
        image = decode(png_of(4, 4, chunk(kind, head + bomb)), (4, 4, 3))
    except Exception as error:
        assert "Decompressed data too large" in str(error) or isinstance(error, (ValueError, OSError))
    else:
        assert image.shape == (4, 4, 3)


def test_formats_that_run_programs_are_refused():
    """PostScript is refused, since Pillow passes it to Ghostscript."""
    with pytest.raises(ValueError, match=r"not a valid picture in one of these formats: PNG, JPEG, WEBP, BMP, TIFF$"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n", (4, 4, 3))


# ==== Samples ====


def npy(shape, kind="|u1", data=b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def npz(folder, **arrays: bytes):
    with zipfile.ZipFile(folder / "samples.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)


@pytest.mark.extended
@pytest.mark.parametrize(("images", "words"), [
    (npy((HUGE, HUGE, 8, 1)), r"declares \S+ [EZ]iB, and this machine has"),
    (npy((2**33,)), r"declares \S+ [GM]iB, (but holds 0 B|and this machine)"),
    (npy((-4, 8)), "shape"),
    (npy((2, 8, 8, 1), data=bytes(127)), r"declares 128 B, but holds 127 B"),
    (lambda: npy((2, 8, 8, 1), data=bytes(2**28)), r"declares 128 B, but holds 256 MiB"),  # a bomb: 260 kB of archive
    (npy((1,), "|O", pickle.dumps(Called())), "declares|Object arrays"),
    (b"\x93NUMPY\x09\x00" + bytes(100), "format"),
    (pickle.dumps(Called()), "magic"),
])  # fmt: skip
def test_samples_that_declare_what_they_do_not_hold_are_refused(tmp_path, monkeypatch, images, words):
    monkeypatch.chdir(tmp_path)
    npz(tmp_path, images=images() if callable(images) else images, labels=npy((2,), "<i8", bytes(16)))
    with pytest.raises(WorkdirError, match=words):
        read_samples(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_honest_samples_are_read(tmp_path):
    np.savez_compressed(tmp_path / "samples.npz", images=np.zeros((3, 8, 8, 1), np.uint8), labels=np.arange(3))
    images, labels = read_samples(tmp_path)
    assert images.shape == (3, 8, 8, 1) and labels.tolist() == [0, 1, 2]


# ==== Rules for all modules ====


def code_of(path):
    """A module's code without its plain strings, some of which quote programs that people run elsewhere."""
    lines = path.read_text().splitlines()
    tokens = tokenize.generate_tokens(iter([line + "\n" for line in lines]).__next__)
    strings = [token for token in tokens if token.type == tokenize.STRING]
    for token in reversed([token for token in strings if not token.string.lower().startswith(("f", "rf", "fr"))]):
        (first, start), (last, end) = token.start, token.end
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:]] + [""] * (last - first)
    return "\n".join(lines)


def test_nothing_reads_pickle(tmp_path):
    """No module unpickles or evaluates text, or lets NumPy do it."""
    (tmp_path / "module.py").write_text('x = """a\nexec(b)""" + exec(c)\ny = "eval(d)" + f"{exec(e)}"\n')
    assert code_of(tmp_path / "module.py") == 'x =  + exec(c)\n\ny =  + f"{exec(e)}"'
    words = ("pickle.load", "Unpickler(", "allow_pickle=True", "yaml.load", "torch.load", " eval(", "exec(")
    for path in ROOT.glob("diffusion/**/*.py"):
        text = path.read_text()
        if any(word in text for word in words):
            code = code_of(path)
            assert [word for word in words if word in code] == [], path
        assert text.count("np.load(") == text.count("allow_pickle=False"), path


def test_limits_are_generous():
    """Ordinary sizes pass: a model of 1 GiB fits, and a picture of 1024 x 1024 pixels is below the limit."""
    limits.fits("a small model", 2**30)
    assert limits.memory() > 2**30
    assert 1024 * 1024 * 4 < records_spec.IMAGE_LIMIT
    assert limits.size(28 * 10**9) == "26.08 GiB"

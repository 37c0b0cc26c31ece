"""Pictures and films are read as a viewer shows them: turned, without what is hidden behind opacity, or not at all."""

import io
import json
import tarfile
import zlib

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image, ImageOps

from diffusion.data import fingerprints, image_folder, sources
from diffusion.data.sources import clip_files
from diffusion.data.sources.spec import DamagedRecord
from diffusion.experiments.run import examples
from diffusion.io import pictures
from diffusion.metrics import image_sets
from diffusion.recipe import ConfigError, data, defaults, versions

SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:160:4, 0:240:4, 90:91]), axis=-1)[..., 0, :].astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))


def photograph(orientation, kind="JPEG"):
    """A picture of 40 x 60 pixels as a camera stores it, [H, W], with the orientation of its EXIF data."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SMOOTH).save(file, kind, exif=exif)
    return file.getvalue()


def shown(content):
    """The photograph as a viewer shows it, by Pillow's own function."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))


def folder_of(folder, *contents):
    (folder / "a").mkdir(parents=True)
    for number, content in enumerate(contents):
        (folder / "a" / f"{number}.png").write_bytes(content)


def class_folders(folder, content, **how):
    folder_of(folder, content)
    return sources.class_folders(str(folder), **how)


def picture_folder(folder, content, **how):
    folder_of(folder, content)
    return sources.picture_folder(str(folder), **how)


def shards(folder, content):
    folder.mkdir()
    with tarfile.open(folder / "train.tar", "w") as archive:
        member = tarfile.TarInfo("0.jpg")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return str(folder)


def table(folder, content):
    folder.mkdir()
    pq.write_table(pa.table({"image": [{"bytes": content}]}), folder / "train.parquet")
    return str(folder)


def array_records(folder, content, **how):
    folder.mkdir()
    writer = ArrayRecordWriter(str(folder / "train.array_record"), "group_size:1")
    writer.write(content)
    writer.close()
    return sources.array_records(str(folder), **how)


READERS = {
    "class_folders": class_folders,
    "picture_folder": picture_folder,
    "array_records": array_records,
    "tar_shards": lambda folder, content, **how: sources.tar_shards(shards(folder, content), **how),
    "parquet": lambda folder, content, **how: sources.parquet(table(folder, content), **how),
    "tar_stream": lambda folder, content, **how: sources.tar_stream(shards(folder, content), **how),
    "parquet_stream": lambda folder, content, **how: sources.parquet_stream(table(folder, content), **how),
}


def first(source):
    return (source[0] if hasattr(source, "__getitem__") else next(iter(source.records(1))))["image"]


@pytest.mark.parametrize("name", READERS)
def test_every_source_turns_a_photograph(name, tmp_path):
    content = photograph(6)
    source = READERS[name](tmp_path / "a", content)
    assert source.spec.shape == (60, 40, 3)
    np.testing.assert_array_equal(first(source), shown(content))
    stored = READERS[name](tmp_path / "b", content, viewed=False)
    np.testing.assert_array_equal(first(stored), np.asarray(Image.open(io.BytesIO(content))))
    before, now = stored.fingerprint(), source.fingerprint()  # earlier versions wrote the former
    assert "pixels" not in before and now["pixels"] == "viewed"
    settings = {"data": {"changed": "stop"}}
    with pytest.raises(ConfigError, match=r"pixels of the pictures None -> viewed.*--config\.data\.viewed=False"):
        examples.require_same(settings, before, now)
    with pytest.raises(ConfigError, match=r"--config\.data\.viewed=True"):
        examples.require_same(settings, now, before)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows_and_known_from_the_header(kind, orientation):
    content = photograph(orientation, kind)
    picture = pictures.opened(content, "it")
    size = pictures.upright_size(picture)
    picture.load()
    upright = np.asarray(pictures.upright(picture))
    np.testing.assert_array_equal(upright, shown(content))
    assert size == upright.shape[1::-1]
    np.testing.assert_array_equal(pictures.read(content, "it"), shown(content))


def test_a_frame_in_a_picture_file_is_read_as_a_viewer_shows_it_unless_asked_otherwise(tmp_path):
    content = photograph(6)
    (tmp_path / "0.jpg").write_bytes(content)
    np.testing.assert_array_equal(clip_files.frame_of(tmp_path / "0.jpg"), shown(content))
    stored = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(clip_files.frame_of(tmp_path / "0.jpg", viewed=False), stored)


@pytest.mark.parametrize("kind", [b"eXIf", b"tEXt"])
def test_the_size_of_a_png_file_is_turned_by_data_behind_its_pixels(kind, tmp_path):
    """The PNG specification allows both places; the bucket was that of the picture as it is stored."""
    before = photograph(6, "PNG")
    begin = before.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(before[begin : begin + 4], "big")
    exif = before[begin + 8 : end - 4]
    if kind == b"tEXt":  # as ImageMagick writes it
        exif = b"Raw profile type exif\0\nexif\n" + f"{len(exif) + 6:8}\n{(b'Exif' + bytes(2) + exif).hex()}\n".encode()
    late = len(exif).to_bytes(4, "big") + kind + exif + zlib.crc32(kind + exif).to_bytes(4, "big")
    content = before[:begin] + before[end:-12] + late + before[-12:]
    with pictures.opened(content, "it") as picture:
        size = pictures.upright_size(picture)
        assert size == pictures.upright_size(picture) == (40, 60)  # also once it is decoded
    source = class_folders(tmp_path / "a", content, varied=(8, 8))
    assert source.sizes([0]).tolist() == [[60, 40]]
    np.testing.assert_array_equal(first(source), shown(before))
    with pictures.opened(before, "it") as picture:
        pictures.upright_size(picture)
        assert picture._im is None  # the header alone is read
    at = content.index(b"IDAT") + 4
    damaged = content[:at] + bytes(2) + content[at + 2 :]
    with pictures.opened(damaged, "it") as picture, pytest.raises(ValueError, match="the picture is not a valid"):
        pictures.upright_size(picture)


def test_squares_sizes_and_stamps_are_of_the_turned_picture(tmp_path):
    content = photograph(8)
    source = class_folders(tmp_path / "a", content, varied=(8, 8))
    stored = sources.class_folders(str(tmp_path / "a"), varied=(8, 8), viewed=False)
    assert source.sizes([0]).tolist() == [[60, 40]] and stored.sizes([0]).tolist() == [[40, 60]]
    assert source.stamp() != stored.stamp() and source.fingerprint() != stored.fingerprint()
    square = first(sources.class_folders(str(tmp_path / "a"), side=20)).astype(int)
    middle = np.asarray(Image.fromarray(shown(content)).crop((0, 10, 40, 50)).resize((20, 20), Image.Resampling.BOX))
    assert np.abs(square - middle).max() <= 2


def test_a_set_for_metrics_has_stored_pixels_and_a_prepared_folder_is_turned(tmp_path):
    """pytorch-fid, clean-fid and torch-fidelity take the pixels of `Image.open(path).convert("RGB")`."""
    content = photograph(6)
    folder_of(tmp_path / "turned", content)
    stored = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(image_sets.open_set(str(tmp_path / "turned")).read(0, 1)[0], stored)
    (tmp_path / "turned" / "metadata.csv").write_text("file_name,caption\na/0.png,a cat\n")
    image_folder.prepare(tmp_path / "turned", "mine", tmp_path / "made")
    records, spec = sources.open_source("mine", "train", str(tmp_path / "made"))
    assert spec.shape == (60, 40, 3)
    np.testing.assert_array_equal(records[0]["image"], shown(content))


def saved(array, mode=None, **options):
    file = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(file, "PNG", **options)
    return file.getvalue()


def test_what_is_transparent_is_white_where_examples_have_no_opacity(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8)
    folder_of(tmp_path / "a", saved(SMOOTH[:8, :8]), saved(colours))
    source = sources.class_folders(str(tmp_path / "a"))
    opacity = colours[..., 3:].astype(float) / 255
    np.testing.assert_allclose(source[1]["image"], colours[..., :3] * opacity + 255 * (1 - opacity), atol=1)
    stored = sources.class_folders(str(tmp_path / "a"), viewed=False)
    np.testing.assert_array_equal(stored[1]["image"], colours[..., :3])
    folder_of(tmp_path / "b", saved(colours), saved(SMOOTH[:8, :8]))
    both = sources.class_folders(str(tmp_path / "b"))
    np.testing.assert_array_equal(both[0]["image"], colours)
    assert (both[1]["image"][..., 3] == 255).all()


def test_a_grey_picture_that_comes_first_does_not_make_all_grey(tmp_path):
    folder_of(tmp_path / "a", saved(SMOOTH, "L"), saved(SMOOTH))
    source = sources.class_folders(str(tmp_path / "a"))
    assert source.spec.shape == (40, 60, 3)
    np.testing.assert_array_equal(source[1]["image"], SMOOTH)
    assert sources.class_folders(str(tmp_path / "a"), viewed=False).spec.shape == (40, 60, 1)
    folder_of(tmp_path / "b", *[saved(SMOOTH, "L")] * 300)
    unseen = sorted(set(range(300)) - set(fingerprints.rows(300)))[0]
    name = sorted(f"{number}.png" for number in range(300))[unseen]
    (tmp_path / "b/a" / name).write_bytes(saved(SMOOTH))
    grey = sources.class_folders(str(tmp_path / "b"))
    assert grey.spec.shape == (40, 60, 1)
    with pytest.raises(DamagedRecord, match=rf"{name} .*its image is in colour \(RGB\), but the first one is grey"):
        grey[unseen]


@pytest.mark.parametrize("values", [np.uint16(257) * np.arange(64, dtype=np.uint16), np.float32(np.arange(64) / 64)])
def test_more_than_eight_bits_are_refused(values, tmp_path):
    """Pillow alone makes white of all but the least 256 of 65,536 values."""
    file = io.BytesIO()
    Image.fromarray(values.reshape(8, 8)).save(file, "TIFF")
    folder_of(tmp_path / "a", file.getvalue())
    for viewed in (True, False):
        with pytest.raises(ValueError, match=r"0\.png.* has more than 8 bits a value \([IF].*\); save it with 8 bits"):
            sources.class_folders(str(tmp_path / "a"), viewed=viewed)
    for number in range(2):
        (tmp_path / "clip").mkdir(exist_ok=True)
        (tmp_path / "clip" / f"{number}.png").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match=r"clip/0\.png has more than 8 bits a value"):
        sources.clip_folder(str(tmp_path / "clip"), frames=2, side=8)


def write_film(path, degrees):
    """A film of two frames with one bright corner, which a player turns by `degrees`, as phones write them."""
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16, :16] = 255
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        if degrees:
            stream.set_display_rotation(degrees)
        for _ in range(2):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        film.mux(stream.encode())


@pytest.mark.parametrize("degrees, corner", [(0, (0, 0)), (-90, (0, 1)), (90, (1, 0)), (180, (1, 1))])
def test_a_film_is_turned_as_a_player_does(degrees, corner, tmp_path):
    """ffmpeg 5.1 shows a film of display rotation -90 turned clockwise: its first corner at the right."""
    write_film(tmp_path / "a.mp4", degrees)
    clip = sources.clip_folder(str(tmp_path), frames=2, side=32, rate=8)[0]["image"]
    halves = clip[0].reshape(2, 16, 2, 16, 3).mean((1, 3, 4))
    assert np.unravel_index(halves.argmax(), (2, 2)) == corner
    stored = sources.clip_folder(str(tmp_path), frames=2, side=32, rate=8, viewed=False)
    viewed = sources.clip_folder(str(tmp_path), frames=2, side=32, rate=8)
    assert (viewed.fingerprint() == stored.fingerprint()) == (degrees == 0)  # what is made of them is not mixed up
    halves = stored[0]["image"][0].reshape(2, 16, 2, 16, 3).mean((1, 3, 4))
    assert np.unravel_index(halves.argmax(), (2, 2)) == (0, 0)


def test_frames_in_pictures_are_turned_and_those_of_a_gif_are_white_where_transparent(tmp_path):
    (tmp_path / "clip").mkdir()
    for number in range(2):
        (tmp_path / "clip" / f"{number}.jpg").write_bytes(photograph(3))
    clip = sources.clip_folder(str(tmp_path), frames=2, side=40)[0]["image"]
    assert np.abs(clip[0].astype(int) - shown(photograph(3))[:, 10:50]).max() <= 1
    transparent = Image.fromarray(np.zeros((8, 8), np.uint8), "P")
    transparent.putpalette([9, 8, 7] + [0] * 765)
    (tmp_path / "gif").mkdir()
    transparent.save(tmp_path / "gif" / "a.gif", transparency=0)
    assert (sources.clip_folder(str(tmp_path / "gif"), frames=1, side=8, rate=1)[0]["image"] == 255).all()


def test_a_config_reads_viewed_pictures_and_that_of_an_earlier_run_stored_ones(tmp_path):
    folder_of(tmp_path / "a", photograph(6))
    config = defaults.defaults()
    config.data.source = {"name": "class_folders", "path": str(tmp_path / "a")}
    assert data.source(config, "train").spec.shape == (60, 40, 3)
    written = json.loads(versions.write(config))
    del written["data"]["viewed"]
    earlier = versions.read(json.dumps(written | {"version": 32}))
    assert data.source(earlier, "train").spec.shape == (40, 60, 3)


def test_a_size_is_not_ignored_for_a_source_with_its_own_side(tmp_path):
    folder_of(tmp_path / "a", photograph(1))
    entry = {"name": "class_folders", "path": str(tmp_path / "a")}
    named = lambda entry, side: data.named(f"{json.dumps(entry)}@train", side=side)
    assert named(entry | {"side": 8}, 0).spec.shape == (8, 8, 3)
    with pytest.raises(ConfigError, match=r'--size=8 is for datasets of TFDS, .* Valid: "side": 8 among these'):
        named(entry, 8)
    with pytest.raises(ConfigError, match="but --data=Records is a source"):
        data.named(named(entry, 0), side=8)

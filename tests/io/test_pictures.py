"""Picture files: every kind becomes three bytes a pixel, masks fit, and settings travel in the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from diffusion.io import failures, pictures

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(place, array, mode=None, **options):
    Image.fromarray(array, mode).save(place, **options)
    return place


def test_eight_bits_are_read_as_they_are(tmp_path, recwarn):
    np.testing.assert_array_equal(pictures.read(saved(tmp_path / "a.png", PIXELS)), PIXELS)
    grey = pictures.read(saved(tmp_path / "b.png", PIXELS[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(PIXELS[..., :1], 3, -1))
    opaque = np.dstack([PIXELS, np.full((5, 7), 255, np.uint8)])
    np.testing.assert_array_equal(pictures.read(saved(tmp_path / "c.png", opaque)), PIXELS)
    assert not recwarn.list


def test_transparent_parts_are_laid_on_white_and_it_is_said(tmp_path):
    alpha = np.full((5, 7), 255, np.uint8)
    alpha[0], alpha[1] = 0, 128
    path = saved(tmp_path / "a.png", np.dstack([PIXELS, alpha]))
    with pytest.warns(UserWarning, match=r"a\.png has transparent parts: they become white"):
        found = pictures.read(path)
    np.testing.assert_array_equal(found[2:], PIXELS[2:])
    np.testing.assert_array_equal(found[0], 255)
    half = 255 + (PIXELS[1].astype(float) - 255) * 128 / 255
    np.testing.assert_allclose(found[1], half, atol=1)


def test_sixteen_bits_are_rounded_and_it_is_said(tmp_path):
    deep = np.array([[0, 128, 129, 257, 65535]], np.uint16)
    path = saved(tmp_path / "a.png", deep)
    with pytest.warns(UserWarning, match=r"more than 8 bits a pixel \(I;16\): rounded to 8"):
        found = pictures.read(path)
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 255] and found.shape == (1, 5, 3)


@pytest.mark.parametrize("kind", [2, 6])  # PNG's numbers of red, green and blue, without and with opacity
def test_of_sixteen_bits_of_colours_the_upper_eight_are_read_and_it_is_said(kind):
    deep = np.array([[[0x12FF, 0x3456, 0x0080, 0xFFFF][: 3 + kind // 6]]], ">u2")
    chunk = lambda name, content: struct.pack(">I4s", len(content), name) + content + crc(name + content)
    crc = lambda content: struct.pack(">I", zlib.crc32(content))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + deep.tobytes())) + chunk(b"IEND", b"")
    with pytest.warns(UserWarning, match=r"^a has 16 bits a value: the upper 8 are read$"):
        assert pictures.read(png, "a").tolist() == [[[0x12, 0x34, 0x00]]]


def test_a_mask_is_what_is_bright_and_has_its_pictures_size(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert pictures.read_mask(path, (1, 4)).tolist() == [[False, False, True, True]]
    with pytest.raises(ValueError, match=r"has 1 x 4 pixels \(height x width\), but its picture has 4 x 4"):
        pictures.read_mask(path, (4, 4))


def test_settings_travel_in_the_file_and_nothing_of_them_is_executed(tmp_path):
    prompt = "ein Kätzchen, __import__('os').system('touch hacked')"
    settings = {"prompt": prompt, "seed": 3, "guidance": 7.5, "image": None}
    path = tmp_path / "a.png"
    pictures.write(path, PIXELS, settings)
    assert pictures.settings_of(path) == settings
    np.testing.assert_array_equal(pictures.read(path), PIXELS)
    first = path.read_bytes()
    pictures.write(path, PIXELS, dict(reversed(settings.items())))
    assert path.read_bytes() == first
    with pytest.raises(ValueError, match="carries no settings"):
        pictures.settings_of(saved(tmp_path / "b.png", PIXELS))
    for text in ("{", "[" * 100_000, "[1]"):
        about = PngImagePlugin.PngInfo()
        about.add_text(pictures.KEY, text)
        with pytest.raises(ValueError, match=r"its (table of settings is not valid JSON|settings are list)"):
            pictures.settings_of(saved(tmp_path / "c.png", PIXELS, pnginfo=about))


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        pictures.read(tmp_path / "none.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="is not a valid picture"):
        pictures.read(tmp_path / "a.png")
    whole = saved(tmp_path / "b.png", PIXELS).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="is not a valid picture"):
        pictures.read(tmp_path / "b.png")
    saved(tmp_path / "c.tiff", np.full((2, 2), 0.5, np.float32))
    with pytest.raises(ValueError, match=r"c\.tiff has pixel values from 0\.5 to 0\.5"), pytest.warns(UserWarning):
        pictures.read(tmp_path / "c.tiff")


def test_a_tiff_file_that_stores_fewer_pixels_than_it_declares_is_refused(tmp_path):
    """Pillow reads the rows that no strip holds as black ones."""
    place = saved(tmp_path / "a.tiff", PIXELS)
    entry = lambda height: struct.pack("<HHII", 257, 4, 1, height)  # ImageLength
    content = place.read_bytes()
    assert content.count(entry(5)) == 1 and (pictures.read(place) == PIXELS).all()
    place.write_bytes(content.replace(entry(5), entry(500)))
    with pytest.raises(
        ValueError, match=r"a\.tiff is not a valid picture: it declares 7 x 500 pixels and stores fewer"
    ):
        pictures.read(place)


def test_a_place_that_no_file_has_shows_a_damaged_file(tmp_path):
    """The operating system refuses such a place as an argument, which is no failure of the machine."""
    (tmp_path / "a.tiff").write_bytes(b"II" + struct.pack("<HHHQ", 43, 8, 0, 2**63 - 2))
    with pytest.raises(ValueError, match=r"a\.tiff is not a valid picture: OSError\(22") as refused:
        pictures.read(tmp_path / "a.tiff")
    assert not failures.is_machine_failure(refused.value)


def test_a_picture_that_needs_more_memory_than_there_is_is_refused(tmp_path, monkeypatch):
    def load(picture):
        raise MemoryError

    place = saved(tmp_path / "a.png", PIXELS)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ValueError, match=r"a\.png needs more memory than there is") as refused:
        pictures.read(place)
    assert failures.is_machine_failure(refused.value)  # the file may be sound


def test_a_new_picture_has_the_first_name_that_no_file_has(tmp_path):
    for name in ("a.png", "a-1.png", "a-3.png"):
        (tmp_path / name).write_text("taken")
    with pictures.reserved(tmp_path, "a") as path:
        pictures.write(path, PIXELS, {})
    assert path == tmp_path / "a-2.png" and (pictures.read(path) == PIXELS).all()


def test_two_commands_that_write_into_one_folder_choose_two_names(tmp_path):
    """Both chose before either had written, and the second wrote over the first one's picture."""
    with pictures.reserved(tmp_path, "7") as first, pictures.reserved(tmp_path, "7") as second:
        pictures.write(second, PIXELS, {})
        pictures.write(first, PIXELS, {})
    assert [first.name, second.name] == ["7.png", "7-1.png"]


def test_a_name_is_free_again_if_its_picture_could_not_be_written(tmp_path):
    with pytest.raises(OSError, match="full"), pictures.reserved(tmp_path, "a"):
        raise OSError("full")
    assert not list(tmp_path.iterdir())


def test_settings_are_as_long_as_they_may_be_and_no_longer(tmp_path, monkeypatch):
    pictures.write(tmp_path / "a.png", PIXELS, {"seed": 3})
    monkeypatch.setattr(pictures, "TEXT", len('{"seed": 3}'))
    assert pictures.settings_of(tmp_path / "a.png") == {"seed": 3}
    monkeypatch.setattr(pictures, "TEXT", len('{"seed": 3}') - 1)
    with pytest.raises(ValueError, match=r"a\.png: its settings have 11 characters\. Valid: at most 10"):
        pictures.settings_of(tmp_path / "a.png")


def test_settings_of_a_mebibyte_are_read(tmp_path):
    """Pillow itself reads no more than that, of text that is compressed."""
    text = "x" * (2**20 - len('{"a": ""}'))
    pictures.write(tmp_path / "a.png", PIXELS, {"a": text})
    assert pictures.settings_of(tmp_path / "a.png") == {"a": text}
    pictures.write(tmp_path / "a.png", PIXELS, {"a": text + "x"})
    with pytest.raises(ValueError, match=r"has 1,048,577 characters|have 1,048,577 characters"):
        pictures.settings_of(tmp_path / "a.png")


def test_layers_are_written_each_and_beside_each_other(tmp_path):
    layers = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 4)).astype(np.uint8)
    paths = pictures.write_layers(tmp_path / "7.png", layers, {"seed": 7})
    assert [path.name for path in paths] == ["7_layer_1.png", "7_layer_2.png", "7_layer_3.png"]
    for path, layer in zip(paths, layers):
        np.testing.assert_array_equal(pictures.read_with_alpha(path), layer)
    row = pictures.read_with_alpha(tmp_path / "7.png")
    assert row.shape == (4, 15, 4) and pictures.settings_of(tmp_path / "7.png") == {"seed": 7}
    np.testing.assert_array_equal(row[:, 5:10], layers[1])


def test_a_mask_of_sixteen_bits_is_rounded_before_it_is_bright(tmp_path):
    """257 times 127 is 127 of 8 bits, and half a step more is 128."""
    path = saved(tmp_path / "a.png", np.array([[0, 257 * 127, 257 * 127 + 129, 65535]], np.uint16))
    assert pictures.read_mask(path, (1, 4)).tolist() == [[False, False, True, True]]


def test_damaged_exif_data_turn_nothing():
    class Damaged:
        format, info = "JPEG", {}

        def getexif(self):
            raise SyntaxError("not a TIFF")

    assert pictures.orientation(Damaged()) == 1

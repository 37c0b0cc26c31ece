"""What each fitting keeps of a picture and where it puts it. (Filters: tests of models.layers.bicubic.)"""

import numpy as np
import pytest
from PIL import Image

from diffusion.models.image_encoders import picture_fitting
from diffusion.models.layers import bicubic
from tests.models.interchange import published


def drawn(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize(
    ("size", "box", "even"),
    [
        ((30, 15), (0, 7, 15, 22), (0, 8, 15, 23)),  # 15 rows too many: 7.5 from the top
        ((15, 31), (8, 0, 23, 15), (8, 0, 23, 15)),
        ((15, 28), (6, 0, 21, 15), (6, 0, 21, 15)),  # 6.5 is rounded to 6 by both
        ((15, 15), (0, 0, 15, 15), (0, 0, 15, 15)),
    ],
)
def test_a_picture_is_cut_in_its_middle(size, box, even):
    """Of the right size already, so that what is left of Pillow's resize is to change nothing."""
    picture = drawn(*size)
    image = Image.fromarray(picture)
    np.testing.assert_array_equal(picture_fitting.cropped(picture, 15), np.asarray(image.crop(box)))
    np.testing.assert_array_equal(picture_fitting.cropped_evenly(picture, 15), np.asarray(image.crop(even)))
    grey = picture_fitting.cropped(picture[..., :1], 15)
    np.testing.assert_array_equal(grey, np.repeat(np.asarray(image.crop(box))[..., :1], 3, axis=-1))


def test_of_a_strip_only_the_part_about_its_middle_is_resized(monkeypatch):
    """A whole strip of 20,000 x 1 at 224 pixels would have 3 GB; the middle stays where it is."""
    sizes = []
    resize = Image.Image.resize

    def measured(image, size, *how):
        sizes.append(size)
        return resize(image, size, *how)

    monkeypatch.setattr(Image.Image, "resize", measured)
    for length, kept in ((2000, slice(990, 1010)), (2001, slice(990, 1011))):
        for strip in (drawn(1, length), drawn(length, 1)):
            middle = strip[:, kept] if length in strip.shape[1:] else strip[kept]
            np.testing.assert_array_equal(picture_fitting.cropped(strip, 16), picture_fitting.cropped(middle, 16))
    assert max(map(max, sizes)) == 21 * 16


@pytest.mark.parametrize("fitting", [picture_fitting.padded, picture_fitting.padded_plain])
def test_what_is_beside_the_longer_side_is_black(fitting):
    white = np.full((30, 21, 3), 255, np.uint8)  # 10.5 columns of 15, rounded to 10: 2 to the left, 3 to the right
    found = fitting(white, 15)
    expected = np.full((15, 15, 3), -1, np.float32)
    expected[:, 2:12] = 1
    np.testing.assert_allclose(found, expected, atol=1e-6)
    picture = drawn(9, 15)
    np.testing.assert_array_equal(fitting(picture, 15)[3:12], picture.astype(np.float32) / 127.5 - 1)


def test_longer_sides_are_resized_by_pytorchs_filters():
    """The matrices of torch.nn.functional.interpolate itself, from 37 values to 16."""
    picture = drawn(37, 37)
    outputs = published.case("dinov2_offset").outputs
    for fitting, name in ((picture_fitting.padded, "coarser_antialiased"), (picture_fitting.padded_plain, "coarser")):
        by_torch = np.einsum("ih,jw,hwc->ijc", outputs[name], outputs[name], picture / 127.5 - 1)
        np.testing.assert_allclose(fitting(picture, 16), by_torch, atol=2e-4)
    assert not np.allclose(bicubic.plain(37, 16), bicubic.antialiased(37, 16), atol=0.1)


def test_a_picture_is_squeezed_into_a_square():
    picture = drawn(12, 20)
    for fitting, name in ((picture_fitting.squeezed, "BICUBIC"), (picture_fitting.squeezed_bilinear, "BILINEAR")):
        expected = np.asarray(Image.fromarray(picture).resize((8, 8), getattr(Image.Resampling, name)))
        np.testing.assert_array_equal(fitting(picture, 8), expected)


@pytest.mark.parametrize("sides", [(10, 18), (18, 10)])
def test_the_longer_side_is_rounded_down_before_the_middle_is_cut_out(sides):
    """12.6 pixels are 12, as int() makes them in transformers and torchvision, of which 2 go at the beginning."""
    picture = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
    new = tuple(7 if side == 10 else 12 for side in sides)
    resized = np.asarray(Image.fromarray(picture).resize(new[::-1], Image.Resampling.BICUBIC))
    middle = resized[:, 2:9] if new[1] == 12 else resized[2:9]
    np.testing.assert_array_equal(picture_fitting.cropped(picture, 7), middle)
    np.testing.assert_array_equal(picture_fitting.cropped_evenly(picture, 7), middle)


def test_the_shorter_side_is_rounded_to_the_nearest_before_black_is_put_beside_it():
    """10 of 18 rows at a side of 7 are 3.89: four rows in the middle of seven."""
    padded = picture_fitting.padded(np.full((10, 18, 3), 255, np.uint8), 7)
    np.testing.assert_array_equal(padded[..., 0].max(1) > 0, [False, True, True, True, True, False, False])


def test_the_filter_of_a_square_is_the_one_that_the_folder_states(tmp_path):
    """Pillow numbers its bilinear filter 2 and its bicubic one 3."""
    stated = lambda: picture_fitting.stated_square(tmp_path, "otherwise")
    assert stated() == "otherwise"
    picture = drawn(9, 14)
    for text, filter_ in (("2", Image.Resampling.BILINEAR), ("3", Image.Resampling.BICUBIC), ("null", None)):
        (tmp_path / "preprocessor_config.json").write_text(f'{{"resample": {text}}}')
        if filter_ is None:
            assert stated() == "otherwise"
        else:
            found = picture_fitting.FITTINGS[stated()](picture, 5)
            np.testing.assert_array_equal(found, Image.fromarray(picture).resize((5, 5), filter_))
    (tmp_path / "preprocessor_config.json").write_text('{"resample": 1}')
    with pytest.raises(ValueError, match=r"resample = 1\. Valid: 2 \(bilinear\) or 3 \(bicubic\)"):
        stated()

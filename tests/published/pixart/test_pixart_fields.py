"""Fields of PixArt's config that follow from the size of its pictures where they are missing, as in diffusers."""

import pytest

from diffusion.published.pixart import table


@pytest.mark.parametrize(
    ("size", "stated", "span", "sized"),
    [
        (64, {}, 32, False),
        (96, {}, 48, False),  # the scale is 96 // 64 = 1
        (128, {}, 32, True),
        (256, {}, 32, False),
        (32, {}, 16, False),  # and at least 1
        (32, {"interpolation_scale": 0.5}, 32, False),
        (128, {"use_additional_conditions": False}, 32, False),
        (64, {"use_additional_conditions": True}, 32, True),
    ],
)
def test_the_span_and_the_sizes_follow_from_the_size_of_a_picture(size, stated, span, sized):
    """The positions of sample_size / 2 patches are divided by sample_size // 64; pictures of 128 latents have sizes."""
    module = table.CONFIG.build({"sample_size": size, "caption_channels": 5} | stated)
    assert (module.span, module.sized) == (span, sized)

"""Times of LTX-2's tokens, the clock of its gates; inputs of other shapes, which it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models import facts
from diffusion.published.ltx2.network import LTX2, LTX2Entry, clip_positions, sound_positions
from tests import numpy_programs
from tests.published.ltx2.facts import SMALL

SHAPES = {"video": (1, 2, 1, 1, 6), "sound": (1, 3, 5)}
TEXTS = {"text": jnp.ones((1, 2, 12)), "sound_text": jnp.ones((1, 2, 12))}


def test_the_first_latent_of_a_clip_is_one_frame_and_the_others_are_eight():
    """Their middles: of 1, 8 and 8 frames at 10 a second; 32 pixels a row and column."""
    positions = np.asarray(clip_positions(jnp.full(1, 10.0), 3, 2, 1)).reshape(3, 2, 3)
    np.testing.assert_allclose(20 * positions[:, 0, 0], [0.05, 0.5, 1.3], rtol=1e-6)
    np.testing.assert_allclose(2048 * positions[0], [[0.05 * 2048 / 20, 16, 16], [0.05 * 2048 / 20, 48, 16]], rtol=1e-6)


def test_the_first_latent_of_a_sound_is_one_frame_of_the_spectrogram_and_the_others_are_four():
    positions = np.asarray(sound_positions(3))
    np.testing.assert_allclose(20 * positions[0, :, 0], [0.005, 0.03, 0.07], rtol=1e-6)


def test_gates_between_clip_and_sound_have_a_clock_of_their_own():
    """Of half the size at twice the time, the gates are those of the whole clock at the time."""
    draw = lambda *shape: np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)
    x, text, angles, one = draw(1, 3, 5), draw(1, 2, 12), draw(1, 3, 8), np.ones((1, 1), np.float32)
    entry = lambda clock: LTX2Entry(16, True, False, clock, "float32")
    arrays = lambda t: (x, one, t * one, text, angles, angles)
    shapes = jax.eval_shape(entry(1000).init, jax.random.key(0), *arrays(1.0))
    params = jax.tree.map(lambda leaf: draw(*leaf.shape), shapes)
    between = lambda clock, t: numpy_programs.outputs(entry(clock).apply, params, *arrays(t))[2].between[0, 0]
    whole, half = between(1000, 300.0), between(500, 600.0)
    np.testing.assert_array_equal(half[4], whole[4])
    assert np.abs(half[:4] - whole[:4]).max() > 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": {"video": jnp.ones(SHAPES["video"])}}, r"this LTX2 takes \{'video': \[B, F, H, W, 6\], 'sound'"),
        ({"x": {"video": jnp.ones((1, 2, 1, 1, 5)), "sound": jnp.ones((1, 3, 5))}}, "6 channels of a clip and 5"),
        ({"x": {"video": jnp.ones((2, 2, 1, 1, 6)), "sound": jnp.ones((1, 3, 5))}}, "of one batch"),
        ({"t": {"video": jnp.ones(1)}}, "the clocks of an LTX2 are of 'video' and 'sound'; got 'video'"),
        ({"condition": {"rate": jnp.ones(2)}}, r"'rate' must be \[B\] = \(1,\)"),
        ({"condition": {"apart": jnp.ones((1, 1), bool)}}, r"'apart' must be \[B\] = \(1,\)"),
        ({"condition": {"sound_text": jnp.ones((1, 2, 11))}}, r"'text' must be .* = \(1, M, 12\); got \(1, 2, 11\)"),
        ({"condition": {"identity": jnp.ones((1, 3), bool)}}, r"'identity' has shape \(1, 3\)"),
    ],
)
def test_inputs_of_another_shape_are_refused(changes, words):
    arguments = {"x": {name: jnp.ones(shape) for name, shape in SHAPES.items()}, "t": jnp.ones(1), "condition": {}}
    arguments |= changes
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(
            SMALL.init, jax.random.key(0), arguments["x"], arguments["t"], {**TEXTS, **arguments["condition"]}
        )


def test_it_takes_pytrees_alone():
    assert facts.takes_pytrees(LTX2) and not any(facts.takes_rank(LTX2, (8,) * rank) for rank in range(1, 5))

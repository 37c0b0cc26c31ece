"""Watermarks: what is embedded is read back, the noise keeps its law, and p-values hold for what has no watermark."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.special
import scipy.stats

from diffusion import sampling, watermarks
from diffusion.sampling.watermarks import degradations

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
KEYS = jax.random.split(jax.random.key(1), 64)
NOISE = np.random.default_rng(0).standard_normal((64, 8, 8, 2)).astype(np.float32)
SCENES = np.random.default_rng(1).uniform(20, 235, (6, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)


def test_gaussian_shading_reads_every_bit_of_the_noise_and_keeps_its_magnitudes():
    mark = watermarks.gaussian_shading(KEY, bits=16, nonces=8)
    marked = np.asarray(mark.embed(NOISE, KEYS))
    np.testing.assert_array_equal(np.abs(marked), np.abs(NOISE))
    reading = mark.read(marked)
    np.testing.assert_array_equal(reading.bits, np.tile(mark.message, (64, 1)))
    assert (reading.score == 1).all()
    np.testing.assert_allclose(reading.p_value, 1 - (1 - 2.0**-128) ** 8, atol=1e-15)  # all 128 signs agree
    assert len(np.unique(marked.reshape(64, -1) > 0, axis=0)) == 8  # pictures of different nonces differ


@pytest.mark.parametrize("flipped", [0, 7])
def test_the_p_value_of_gaussian_shading_is_that_of_the_binomial_in_float64(flipped):
    """Of 600 signs all but a few agree: sums of binomial coefficients over 2^600, times the nonces."""
    mark = watermarks.gaussian_shading("ab" * 32, 8, 4)
    noise = np.array(
        mark.embed(jax.random.normal(jax.random.key(0), (1, 10, 20, 3)), jax.random.split(jax.random.key(1), 1))
    )
    noise.reshape(-1)[:flipped] *= -1
    reading = mark.read(noise)
    assert reading.p_value.dtype == reading.score.dtype == np.float64
    exact = 4 * sum(math.comb(600, k) for k in range(flipped + 1)) / 2**600
    np.testing.assert_allclose(reading.p_value, exact, rtol=1e-9)
    np.testing.assert_allclose(reading.score, (600 - flipped) / 600, rtol=1e-12)


def test_noise_of_which_nobody_could_read_the_watermark_is_refused():
    noise, pictures = watermarks.gaussian_shading(KEY), watermarks.spread_spectrum(KEY)
    noise.check_readable(False, False)
    for draws, from_picture, why in (
        (True, False, "the sampler adds noise of its own"),
        (False, True, "sampling starts from a picture, or keeps a part of one"),
        (True, True, "the sampler adds noise of its own"),
    ):
        pictures.check_readable(draws, from_picture)
        with pytest.raises(ValueError, match=f"could not be read: {why}"):
            noise.check_readable(draws, from_picture)


@pytest.mark.extended
def test_gaussian_shading_leaves_noise_normal_and_independent_over_the_keys():
    keys = [f"{i:064x}" for i in range(80)]
    draws = np.random.default_rng(2).standard_normal((80, 1, 2, 2, 2)).astype(np.float32)
    marks = [watermarks.gaussian_shading(key, bits=4, nonces=1) for key in keys]
    made = np.stack([np.asarray(mark.embed(z, KEYS[:1])) for mark, z in zip(marks, draws)])
    made = made.reshape(80, -1)
    assert scipy.stats.kstest(made.ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(made.T) - np.eye(8)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(80)  # values 0 and 4 carry the same bit


def test_a_channel_of_the_rings_is_any_of_an_array_of_4096_from_either_end():
    for channel in (-4096, 4095):
        watermarks.tree_ring(KEY, channel=channel)
    for channel in (-4097, 4096, 0.5, True):
        with pytest.raises(ValueError, match=r"channel = .* must be an integer, -4096 \.\. 4095"):
            watermarks.tree_ring(KEY, channel=channel)


@pytest.mark.parametrize("mark", [watermarks.gaussian_shading(KEY, 16, 8), watermarks.tree_ring(KEY, 0.5, 0)])
def test_p_values_of_noise_without_the_watermark_are_uniform(mark):
    noise = 3 * np.random.default_rng(3).standard_normal((2000, 8, 8, 2))  # of any scale
    p = mark.read(noise).p_value
    for level in (0.02, 0.1, 0.5):  # those of signs are discrete: at most the level
        assert np.mean(p < level) < level + 4 * np.sqrt(level / 2000)
        assert np.mean(p < level) > 0.6 * level


def test_tree_ring_sets_the_spectrum_to_its_rings_and_nothing_else():
    mark = watermarks.tree_ring(KEY, radius=0.375, channel=0)
    marked = np.asarray(mark.embed(jnp.asarray(NOISE), KEYS))
    np.testing.assert_array_equal(marked[..., 1], NOISE[..., 1])
    before, after = (np.fft.fft2(z[..., 0], norm="ortho") for z in (NOISE, marked))
    k = np.minimum(np.arange(8), 8 - np.arange(8))
    ring = np.ceil(np.hypot(*np.meshgrid(k, k))).clip(1)
    np.testing.assert_allclose(after[:, ring > 3], before[:, ring > 3], atol=1e-5)
    for r in (1, 2, 3):
        np.testing.assert_allclose(after[:, ring == r], after[0, ring == r][0].real, atol=1e-5)
    reading = mark.read(marked)
    np.testing.assert_allclose(reading.score, 1, atol=1e-6)
    assert reading.p_value.max() < 0.010
    assert watermarks.tree_ring(OTHER, 0.375, 0).read(marked).p_value.min() > 1e-6


def test_spread_spectrum_is_read_from_the_marked_picture_and_from_a_smaller_one():
    mark = watermarks.spread_spectrum(KEY, bits=8, low=3, high=16)
    marked = mark.embed(SCENES)
    assert marked.dtype == np.uint8 and marked.shape == SCENES.shape
    for pictures in (marked, degradations.resized(marked, 0.5), degradations.jpeg(marked, 75)):
        reading = mark.read(pictures)
        np.testing.assert_array_equal(reading.bits, np.tile(mark.message, (6, 1)))
        assert reading.p_value.max() < 0.01
        np.testing.assert_allclose(reading.p_value, np.exp(-(reading.score**2) / 2), rtol=1e-12)  # Hoeffding 1963
    np.testing.assert_allclose(mark.embed(marked).astype(int), marked, atol=3)  # a bit that is there costs nothing
    others = [watermarks.spread_spectrum(f"{i:064x}", 8, 3, 16).read(SCENES).p_value for i in range(50)]
    assert np.mean(np.concatenate(others) < 0.05) <= 0.05 + 4 * np.sqrt(0.05 / 300)


def test_degradations_change_pictures_and_keep_their_form():
    for pictures in (SCENES, SCENES[..., :1]):
        for name, change in degradations.DEGRADATIONS.items():
            changed = change(pictures)
            assert changed.shape == pictures.shape and changed.dtype == np.uint8
            assert (changed == pictures).all() == (name == "none"), name
    centre = np.zeros((1, 32, 32, 1), np.uint8)
    centre[:, 8:24, 8:24] = 200
    assert degradations.cropped(centre, 0.5).min() == 200


@pytest.mark.parametrize("sides", [(1, 8), (8, 1)])
def test_a_picture_of_one_row_or_column_can_be_resized(sides):
    pictures = np.full((1, *sides, 3), 7, np.uint8)
    np.testing.assert_array_equal(degradations.resized(pictures, 0.5), pictures)


def test_noise_is_of_each_picture_and_a_blur_of_each_channel():
    grey = np.full((2, 32, 32, 3), 128, np.uint8)
    bright, dark = (degradations.noisy(np.full((1, 16, 16, 3), value, np.uint8), 0.05) for value in (255, 0))
    assert bright.min() > 128 > dark.max()  # what leaves the range stays at its end
    noisy = degradations.noisy(grey, 0.1).astype(float) - 128
    assert abs(np.corrcoef(noisy.reshape(2, -1))[0, 1]) < 0.1
    np.testing.assert_allclose(noisy.std(axis=(1, 2, 3)), 25.5, rtol=0.05)
    for channel in range(3):
        alone = degradations.blurred(SCENES[..., channel : channel + 1], 1.0)
        np.testing.assert_array_equal(degradations.blurred(SCENES, 1.0)[..., channel : channel + 1], alone)


def test_what_black_and_white_cut_off_of_a_spread_spectrum_is_put_in_again():
    """Half of the pixels of a black and white picture cannot take the change; the signs are those of a flat one."""
    mark = watermarks.spread_spectrum(KEY, bits=1, low=3, high=24, strength=4)
    coefficients = lambda pictures: scipy.fft.dctn(pictures.mean(-1), axes=(1, 2), norm="ortho")
    beyond = np.maximum(*np.indices((64, 64)))
    band = (beyond >= 3) & (beyond < 24)
    flat = np.full((1, 64, 64, 3), 128, np.uint8)
    signs = np.sign(coefficients(mark.embed(flat) - 128.0)[0][band])
    stark = np.random.default_rng(0).choice([0, 255], (4, 64, 64, 1)).astype(np.uint8)
    along = coefficients(mark.embed(stark))[:, band] @ signs / band.sum()
    margin = 4 * 64 / np.sqrt(band.sum())
    assert (along > 0.8 * margin).all() and (along < 1.1 * margin).all()


def test_a_message_that_is_there_with_the_other_sign_is_no_evidence():
    marked = watermarks.spread_spectrum(KEY, 8, 3, 16).embed(SCENES)
    reading = watermarks.spread_spectrum(KEY, 8, 3, 16).read(255 - marked)
    assert (reading.score < 0).all() and (reading.p_value == 1).all()


def test_every_coefficient_of_a_flat_picture_has_the_margin_of_the_strength():
    """Nothing of the picture is along the signs, so that each of the band changes by the same, whatever its sign."""
    flat = np.full((1, 64, 64, 3), 128, np.uint8)
    change = watermarks.spread_spectrum(KEY, bits=4, low=3, high=24, strength=16).embed(flat)[0, ..., 0] - 128.0
    sizes = np.abs(scipy.fft.dctn(change, norm="ortho"))
    beyond = np.maximum(*np.indices((64, 64)))
    band = (beyond >= 3) & (beyond < 24)
    margin = 16 * 64 / np.sqrt(24**2 - 3**2)  # so that the root mean square of the pixels' change is the strength
    np.testing.assert_allclose(sizes[band], margin, atol=2)  # pixels are rounded: a deviation of 0.3
    assert sizes[~band].max() < 2


def test_noise_of_as_many_values_as_bits_carries_them():
    mark = watermarks.gaussian_shading(KEY, bits=8, nonces=1)
    np.testing.assert_array_equal(
        mark.read(mark.embed(NOISE[:3, :2, :2], KEYS[:3])).bits, np.tile(mark.message, (3, 1))
    )
    with pytest.raises(ValueError, match="bits = 8 exceeds the number of noise values, 7"):
        mark.embed(jnp.zeros((1, 7)), KEYS[:1])


def test_a_key_file_is_read_as_the_watermark_that_it_was_made_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "mark.json"
    made = watermarks.make("~/mark.json", "gaussian_shading", bits=16)
    assert path.stat().st_mode & 0o077 == 0
    np.testing.assert_array_equal(watermarks.load(path).message, made.message)
    with pytest.raises(FileExistsError, match="exists already"):
        watermarks.make(path, "tree_ring")


@pytest.mark.parametrize(
    "make, name, least, greatest",
    [
        (watermarks.gaussian_shading, "bits", 1, 4096), (watermarks.gaussian_shading, "nonces", 1, 2**16),
        (watermarks.spread_spectrum, "bits", 1, 4096), (watermarks.tree_ring, "channel", -4096, 4095),
        (functools.partial(watermarks.spread_spectrum, high=20), "low", 0, 19),
    ],
)  # fmt: skip
def test_whole_numbers_are_valid_up_to_their_ends(make, name, least, greatest):
    for value in (least, greatest):
        make(KEY, **{name: value})
    for value in (least - 1, greatest + 1):
        with pytest.raises(ValueError, match=rf": {name} = {value} must be an integer, {least} \.\. {greatest}$"):
            make(KEY, **{name: value})


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"name": "tree_rings", "key": KEY}, "did you mean 'tree_ring'"),
        ({"name": "tree_ring", "key": KEY[:10]}, "key must have 64 digits 0"),
        ({"name": "tree_ring", "key": 7}, r"key must have 64 digits 0 \.\. 9, a \.\. f; got int"),
        ({"name": "tree_ring", "key": KEY, "radios": 3}, "radios"),
        ({"name": "tree_ring", "key": KEY, "radius": 0.7}, "radius = 0.7"),
        ({"name": "tree_ring", "key": KEY, "radius": "wide"}, "tree_ring: "),
        ({"name": "gaussian_shading", "key": KEY, "bits": 0}, "bits = 0"),
        ({"name": "gaussian_shading", "key": KEY, "nonces": 2.5}, r"nonces = 2\.5 must be an integer, 1 \.\. 65536"),
        ({"name": ["gaussian_shading"], "key": KEY}, r"name = \["),
        ({"name": {"a": 1}, "key": KEY}, r"name = \{"),
        ({"name": "gaussian_shading", "key": KEY, "bits": 10**9}, "bits = 1000000000"),
        ({"name": "tree_ring", "key": KEY, "channel": 0.5}, "channel = 0.5"),
        ({"name": "tree_ring", "key": KEY, "channel": True}, "channel = True"),
        ({"name": "spread_spectrum", "key": KEY, "low": 9, "high": 9}, "low = 9"),
        ({"name": "spread_spectrum", "key": KEY, "high": 100000}, r"high = 100000 must be an integer, 1 \.\. 4096"),
        ({"name": "spread_spectrum", "key": KEY, "high": "wide"}, "high = 'wide'"),
        ({"name": "spread_spectrum", "key": KEY, "strength": float("inf")}, "strength = inf"),
        ({"name": "spread_spectrum", "key": KEY, "strength": float("nan")}, "strength = nan"),
    ],
)
def test_a_wrong_key_file_is_refused(tmp_path, entry, words):
    (tmp_path / "mark.json").write_text(json.dumps(entry))
    with pytest.raises(ValueError, match=words):
        watermarks.load(tmp_path / "mark.json")


def test_what_is_too_small_for_a_watermark_is_refused():
    with pytest.raises(ValueError, match="bits = 64 exceeds the number of noise values, 4"):
        watermarks.gaussian_shading(KEY).embed(jnp.zeros((1, 2, 2, 1)), KEYS[:1])
    with pytest.raises(ValueError, match="leaves no ring"):
        watermarks.tree_ring(KEY).read(np.zeros((1, 4, 4, 1)))
    with pytest.raises(ValueError, match="too few for 32 bits"):
        watermarks.spread_spectrum(KEY).embed(np.zeros((1, 8, 8, 3), np.uint8))
    for mark in (watermarks.gaussian_shading(KEY), watermarks.tree_ring(KEY), watermarks.spread_spectrum(KEY)):
        with pytest.raises(ValueError, match="not finite"):
            mark.read(np.full((1, 64, 64, 3), np.nan))
    with pytest.raises(FileNotFoundError, match="diffusion watermark make"):
        watermarks.load("nowhere.json")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_value_that_is_not_finite_is_refused(value):
    noise = NOISE[:2].copy()
    noise[1, 0, 0, 0] = value
    for mark in (watermarks.gaussian_shading(KEY, 16, 8), watermarks.tree_ring(KEY, 0.5, 0)):
        with pytest.raises(ValueError, match="values that are not finite"):
            mark.read(noise)


def test_the_former_name_of_an_entry_s_watermark_warns():
    with pytest.warns(DeprecationWarning, match="from_entry"):
        assert watermarks.of is watermarks.from_entry


@pytest.mark.parametrize("agree", [0, 1, 2, 31])
def test_the_p_value_of_signs_that_mostly_disagree_is_near_one(agree):
    """P(Binomial(32, 1/2) >= agree), by sums of binomial coefficients."""
    mark = watermarks.gaussian_shading(KEY, bits=1, nonces=1)
    noise = -np.asarray(mark.embed(jnp.asarray(NOISE[:1, :4, :4]), KEYS[:1]))
    noise.reshape(-1)[:agree] *= -1
    exact = sum(math.comb(32, k) for k in range(agree, 33)) / 2**32
    np.testing.assert_allclose(mark.read(noise).p_value, exact, rtol=1e-9)


def test_the_p_value_of_rings_is_that_of_a_direction_by_chance():
    """A random direction in n dimensions: P(cos > c) = I(1 - c^2; (n - 1) / 2, 1 / 2) / 2 for c > 0."""
    mark = watermarks.tree_ring(KEY, radius=0.375, channel=0)
    marked = np.asarray(mark.embed(jnp.asarray(NOISE), KEYS))
    k = np.minimum(np.arange(8), 8 - np.arange(8))
    n = (np.ceil(np.hypot(*np.meshgrid(k, k))) <= 3).sum()
    reading = mark.read(NOISE + 0.5 * marked)
    cosine = reading.score
    tail = scipy.special.betainc((n - 1) / 2, 0.5, 1 - cosine**2) / 2
    np.testing.assert_allclose(reading.p_value, np.where(cosine > 0, tail, 1 - tail), rtol=1e-9)
    assert cosine.min() < 0.3 < 0.7 < cosine.max()


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda key: 3, "mine returns an int. Valid: .* a Watermark"),
        (lambda key: watermarks.Watermark("noises", None, None), "carrier is 'noises'. Valid: 'noise' or 'pictures'"),
    ],
)
def test_a_function_of_ones_own_that_returns_no_watermark_is_named(function, words, monkeypatch):
    """A carrier that was misspelt left every sample without a mark."""
    monkeypatch.setitem(watermarks.WATERMARKS, "mine", function)
    with pytest.raises(ValueError, match=words):
        watermarks.from_entry({"name": "mine", "key": KEY})


@pytest.mark.parametrize(
    "carrier, x, embed, words",
    [
        ("noise", NOISE, lambda x, keys: x[..., :1], r"an array of float32, shape \(64, 8, 8, 1\) for an"),
        ("pictures", SCENES, lambda x, keys: x / 255, r"an array of float64, shape \(6, 64, 64, 3\) for an"),
        ("pictures", SCENES, lambda x, keys: None, "a value of type NoneType for an array of uint8"),
    ],
)
def test_a_watermark_that_returns_another_array_is_named(carrier, x, embed, words):
    with pytest.raises(ValueError, match=rf"mine 0: embed returns {words}"):
        sampling.marked(watermarks.Watermark(carrier, embed, None, identity="mine 0"), carrier, x, KEYS)


@pytest.mark.parametrize(
    "reading, words",
    [
        (lambda x: 0.5, "read of mine returns a float. Valid: a Reading of arrays .2."),
        (lambda x: watermarks.Reading(np.zeros(1), np.zeros(2)), r"read of mine: score is \[0\.0\]\. Valid"),
        (
            lambda x: watermarks.Reading(np.array([0.0, np.nan]), np.zeros(2)),
            r"score is \[0\.0, NaN\]\. Valid: .*in \[0, 1\]",
        ),
        (lambda x: watermarks.Reading(np.zeros(2), np.full(2, np.nan)), r"p_value is \[NaN, NaN\]\. Valid"),
        (lambda x: watermarks.Reading(np.zeros(2), np.full(2, 1.5)), r"p_value is \[1\.5, 1\.5\]\. Valid"),
    ],
)
def test_a_reading_of_ones_own_watermark_that_is_none_is_named(reading, words, monkeypatch):
    """A p-value of NaN is below no level: a picture of it had no watermark."""
    mine = lambda key: watermarks.Watermark("pictures", lambda x, keys: x, reading)
    monkeypatch.setitem(watermarks.WATERMARKS, "mine", mine)
    with pytest.raises(ValueError, match=words):
        watermarks.from_entry({"name": "mine", "key": KEY}).read(np.zeros((2, 4, 4, 1)))


def test_ones_own_watermark_reads_only_what_is_finite(monkeypatch):
    read = lambda x: watermarks.Reading(np.zeros(len(x)), np.ones(len(x)))
    monkeypatch.setitem(
        watermarks.WATERMARKS, "mine", lambda key: watermarks.Watermark("noise", lambda x, keys: x, read)
    )
    mark = watermarks.from_entry({"name": "mine", "key": KEY})
    assert mark.read(np.zeros((2, 4, 4, 1))).p_value.tolist() == [1, 1]
    with pytest.raises(ValueError, match="mine: the input has values that are not finite"):
        mark.read(np.full((2, 4, 4, 1), np.inf))

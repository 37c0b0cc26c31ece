"""Where a trajectory begins: the noise of each key, what is encoded of pictures, and what stands beside x_t."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import timesteps
from diffusion.models.autoencoders.latent_space import Moments
from diffusion.published.pipeline_kinds import FirstImage, Pictures, Video
from diffusion.text_to_image import programs
from tests.text_to_image.stand_ins import made_model

KEYS = jax.vmap(jax.random.key)(jnp.array([3, 5, 7], jnp.uint32))
RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(-1, 1, (1, 8, 12, 3)), jnp.float32)
OTHER = jnp.asarray(RNG.uniform(-1, 1, (1, 8, 12, 3)), jnp.float32)
MASK = jnp.asarray(RNG.random((1, 8, 12, 1)) < 0.2)


class Halves:
    """An autoencoder of every second pixel, whose posterior has a standard deviation of 0.1."""

    factor, latent_channels, scale, shift = 2, 3, 0.5, 0.25

    def apply(self, variables, x, method):
        return Moments(x[:, ::2, ::2], jnp.full_like(x[:, ::2, ::2], 2 * np.log(0.1)))


def latents(x):
    """The mean of an image's latents, as the denoiser knows them."""
    return (np.asarray(x)[:, ::2, ::2] - 0.25) * 0.5


def of(model, **how):
    """(x, keys, known, painted, beside) at the start."""
    names = ("sees_picture", "sees_mask", "seen_channels", "modules", "kind", "process", "channels")
    seen = {name: getattr(model, name) for name in names} | {name: how.pop(name) for name in names if name in how}
    course = types.SimpleNamespace(
        size=(8, 12),
        tile=0,
        frames=0,
        watermark=how.pop("watermark", None),
        noised=how.pop("noised", False),
        one_noise=how.pop("one_noise", False),
        trajectory=types.SimpleNamespace(start=2.0, plan=timesteps.plan(np.array([0.6, 0.3, 0.0]))),
        latents=lambda model: (4, 6, 3),
        shape=lambda model: (4, 6, 3),
    )
    how = {"image": None, "mask": None} | how
    return programs.begin(types.SimpleNamespace(**seen), course, {}, KEYS, **how)


@pytest.fixture(scope="module")
def model():
    made = made_model()
    return dataclasses.replace(made, modules={**made.modules, "vae": Halves()})


def own(number):
    """One of the three keys that each key is split into."""
    return jax.vmap(lambda key: jax.random.split(key, 3)[number])(KEYS)


def normal(keys):
    return jax.vmap(lambda key: jax.random.normal(key, (4, 6, 3)))(keys)


def drawn(found, image):
    """Whether latents are those of an image with the noise of the posterior, other noise for each."""
    rest = (np.asarray(found) - latents(image)) / (0.1 * 0.5)
    assert rest.shape == (3, 4, 6, 3) and 0.8 < rest.std() < 1.2 and abs(rest.mean()) < 0.3
    assert np.abs(rest[0] - rest[1]).mean() > 0.5


@pytest.mark.extended
def test_without_a_picture_there_is_noise_of_each_key(model):
    x, keys, known, painted, beside = of(model)
    np.testing.assert_allclose(x, 2 * normal(own(0)), rtol=1e-6)
    np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(own(1)))
    assert known is None and painted is None and beside == {}


def test_a_watermark_of_the_noise_stands_in_it_and_one_of_the_pictures_does_not(model):
    mark = types.SimpleNamespace(carrier="noise", embed=lambda noise, keys: noise + 1)
    np.testing.assert_allclose(of(model, watermark=mark)[0], 2 * (normal(own(0)) + 1), rtol=1e-5)
    mark.carrier = "pictures"
    np.testing.assert_allclose(of(model, watermark=mark)[0], 2 * normal(own(0)), rtol=1e-5)


@pytest.mark.extended
def test_an_image_is_noised_to_the_first_time_of_its_steps(model):
    x, _, known, painted, beside = of(model, image=IMAGE, noised=True)
    assert known is None and painted is None and beside == {}
    schedule = model.process.schedule
    alpha, sigma = float(schedule.alpha(0.6)), float(schedule.sigma(0.6))
    drawn((x - sigma * normal(own(0))) / alpha, IMAGE)
    x, *_ = of(model, image=IMAGE)  # all steps begin at noise
    np.testing.assert_allclose(x, 2 * normal(own(0)), rtol=1e-6)


def test_with_a_mask_latents_are_known_where_no_pixel_is_painted(model):
    _, _, known, painted, beside = of(model, image=IMAGE, mask=MASK)
    drawn(known, IMAGE)
    expected = np.asarray(MASK).reshape(1, 4, 2, 6, 2).any((2, 4))[..., None]
    np.testing.assert_array_equal(painted, expected)
    assert 0 < expected.mean() < 1 and beside == {}
    _, _, kept, *_ = of(model, image=IMAGE, mask=MASK, one_noise=True)
    np.testing.assert_array_equal(kept.latents, known)
    np.testing.assert_array_equal(kept.noise, normal(own(0)))  # that of the start


def test_a_model_that_inpaints_sees_the_mask_and_the_masked_picture(model):
    painted = np.asarray(MASK).reshape(1, 4, 2, 6, 2).any((2, 4))[..., None]
    hidden = jnp.where(MASK, 0, IMAGE)
    *_, known, where, beside = of(model, image=IMAGE, mask=MASK, sees_mask=True, seen_channels=4)
    assert known is None and where is None and beside.keys() == {"beside"}
    seen = beside["beside"]
    assert seen.shape == (3, 4, 6, 4)
    np.testing.assert_array_equal(seen[..., :1], np.repeat(painted, 3, axis=0))
    drawn(seen[..., 1:], hidden)
    seen = of(model, image=IMAGE, mask=MASK, sees_mask=True, seen_channels=7)[-1]["beside"]  # each pixel of the mask
    assert seen.shape == (3, 4, 6, 7)
    drawn(seen[..., :3], hidden)
    pixels = [np.asarray(MASK)[0, i::2, j::2, 0] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(seen[..., 3:], np.repeat(np.stack(pixels, axis=-1)[None], 3, axis=0))


@pytest.mark.parametrize(
    "kind, name, scaled",
    [({}, "beside", False), ({"appends": True}, "picture", True), ({"controlled": True}, "beside", True)],
)
def test_a_picture_that_is_edited_is_seen_by_its_mean(model, kind, name, scaled):
    """Beside a U-Net's x_t without the scale of latents, as InstructPix2Pix has it."""
    x, _, known, painted, beside = of(
        model, image=IMAGE, sees_picture=True, kind=model.kind._replace(pictures=Pictures(**kind))
    )
    expected = latents(IMAGE) if scaled else np.asarray(IMAGE)[:, ::2, ::2]
    assert beside.keys() == {name} and known is None and painted is None
    np.testing.assert_allclose(beside[name], np.repeat(expected, 3, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x, 2 * normal(own(0)), rtol=1e-6)


def test_further_pictures_are_seen_by_their_means_and_a_reference_with_noise(model):
    beside = of(model, images=(IMAGE, OTHER), reference=OTHER)[-1]
    assert beside.keys() == {"pictures", "reference"}
    for found, image in zip(beside["pictures"], (IMAGE, OTHER)):
        np.testing.assert_allclose(found, np.repeat(latents(image), 3, axis=0), rtol=1e-5, atol=1e-6)
    known, noise = np.split(np.asarray(beside["reference"]), 2, axis=-1)
    drawn(known, OTHER)
    assert 0.8 < noise.std() < 1.2 and np.abs(noise[0] - noise[1]).mean() > 0.5
    assert np.abs(noise - normal(own(0))).mean() > 0.5  # no noise that x has
    folded = jax.vmap(lambda key: jax.random.fold_in(key, 7))(own(2))  # the same in every version
    np.testing.assert_allclose(noise, normal(folded), rtol=1e-6)


@pytest.mark.extended
def test_clips_see_their_first_frame_as_their_kind_does(model):
    first = np.repeat(latents(IMAGE)[:, None], 3, axis=0)

    def begun(fills=False, **first):
        kind = model.kind._replace(video=Video(3, (8, 12), 1.0, first=FirstImage(**first), fills=fills))
        vae = types.SimpleNamespace(**{name: getattr(Halves, name) for name in ("factor", "scale", "shift")})
        vae.latent_channels, vae.time_factor, vae.apply = 3, 2, Halves.apply
        half = lambda x: x[:, ::2, ::2, ::2]
        vae.in_parts = lambda vae, params, method: half
        course = types.SimpleNamespace(
            size=(8, 12), tile=0, frames=3, watermark=None, noised=False, latents=lambda model: (2, 4, 6, 3),
            shape=lambda model: (2, 4, 6, 3), trajectory=types.SimpleNamespace(start=1.0, plan=None),
        )  # fmt: skip
        made = types.SimpleNamespace(
            modules={"vae": vae}, kind=kind, sees_picture=False, sees_mask=False, process=None, channels=3
        )
        return programs.begin(made, course, {}, KEYS, IMAGE, None)

    x, _, known, painted, beside = begun(clean=True)
    assert x.shape == (3, 1, 4, 6, 3) and painted is None and beside == {}  # the frames behind the first
    np.testing.assert_allclose(known, first, rtol=1e-5, atol=1e-6)
    x, _, known, painted, beside = begun(masked=True)
    assert x.shape == (3, 2, 4, 6, 3) and known is None and beside["beside"].shape == (3, 2, 4, 6, 5)
    np.testing.assert_array_equal(beside["beside"][..., :2], np.broadcast_to([[[[[1]]], [[[0]]]]], (3, 2, 4, 6, 2)))
    np.testing.assert_allclose(beside["beside"][:, :1, ..., 2:], first, rtol=1e-5, atol=1e-6)
    *_, beside = begun(masked=False)
    np.testing.assert_allclose(beside["beside"][:, :1], first, rtol=1e-5, atol=1e-6)
    assert beside["beside"].shape == (3, 2, 4, 6, 3) and not np.any(beside["beside"][:, 1:])
    hinted, *_, beside = begun(masked=False, one_mask=True, hint=0.25)
    np.testing.assert_allclose(hinted, 0.75 * x + 0.25 * first, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(beside["beside"][..., 3], np.broadcast_to([[[[1]], [[0]]]], (3, 2, 4, 6)))
    hinted, *_ = begun(clean=True, hint=0.25)
    np.testing.assert_allclose(hinted, (0.75 * x + 0.25 * first)[:, 1:], rtol=1e-5, atol=1e-6)

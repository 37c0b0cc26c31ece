"""EDM's augmentation against closed forms: what is exact is exact, a smooth image is read at the moved places."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import objectives, schedules, timesteps
from diffusion.data import augmentation
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.parts import Resolver

SIDE = 16
TRANSFORM = jax.jit(augmentation.transform)
NOISE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (SIDE, SIDE, 3)), jnp.float32)


def keys(number: int) -> jax.Array:
    return jax.random.split(jax.random.key(7), number)


def many(probability: float, number: int, image=NOISE, **options):
    augment = augmentation.edm_augmentation(probability, **options)
    images, numbers = jax.jit(jax.vmap(augment, (0, None)))(keys(number), image)
    return np.asarray(images), np.asarray(numbers)


def test_at_probability_zero_nothing_is_done():
    images, numbers = many(0.0, 8)
    assert np.array_equal(images, np.broadcast_to(NOISE, images.shape)) and not numbers.any()


@pytest.mark.extended
def test_mirrors_are_exact_and_numbered():
    images, numbers = many(1e-9, 32)
    assert set(numbers[:, 0]) == {0, 1} and not numbers[:, 1:].any()
    for image, row in zip(images, numbers):
        assert np.array_equal(image, NOISE[:, ::-1] if row[0] else NOISE)


def test_each_change_has_its_probability_and_its_numbers():
    p, number = 0.3, 4000
    augment = augmentation.edm_augmentation(p)
    numbers = np.asarray(jax.jit(jax.vmap(lambda key: augment(key, NOISE[:4, :4])[1]))(keys(number)))
    shares = (numbers != 0).mean(0)
    expected = [0.5, p / 2, p, p, p, p, p * 0.5, p, p]  # the stretch is along x itself half of the time
    assert np.all(np.abs(shares - expected) < 4 * np.sqrt(0.25 / number))
    together = collections.Counter((row[3] != 0) != (row[4] != 0) or (row[7] != 0) != (row[8] != 0) for row in numbers)
    assert together[True] == 0  # the numbers of one change come together
    assert np.allclose((numbers[:, 3] + 1) ** 2 + numbers[:, 4] ** 2, 1, atol=1e-5)
    for column in (2, 7, 8):
        drawn = numbers[numbers[:, column] != 0, column]
        assert abs(drawn.mean()) < 4 / np.sqrt(len(drawn)) and abs(drawn.std() - 1) < 4 / np.sqrt(2 * len(drawn))
    both = np.corrcoef(numbers[:, 2] != 0, numbers[:, 7] != 0)[0, 1]
    assert abs(both) < 4 / np.sqrt(number)  # independent of each other
    sizes = np.corrcoef(numbers[:, 0], numbers[:, 2])[0, 1]  # of the mirror and of the change of size
    assert abs(sizes) < 4 / np.sqrt(number)


@pytest.mark.slow
def test_without_mirrors_nothing_is_mirrored():
    assert not many(1e-9, 32, mirror=False)[1].any()


@pytest.mark.extended
def test_the_places_that_are_read_are_those_of_the_numbers(monkeypatch):
    """Of 8 x 16 pixels, whose shifts differ; a stretch by n along r has the numbers of one by -n along -r."""
    monkeypatch.setattr(
        augmentation, "transform", lambda image, inverse: jnp.broadcast_to(inverse.ravel(), image.shape)
    )
    augment = augmentation.edm_augmentation(1.0)
    read, numbers = jax.jit(jax.vmap(augment, (0, None)))(keys(16), jnp.zeros((8, 16, 9)))
    for inverse, row in zip(np.asarray(read)[:, 0, 0].reshape(-1, 3, 3), np.asarray(numbers, np.float64)):
        _, _, n, cos, sin, along, across, right, down = row
        turn = lambda angle: np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        possible = []
        for sign in (1, -1):
            m, r = sign * np.hypot(along, across), np.arctan2(sign * across, sign * along)
            linear = 2 ** (-0.2 * n) * turn(np.arctan2(sin, cos + 1)) @ turn(-r)
            linear = linear @ np.diag([2 ** (-0.2 * m), 2 ** (0.2 * m)]) @ turn(r)
            possible.append(np.column_stack([linear, linear @ [-16 * right / 8, -8 * down / 8]]))
        assert min(np.abs(inverse[:2] - one).max() for one in possible) < 1e-4
        np.testing.assert_array_equal(inverse[2], [0, 0, 1])


@pytest.mark.slow
def test_an_example_depends_on_its_key_alone():
    augment = jax.jit(jax.vmap(augmentation.edm_augmentation(1.0)))
    whole = augment(keys(6), jnp.stack([NOISE * scale for scale in range(6)]))
    part = augment(keys(6)[2:4], jnp.stack([NOISE * scale for scale in (2, 3)]))
    np.testing.assert_allclose(whole[0][2:4], part[0], atol=1e-5)
    assert np.array_equal(whole[1][2:4], part[1])


def matrix(a, b, c, d, e=0.0, f=0.0):
    return jnp.array([[a, b, e], [c, d, f], [0.0, 0, 1]])


def test_identity_and_whole_pixels_are_exact():
    np.testing.assert_allclose(TRANSFORM(NOISE, jnp.eye(3)), NOISE, atol=2e-6)
    moved = TRANSFORM(NOISE, matrix(1, 0, 0, 1, 3.0, -2.0))  # reads 3 to the right and 2 above
    reflected = np.pad(NOISE, ((SIDE - 1,) * 2, (SIDE - 1,) * 2, (0, 0)), mode="reflect")
    wanted = reflected[SIDE - 3 : 2 * SIDE - 3, SIDE + 2 : 2 * SIDE + 2]
    np.testing.assert_allclose(moved, wanted, atol=5e-6)


def test_beyond_the_reflection_is_grey():
    far = TRANSFORM(jnp.ones((SIDE, SIDE, 3)), matrix(1, 0, 0, 1, 4.0 * SIDE, 0))
    np.testing.assert_allclose(far, 0, atol=1e-6)


def smooth(x, y):
    """A slow wave without symmetry, of places in pixels from the middle."""
    return np.sin(0.17 * x + 0.3) + 0.5 * np.cos(0.11 * y - 0.08 * x + 1)


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    place = np.arange(side) - (side - 1) / 2
    return place[None, :] + 0 * place[:, None], place[:, None] + 0 * place[None, :]


@pytest.mark.parametrize(
    "inverse",
    [
        (0.0, -1.0, 1.0, 0.0),  # a quarter turn
        (np.cos(0.7), -np.sin(0.7), np.sin(0.7), np.cos(0.7)),
        (0.8, 0.0, 0.0, 0.8),
        (1.3, 0.0, 0.0, 0.7, 0.6, -1.4),
        (1.1, 0.3, -0.2, 0.9, 2.5, 0.5),
    ],
)
def test_a_smooth_image_is_read_at_the_moved_places(inverse):
    side = 32
    x, y = grid(side)
    image = jnp.asarray(smooth(x, y)[..., None], jnp.float32)
    moved = np.asarray(TRANSFORM(image, matrix(*inverse)))[..., 0]
    a, b, c, d, e, f = (*inverse, 0.0, 0.0)[:6]
    u = a * x + b * y + e
    v = c * x + d * y + f
    inside = (np.abs(u) < side / 2 - 4) & (np.abs(v) < side / 2 - 4) & (np.abs(x) < 12) & (np.abs(y) < 12)
    assert inside.sum() > 100
    assert np.abs(moved - smooth(u, v))[inside].max() < 0.03  # the image varies by 3


@pytest.mark.extended
def test_the_numbers_are_those_of_the_change():
    """The image is read where the numbers say; a stretch by n along r has the numbers of one by -n along -r."""
    side = 32
    x, y = grid(side)
    images, numbers = many(1.0, 12, jnp.asarray(smooth(x, y)[..., None], jnp.float32))
    checked = 0
    for image, (left, top, n, cos, sin, along, across, right, down) in zip(images, numbers):
        seen = []
        for sign in (1, -1):
            m = sign * np.hypot(along, across)
            r = np.arctan2(sign * across, sign * along)
            turn = lambda angle: np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            linear = 2 ** (-0.2 * n) * turn(np.arctan2(sin, cos + 1)) @ turn(-r)
            linear = linear @ np.diag([2 ** (-0.2 * m), 2 ** (0.2 * m)]) @ turn(r)
            u, v = np.einsum("ij,jyx->iyx", linear, np.stack([x - side * right / 8, y - side * down / 8]))
            u = u * (1 - 2 * left)
            v = v * (1 - 2 * top)
            inside = (np.abs(u) < side / 2 - 4) & (np.abs(v) < side / 2 - 4)
            seen.append((np.abs(image[..., 0] - smooth(u, v))[inside].max(initial=0), inside.sum()))
        error, count = min(seen)
        checked += count > 50
        assert error < 0.06
    assert checked >= 8


@pytest.mark.extended
def test_the_objective_is_that_of_the_changed_examples():
    schedule = schedules.rectified_flow()
    seen = []
    inner = objectives.flow_matching(timesteps.uniform_density(schedule))

    def network(x, clock, condition):
        seen.append(condition)
        return 0.3 * x

    def augment(key, x):
        return 2 * x, jnp.array([jax.random.uniform(key), 1.0])

    x = jnp.linspace(-1, 1, 24).reshape(4, 2, 3, 1)
    label = jnp.arange(4)
    batch = {"x": x, "condition": label, "index": jnp.arange(4)}
    outer = objectives.with_augmentation(inner, objectives.Augmentation(augment, 2))
    losses, _ = outer({"model": network}, schedule, keys(4), batch, 0)
    assert np.array_equal(seen[-1]["label"], label) and seen[-1]["augment"].shape == (4, 2)
    assert len(set(np.asarray(seen[-1]["augment"][:, 0]).tolist())) == 4
    remaining = jax.vmap(lambda key: jax.random.split(key, 2))(keys(4))[:, 1]
    wanted, _ = inner({"model": network}, schedule, remaining, {**batch, "x": 2 * x}, 0)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    outer({"model": network}, schedule, keys(4), {**batch, "condition": None}, 0)
    assert seen[-1].keys() == {"augment"}


UNET = {"name": "song_unet", "width": 8, "multipliers": (1, 2), "blocks": 1, "num_classes": 10}


def recipe(model=None, **augment):
    """The digits recipe with another network, and an augmentation."""
    config = digits.get_config("tiny")
    config.model = model or config.model
    if augment:
        config.objective.wrappers = ({"name": "augmentation", "augment": augment}, *config.objective.wrappers)
    return config


def test_a_config_gives_the_network_its_numbers():
    config = recipe(UNET, name="edm_augmentation", probability=0.2)
    assert Resolver(config).model((8, 8, 1)).augmentations == augmentation.NUMBERS
    assert Resolver(recipe(UNET)).model((8, 8, 1)).augmentations == 0
    _ = Resolver(config).objective


@pytest.mark.parametrize(
    ("model", "augment", "words"),
    [
        (None, {"name": "edm_augmentation"}, ["config.model.name", "dit", "song_unet"]),
        (UNET, {"name": "edm_augmentation", "probability": 1.2}, ["1.2", "[0, 1]"]),
        (UNET, {"name": "edm_augmentatoin"}, ["edm_augmentation"]),
    ],
)
def test_a_wrong_augmentation_is_refused_in_words(model, augment, words):
    config = recipe(model, **augment)
    with pytest.raises(ConfigError) as refused:
        checks.validate(config)
    assert all(word in str(refused.value) for word in words)

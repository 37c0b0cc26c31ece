"""Guidance by maps of cross-attention and by regions: exact small cases of each formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, parameterizations, samplers, schedules, timesteps
from diffusion.guidance import Unpaired, attention_losses
from diffusion.parameterizations import Prediction

WORD = np.array([[[1]]])  # one word of one token, number 1


def test_the_loss_of_a_layout_is_the_share_outside_of_the_box():
    """Of two heads one has a quarter of its map inside the box, the other all: ((3/4)^2 + 0) / 2. -1 is no token."""
    spread = np.ones((4, 4))
    inside = np.zeros((4, 4))
    inside[:2, :2] = 0.3
    maps = np.stack([spread, inside]).reshape(1, 2, 16, 1)
    tokens = np.array([[[0, -1]]])
    box = ((0.0, 0.0, 0.5, 0.5),)
    found = attention_losses.boxed([maps], tokens, box, (8, 8))
    np.testing.assert_allclose(found, 0.5 * 0.75**2, rtol=1e-6)
    two = attention_losses.boxed([maps, maps[:, :1]], np.array([[[0], [0]]]), box * 2, (8, 8))
    np.testing.assert_allclose(two, (0.5 * 0.75**2 + 0.75**2) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="none of the 4 x 4 positions of a map"):
        attention_losses.boxed([maps], tokens, ((0.0, 0.0, 0.1, 0.1),), (8, 8))


def test_the_loss_of_a_layout_is_finite_for_words_that_no_query_attends_to():
    """Of A_n = c e^(z_n): d/dz_n (1 - s)^2 = -2 (1 - s) (A_n / sum A) (1_n - s), for each c > 0; none for c = 0."""
    box = ((0.0, 0.0, 0.5, 0.5),)
    z = jnp.arange(16.0) / 8
    inside = np.zeros((4, 4))
    inside[:2, :2] = 1
    shares = np.exp(np.arange(16.0) / 8)
    shares /= shares.sum()
    share = (shares * inside.ravel()).sum()
    slope = -2 * (1 - share) * shares * (inside.ravel() - share)

    def loss(z, c):
        return attention_losses.boxed([(c * jnp.exp(z)).reshape(1, 1, 16, 1)], np.array([[[0]]]), box, (8, 8)).sum()

    for c, value, gradient in (
        (1e-2, (1 - share) ** 2, slope),
        (1e-30, (1 - share) ** 2, slope),
        (0.0, 1.0, 0 * slope),
    ):
        found = jax.jit(jax.value_and_grad(loss))(z, c)
        np.testing.assert_allclose(found[0], value, rtol=1e-5, err_msg=str(c))
        np.testing.assert_allclose(found[1], gradient, rtol=1e-4, atol=1e-7, err_msg=str(c))


def test_the_loss_of_words_is_that_of_the_least_seen():
    """A softmax of 100 a over the words without the first token, a Gaussian of 3 x 3, the maximum over places."""
    peak = np.log(3) / 100  # its softmax over two words is 3/4 at the peak, and 1/2 elsewhere
    maps = np.zeros((1, 2, 9, 3))
    maps[:, :, 4, 1] = peak
    maps[..., 0] = 0.9  # the first token is left out
    weights = np.exp(-0.5 * np.array([4.0, 0, 4])) / np.exp(-0.5 * np.array([4.0, 0, 4])).sum()
    centre = weights[1] ** 2
    first = attention_losses.excited([maps], WORD, (3, 3))
    np.testing.assert_allclose(first, 1 - (0.75 * centre + 0.5 * (1 - centre)), rtol=1e-5)
    # The second word is seen least at the peak, where it has 1/4; its maximum lies beside it. The largest loss counts.
    both = attention_losses.excited([maps], np.array([[[1], [2]]]), (3, 3))
    seen = max(0.5 - 0.25 * (2 * weights[0]) ** 2, 0.5 - 0.25 * centre, 0.5 - 0.25 * 2 * weights[0] * weights[1])
    np.testing.assert_allclose(both, 1 - min(seen, 0.75 * centre + 0.5 * (1 - centre)), rtol=1e-5)


def test_the_maps_of_at_most_256_queries_are_read():
    maps = [np.zeros((1, 1, n, 2)) for n in (1024, 256, 64)]
    assert [a.shape[2] for a in attention_losses.chosen(maps)] == [256]
    assert [a.shape[2] for a in attention_losses.chosen(maps[:1])] == [1024]
    assert attention_losses.grid(96, 16, 24) == (8, 12)
    with pytest.raises(ValueError, match="a map with 7 queries does not fit x of 4 x 4"):
        attention_losses.grid(7, 4, 4)


def _itself(x, t):
    return Prediction(x, x)


def _first_channel(x, t):
    """Maps that are the first channel itself: one head, one token of number 0."""
    return [x[..., 0].reshape(len(x), 1, -1, 1)]


def test_layout_moves_x_down_the_gradient():
    """Of two places a inside and b outside: E = (b / (a + b))^2, x <- x - w sigma^2 grad E, twice."""
    schedule = schedules.cosine()
    x = np.array([[[[2.0], [3.0]]]])  # [1, 1, 2, 1]
    tokens = np.array([[[0]]])
    t = 0.3
    guided = guidance.layout(_itself, schedule, _first_channel, tokens, ((0, 0, 0.5, 1),), 5.0, repeats=2)
    assert isinstance(guided, Unpaired)
    a, b = 2.0, 3.0
    size = 5.0 * float(schedule.sigma(t)) ** 2
    for _ in range(2):
        down_a = -2 * b * b / (a + b) ** 3
        down_b = 2 * a * b / (a + b) ** 3
        a = a - size * down_a
        b = b - size * down_b
    np.testing.assert_allclose(guided.denoise(jnp.asarray(x), t).x0.ravel(), [a, b], rtol=1e-5)


def _two_words(x, t):
    return [jax.nn.softmax(jnp.stack([0 * x[..., 0], x[..., 0], x[..., 1]], -1), axis=-1).reshape(len(x), 1, -1, 3)]


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["attend_and_excite", "layout"])
def test_neutral_is_the_denoiser_and_examples_do_not_meet(kind):
    schedule = schedules.cosine()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 2)), jnp.float32)
    tokens = np.tile(np.array([[[1], [2]]]), (2, 1, 1))

    def make(scale, **more):
        if kind == "layout":
            boxes = ((0, 0, 0.5, 1), (0.5, 0, 1, 1))
            return guidance.layout(_itself, schedule, _two_words, tokens[: more.pop("n", 2)], boxes, scale, **more)
        return guidance.attend_and_excite(_itself, _two_words, tokens[: more.pop("n", 2)], scale, **more)

    x0 = lambda guided, x, t: jax.jit(lambda x, t: guided.denoise(x, t).x0)(x, t)
    np.testing.assert_array_equal(x0(make(0.0), x, 0.5), x)
    inside = make(lambda t: 3.0 + 0 * t, interval=(0.4, 0.6))
    moved = x0(inside, x, jnp.array([0.5, 0.7]))
    assert np.abs(moved[0] - x[0]).max() > 1e-3
    np.testing.assert_array_equal(moved[1], x[1])  # outside of the interval
    with jax.enable_x64(True):  # where rounding, which differs between sizes of a batch, is far below the guidance
        wide = x.astype(jnp.float64)
        alone = x0(make(3.0, n=1), wide[:1], 0.5)
        beside = x0(inside, wide, jnp.array([0.5, 0.7], jnp.float64))[:1]
    assert alone.dtype == jnp.float64
    np.testing.assert_allclose(alone, beside, rtol=0, atol=1e-12)
    loss = {
        "layout": lambda x: attention_losses.boxed(_two_words(x, 0), tokens, ((0, 0, 0.5, 1), (0.5, 0, 1, 1)), (4, 4)),
        "attend_and_excite": lambda x: attention_losses.excited(_two_words(x, 0), tokens, (4, 4)),
    }[kind]
    loss = jax.jit(loss)
    assert loss(x0(make(0.2), x, 0.5))[0] < loss(x)[0]
    with pytest.raises(ValueError, match="repeats = 0"):
        make(1.0, repeats=0)


def test_a_box_for_each_word():
    with pytest.raises(ValueError, match="2 boxes for 1 words"):
        guidance.layout(_itself, schedules.cosine(), _first_channel, WORD, ((0, 0, 1, 1),) * 2)
    for examples, words in ((1, 2), (2, 1), (3, 2)):
        tokens, boxes = np.zeros((examples, words, 1), int), ((0, 0, 1, 1),) * words
        guidance.layout(_itself, schedules.cosine(), _first_channel, tokens, boxes)
        with pytest.raises(ValueError, match=f"{words + 1} boxes for {words} words"):
            guidance.layout(_itself, schedules.cosine(), _first_channel, tokens, (*boxes, boxes[0]))


SCHEDULE = schedules.cosine()


def _linear(k):
    """A network that is linear in x, of its own condition."""
    matrix = jnp.asarray(np.random.default_rng(k).normal(size=(2, 2)), jnp.float32)
    return parameterizations.denoiser(lambda x, clock, condition: x @ matrix, SCHEDULE, parameterizations.v())


def test_regions_share_the_picture():
    """Two halves of a linear network are each half of its parts; one region that covers all is its plain prompt."""
    x = jnp.asarray(np.random.default_rng(9).normal(size=(2, 4, 4, 2)), jnp.float32)
    rest, left, right, null = (_linear(k) for k in range(4))
    boxes = ((0, 0, 0.5, 1), (0.5, 0, 1, 1))
    found = guidance.regional(guidance.separately(rest, left, right, null), 1.0, boxes)(x, 0.4)
    for a, b, c in zip(found[:2], left(x, 0.4), right(x, 0.4)):
        np.testing.assert_array_equal(a, np.concatenate([b[:, :, :2], c[:, :, 2:]], axis=2))
    plain = guidance.classifier_free(guidance.separately(left, null), 3.0)(x, 0.4)
    whole = guidance.regional(guidance.separately(rest, left, null), 3.0, ((0, 0, 1, 1),))(x, 0.4)
    for a, b in zip(whole[:2], plain[:2]):
        np.testing.assert_array_equal(a, b)
    half = np.full((4, 4), 0.5)
    mixed = guidance.regional(guidance.separately(rest, left, null), 1.0, (half,))(x, 0.4)
    np.testing.assert_allclose(mixed.x0, (rest(x, 0.4).x0 + left(x, 0.4).x0) / 2, atol=1e-6)
    alpha, sigma = SCHEDULE.alpha(0.4), SCHEDULE.sigma(0.4)
    np.testing.assert_allclose(alpha * mixed.x0 + sigma * mixed.eps, x, atol=1e-5)
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, steps=2))
    keys = jax.random.split(jax.random.key(0), 2)
    both = guidance.regional(guidance.separately(rest, left, right, null), 1.0, boxes)
    assert np.isfinite(samplers.sample(samplers.ddim(), both, SCHEDULE, x, plan, keys)).all()


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ((), "regions is empty"),
        (((0.5, 0, 0.5, 1),), r"the box \(0.5, 0, 0.5, 1\)"),
        (((0, 0, 1),), r"a box \(left, top, right, bottom\), or a mask \[H, W\]"),
        ((np.full((4, 4), 2.0),), r"weights from 2 to 2\. Valid: 0 \.\. 1"),
    ],
)
def test_bad_regions_are_refused(regions, message):
    with pytest.raises(ValueError, match=message):
        guidance.regional(lambda x, t: (), 1.0, regions)


@pytest.mark.parametrize("loss", ["excited", "boxed"])
def test_a_token_beyond_the_prompt_is_refused(loss):
    maps, boxes = [jnp.full((1, 2, 16, 3), 1 / 3)], ((0, 0, 0.5, 1),)

    def value(token):
        tokens = np.array([[[token]]])
        if loss == "excited":
            return attention_losses.excited(maps, tokens, (4, 4))
        return attention_losses.boxed(maps, tokens, boxes, (4, 4))

    assert value(2).shape == value(-1).shape == (1,)
    with pytest.raises(ValueError, match=r"a token at position 3, but the maps have 3 tokens\. Valid: 0 \.\. 2, or -1"):
        value(3)


def test_a_mask_of_another_size_is_refused():
    branches = guidance.separately(*(_linear(k) for k in range(3)))
    with pytest.raises(ValueError, match=r"a mask has the shape \(3, 4\), but x has \(4, 4\)"):
        guidance.regional(branches, 1.0, (np.ones((3, 4)),))(jnp.zeros((1, 4, 4, 2)), 0.4)
    for nothing, words in (
        ((0.5, 0.5, 0.6, 1), r"the box \(0.5, 0.5, 0.6, 1\)"),
        (np.zeros((4, 4)), "a mask of zeros"),
    ):
        with pytest.raises(ValueError, match=f"regional: {words} covers none of the 4 x 4 pixels"):
            guidance.regional(branches, 1.0, ((0, 0, 1, 1), nothing))(jnp.zeros((1, 4, 4, 2)), 0.4)


def test_attend_and_excite_moves_x_down_the_gradient_of_its_loss(monkeypatch):
    """By a stand-in for the loss, the sum of squares: each move takes x to (1 - 2 w) x, in the interval alone."""
    seen = []

    def squares(maps, tokens, sides, first):
        seen.append((tokens, sides, first))
        return sum(jnp.sum(a**2, (1, 2, 3)) for a in maps)

    monkeypatch.setattr(attention_losses, "excited", squares)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 1)), jnp.float32)
    move = lambda t=0.5, **more: guidance.attend_and_excite(_itself, _first_channel, WORD, **more).denoise(x, t).x0
    np.testing.assert_allclose(move(scale=0.1), 0.8 * x, rtol=1e-5)
    np.testing.assert_allclose(move(scale=0.1, repeats=3), 0.8**3 * x, rtol=1e-5)
    np.testing.assert_array_equal(move(scale=0.0), x)
    found = move(jnp.array([0.4, 0.7]), scale=0.1, interval=(0.4, 0.6))
    np.testing.assert_allclose(found, x * np.float32([0.8, 1])[:, None, None, None], rtol=1e-5)
    assert all(tokens is WORD and sides == (2, 3) and first == 1 for tokens, sides, first in seen)
    seen.clear()
    move(scale=0.1, first=0)
    assert {first for _, _, first in seen} == {0}
    for repeats in (0, 1.5):
        with pytest.raises(ValueError, match=f"repeats = {repeats} must be an integer"):
            move(repeats=repeats)

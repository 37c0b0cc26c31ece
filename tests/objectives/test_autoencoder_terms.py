"""VA-VAE's alignment, EQ-VAE's transformations and the decoder of a representation autoencoder, by hand and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.objectives import autoencoder_terms, autoencoding, representation_autoencoder, vision_foundation
from diffusion.objectives.autoencoder_terms import Coded, Perceived
from diffusion.objectives.equivariance import Equivariance, transformed
from diffusion.objectives.vision_foundation import VisionFoundation, marginal_cosine, marginal_distance_matrix
from tests import recorded_keys

B = 3
KEYS = jax.random.split(jax.random.key(0), B)


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_marginal_losses_by_hand():
    """At two places z has the cosines 0.6 and 1 with f; its places have the cosine 0 where f's have 0.8."""
    z = jnp.array([[[1.0, 0.0], [0.0, 2.0]]])
    f = jnp.array([[[3.0, 4.0], [0.0, 1.0]]])
    np.testing.assert_allclose(marginal_cosine(z, f, 0.1), [(0.3 + 0) / 2], rtol=1e-5)
    np.testing.assert_allclose(marginal_cosine(z, f, 0.5), [0.0], atol=1e-6)
    np.testing.assert_allclose(marginal_distance_matrix(z, f, 0.25), [2 * 0.55 / 4], rtol=1e-5)
    for function, short in ((marginal_cosine, f[..., :1]), (marginal_distance_matrix, f[:, :1])):
        with pytest.raises(ValueError, match="must have the shape"):
            function(z, short)


X = drawn(B, 4, 4, 2)
PARAMS = {"first": drawn(2, 3, seed=1), "last": drawn(3, 2, seed=2)}
PROJECTION = drawn(3, 5, seed=3)
F = drawn(B, 16, 5, seed=4)


def linear(params, x, keys, condition=None, transform=None):
    """An autoencoder of two matrices."""
    z = x @ params["first"]
    decoded = z if transform is None else transform(z)
    redo = lambda kernel: decoded @ kernel
    recode = lambda kernel: (x @ kernel @ params["last"], x @ kernel)
    penalty = {"kl": jnp.square(z).mean((1, 2, 3))}
    return Coded(redo(params["last"]), penalty, params["last"], redo, 0.0, z, params["first"], recode)


def networks(params=PARAMS):
    return {
        "model": lambda *inputs, **named: linear(params, *inputs, **named),
        "encoder": lambda x, *_: F,
        "projection": lambda z: z.reshape(B, 16, 3) @ PROJECTION,
    }


def test_latents_are_projected_place_by_place_by_a_map_of_pytorchs_first_draw():
    head = autoencoding.kl_autoencoder(aligned=VisionFoundation()).heads["projection"]
    kernel = np.asarray(head.init(jax.random.key(0), 4, 500))
    assert kernel.shape == (4, 500) and 0.98 * 0.5 < np.abs(kernel).max() <= 0.5
    z = np.random.default_rng(0).normal(size=(2, 3, 2, 4)).astype(np.float32)
    found = np.asarray(head.apply(jnp.asarray(kernel), jnp.asarray(z)))
    assert found.shape == (2, 6, 500)
    np.testing.assert_allclose(found[1, 3], z[1, 1, 1] @ kernel, rtol=1e-4, atol=1e-5)  # row by row


@pytest.mark.parametrize("adaptive", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_aligned_loss_is_va_vaes(adaptive):
    aligned = VisionFoundation(weight=0.3, cosine_margin=0.2, distance_margin=0.1, adaptive=adaptive)
    objective = autoencoding.kl_autoencoder(kl=0.0, aligned=aligned)
    assert objective.beside.encoder and set(objective.heads) == {"projection"}
    found, metrics = objective(networks(), None, KEYS, {"x": X}, 0)
    x, f = np.asarray(X, np.float64), np.asarray(F, np.float64)
    unit = lambda h: h / np.linalg.norm(h, axis=-1, keepdims=True)

    def terms(first):
        z = unit((x @ first).reshape(B, 16, 3) @ np.float64(PROJECTION))
        cosine = np.maximum(1 - 0.2 - (z * unit(f)).sum(-1), 0).mean(1)
        both = np.abs(z @ z.swapaxes(1, 2) - unit(f) @ unit(f).swapaxes(1, 2))
        return cosine + np.maximum(both - 0.1, 0).mean((1, 2))

    nll = lambda first: np.abs(x - x @ first @ np.float64(PARAMS["last"])).sum((1, 2, 3))
    first = np.asarray(PARAMS["first"], np.float64)

    def norm(function):  # of the gradient, by central differences
        slopes = [
            (function(first + step).mean() - function(first - step).mean()) / 2e-6
            for step in (1e-6 * np.eye(6)[i].reshape(2, 3) for i in range(6))
        ]
        return np.linalg.norm(slopes)

    weight = norm(nll) / (norm(terms) + 1e-4) if adaptive else 1.0
    np.testing.assert_allclose(metrics["foundation_weight"], np.full(B, weight), rtol=1e-3)
    np.testing.assert_allclose(metrics["foundation"], terms(first), rtol=1e-4)
    np.testing.assert_allclose(found, nll(first) + 0.3 * weight * terms(first), rtol=1e-3)
    wrong = networks() | {"encoder": lambda x, *_: F[:, :9]}
    with pytest.raises(ValueError, match="the encoder has 9 patches for a picture, but the latents have 16"):
        objective(wrong, None, KEYS, {"x": X}, 0)


def test_the_adaptive_weight_of_the_alignment_reaches_beyond_that_of_a_critic():
    """Errors of a million times the size have a million times the weight, over the critic's limit of 10^4."""
    weights = []
    for scale in (1.0, 1e6):
        error = lambda pictures, scale=scale: scale * jnp.square(pictures - X).mean((1, 2, 3))
        coded = linear(PARAMS, X, None)
        _, metrics = vision_foundation.latent_alignment(networks(), VisionFoundation(), error, X, coded)
        weights.append(float(metrics["foundation_weight"][0]))
    assert weights[1] > 1e5
    np.testing.assert_allclose(weights[1], 1e6 * weights[0], rtol=1e-4)


def test_the_critic_compares_with_the_transformed_pictures():
    """It sees the corner of the halved pictures after one, two or three quarter turns, and of what is made of them."""
    model = lambda *inputs, **named: linear(PARAMS, *inputs, **named)
    players = {"model": model, "critic": lambda x, *_: x[:, :1, :1, 0]}
    objective = autoencoding.patch_critic(equivariance=Equivariance(1.0, 0.0, (0.5,)))
    with jax.disable_jit():
        _, metrics = objective(players, None, KEYS, {"x": X}, 0)
    made = X @ PARAMS["first"] @ PARAMS["last"]
    corners = [np.stack([transformed(x, 0.5, turns)[:, 0, 0, 0] for x in (X, made)]) for turns in (1, 2, 3)]
    found = np.stack([metrics["real"], metrics["fake"]])
    assert min(np.abs(found - corner).max() for corner in corners) < 1e-5


@pytest.mark.parametrize("make", [autoencoding.kl_autoencoder, autoencoding.patch_critic])
def test_the_draw_of_a_transformation_shares_no_key_with_those_of_latents(make):
    """Latents were drawn from the first example's key, from which the transformation's key was derived."""

    def model(x, keys, condition=None, transform=None):
        z = x @ PARAMS["first"]
        z += jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))(keys)
        coded = linear(PARAMS, x, keys, condition, transform)
        return coded._replace(x=(z if transform is None else transform(z)) @ PARAMS["last"])

    players = {"model": model, "critic": lambda x, *_: x[:, :1, :1, 0]}
    with recorded_keys.recorded() as record:
        keys = jax.random.split(jax.random.key(3), B)
        jax.block_until_ready(make(equivariance=Equivariance(1.0, 0.0, (0.5,)))(players, None, keys, {"x": X}, 0))
    assert len(record.drawn) >= B + 2 and max(record.drawn.values()) == 1
    assert not record.drawn.keys() & record.parents


def test_transformations_are_torchs_bilinear_halves_turned_clockwise():
    """Bilinear halves without antialiasing average 2 x 2 pixels; torch.rot90 with dims [-1, -2] turns clockwise."""
    h = jnp.arange(16.0).reshape(1, 4, 4, 1)
    half = [[2.5, 4.5], [10.5, 12.5]]
    np.testing.assert_allclose(transformed(h, 0.5, 0)[0, ..., 0], half)
    np.testing.assert_allclose(transformed(h, 0.5, 1)[0, ..., 0], [[10.5, 2.5], [12.5, 4.5]])
    np.testing.assert_allclose(transformed(h, 0.5, 3)[0, ..., 0], [[4.5, 12.5], [2.5, 10.5]])
    with pytest.raises(ValueError, match=r"0\.3 turns a side of 4 into 1\.2, which is not an integer"):
        transformed(h, 0.3, 0)
    for values, message in (
        ({"probability": 1.5}, "probability = 1.5"),
        ({"scales": ()}, r"scales = \(\)"),
        ({"scales": (2.0,)}, r"scales = \(2\.0,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            autoencoding.kl_autoencoder(equivariance=Equivariance(**values))
    with pytest.raises(ValueError, match="the alignment compares latents of whole pictures"):
        autoencoding.kl_autoencoder(aligned=VisionFoundation(), equivariance=Equivariance())


def test_transformations_are_drawn_in_their_shares_and_reach_picture_and_latents_alike():
    """Of 4,000 keys: 3/10 transform, 4/10 of the rest is smaller; scales and the three turns are uniform."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)

    def seen(x, out, change):  # sides, the corner that tells the turn, and whether latents change as the target does
        same = -1.0 if change is None else jnp.max(jnp.abs(change(x) - out))
        return jnp.stack([jnp.float32(x.shape[1]), jnp.float32(out.shape[1]), out[0, 0, 0, 0], jnp.float32(same)])

    settings = Equivariance(0.3, 0.4, (1.0, 0.5, 0.75))
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: settings.switched(key, x, seen), keys))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    within = lambda chosen, share, of: abs(chosen.sum() - share * of) < 4 * np.sqrt(share * (1 - share) * of)
    transforms = found[:, 3] >= 0
    assert within(transforms, 0.3, 4000) and (found[transforms, 3] == 0).all()
    assert (found[transforms, 0] == 4).all() and (found[~transforms, 0] == found[~transforms, 1]).all()
    for side in (2, 3, 4):
        assert within(found[transforms, 1] == side, 1 / 3, transforms.sum())
    assert within(found[~transforms, 0] == 2, 0.4 / 3, (~transforms).sum())
    assert within(found[~transforms, 0] == 3, 0.4 / 3, (~transforms).sum())
    whole = found[transforms & (found[:, 1] == 4), 2]
    for corner in (12.0, 15.0, 3.0):  # by one, two and three quarters
        assert within(whole == corner, 1 / 3, len(whole))
    assert set(whole) == {12.0, 15.0, 3.0}
    with pytest.raises(ValueError, match="are rotated, so they must be square; got 4 x 3"):
        settings.switched(jax.random.key(0), x[:, :, :3], seen)


@pytest.mark.slow
def test_the_equivariant_loss_is_that_of_the_transformed_picture():
    """A pixelwise linear autoencoder commutes with all transformations; one that knows the place does not."""
    places = drawn(1, 4, 4, 2, seed=7)

    def by_place(params, x, keys, condition=None, transform=None):
        coded = linear(params, x, keys, condition, transform)
        side = coded.x.shape[1]
        return coded._replace(x=coded.x + transformed(places, side / 4, 0))

    both = lambda make: {"model": lambda *inputs, **named: make(PARAMS, *inputs, **named)}
    loss = lambda model, settings, key=0: autoencoding.kl_autoencoder(kl=0.0, equivariance=settings)(
        model, None, jax.random.split(jax.random.key(key), B), {"x": X}, 0
    )[1]["reconstruction"]
    errors = lambda out, made: np.abs(np.asarray(out) - np.asarray(made)).mean((1, 2, 3))
    last = PARAMS["last"]
    z = X @ PARAMS["first"]
    plain = errors(X, z @ last + places)
    np.testing.assert_allclose(loss(both(by_place), Equivariance(0.0, 0.0)), plain, rtol=1e-5)
    half = transformed(X, 0.5, 0)
    low = errors(half, half @ PARAMS["first"] @ last + transformed(places, 0.5, 0))
    np.testing.assert_allclose(loss(both(by_place), Equivariance(0.0, 1.0, (0.5,))), low, rtol=1e-5)
    turned = [
        errors(transformed(X, 0.5, k), transformed(z, 0.5, k) @ last + transformed(places, 0.5, 0)) for k in (1, 2, 3)
    ]
    seen = {
        int(np.argmin([np.abs(found - each).max() for each in turned])): found
        for found in (np.asarray(loss(both(by_place), Equivariance(1.0, 0.0, (0.5,)), key)) for key in range(12))
    }
    assert set(seen) == {0, 1, 2}  # every turn is drawn
    for k, found in seen.items():
        np.testing.assert_allclose(found, turned[k], rtol=1e-5)
    exact = loss(both(linear), Equivariance(1.0, 0.0, (0.5,)))
    np.testing.assert_allclose(exact, errors(half, half @ PARAMS["first"] @ last), rtol=1e-5)
    critic = {**both(by_place), "critic": lambda x, *_: x.mean((1, 2, 3), keepdims=True)}
    objective = autoencoding.patch_critic(equivariance=Equivariance(0.0, 1.0, (0.5,)))
    _, metrics = objective(critic, None, KEYS, {"x": X}, 0)
    np.testing.assert_allclose(metrics["real"], half.mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


# ==== The decoder of a representation autoencoder ====


def decoding(z, keys, condition, *, size):
    """A decoder of one matrix, from features [B, 16, 5] to pictures [B, 4, 4, 2]."""
    assert size == (4, 4)
    kernel = drawn(5, 2, seed=5)
    redo = lambda kernel: z.reshape(B, 4, 4, 5) @ kernel
    return Coded(redo(kernel), {}, kernel, redo)


@pytest.mark.parametrize("noise", ["half_normal", pytest.param("uniform", marks=pytest.mark.slow)])
def test_the_decoders_loss_is_of_noised_features(noise):
    players = {"encoder": lambda x, *_: F, "model": decoding}
    make = lambda **named: representation_autoencoder.rae_decoder(noise=noise, **named)
    found, metrics = make(tau=0.0)(players, None, KEYS, {"x": X}, 0)
    y = np.asarray(F).reshape(B, 4, 4, 5) @ np.asarray(drawn(5, 2, seed=5))
    np.testing.assert_allclose(found, np.abs(X - y).mean((1, 2, 3)) / 2, rtol=1e-5)
    assert not metrics["sigma"].any()
    squares, _ = make(tau=0.0, pixels="l2")(players, None, KEYS, {"x": X}, 0)  # of pictures in [0, 1]
    np.testing.assert_allclose(squares, np.square(X - y).mean((1, 2, 3)) / 4, rtol=1e-5)
    seen = []
    spy = players | {"model": lambda z, *rest, **named: (seen.append(z), decoding(z, *rest, **named))[1]}
    _, metrics = make(tau=0.5)(spy, None, KEYS, {"x": X}, 0)
    # 80 numbers an example: the deviation is sigma to a tenth or so, and each example has its own.
    deviation = np.asarray(seen[0] - F).reshape(B, -1).std(axis=1)
    np.testing.assert_allclose(deviation, metrics["sigma"], rtol=0.3)
    assert len(set(np.asarray(metrics["sigma"]).tolist())) == B
    many = jax.random.split(jax.random.key(1), 4000)
    sigma = 0.5 * jax.vmap(representation_autoencoder.NOISES[noise])(many)
    mean, square = {"half_normal": ((2 / np.pi) ** 0.5, 1.0), "uniform": (1 / 2, 1 / 3)}[noise]
    np.testing.assert_allclose([sigma.mean(), jnp.square(sigma).mean()], [0.5 * mean, 0.25 * square], rtol=0.05)
    for arguments, message in (({"tau": -1.0}, "tau = -1.0"), ({"pixels": "l3"}, "pixels = 'l3' is not known")):
        with pytest.raises(ValueError, match=message):
            make(**arguments)
    with pytest.raises(ValueError, match=r"noise = 'gamma' is not known\. Valid: half_normal, uniform"):
        representation_autoencoder.rae_critic(noise="gamma")


@pytest.mark.extended
def test_the_critic_of_a_decoder_sees_what_it_makes_of_noised_features():
    seen = []
    model = lambda z, *rest, **named: (seen.append(z), decoding(z, *rest, **named))[1]
    players = {"encoder": lambda x, *_: F, "model": model, "critic": lambda pictures, *_: 2 * pictures}
    run = lambda step, **more: representation_autoencoder.rae_critic("vanilla", 2, **more)(
        players, None, KEYS, {"x": X}, step
    )[0]
    y = decoding(F, KEYS, None, size=(4, 4)).x
    np.testing.assert_allclose(run(2, tau=0.0), autoencoder_terms.vanilla(2 * X, 2 * y), rtol=1e-5)
    np.testing.assert_array_equal(run(1, tau=0.0), 0)
    run(2, tau=0.5)
    run(2, tau=1.0)
    np.testing.assert_allclose(seen[3] - F, 2 * (seen[2] - F), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        autoencoding.kl_autoencoder,
        autoencoding.vq_autoencoder,
        lambda **more: representation_autoencoder.rae_decoder(tau=0.0, **more),
    ],
)
def test_the_chosen_weights_of_channels_are_those_of_the_perceptual_distance(make):
    weights = [jnp.array([3.0, 0.5])]
    features = lambda x, *_: [x]
    model = lambda x, keys, condition, **named: decoding(F, keys, condition, size=(4, 4))
    players = {"encoder": lambda x, *_: F, "model": model, "features": features}
    _, metrics = make(channel_weights=weights)(players, None, KEYS, {"x": X}, 0)
    y = decoding(F, KEYS, None, size=(4, 4)).x
    expected = autoencoder_terms.perceptual_distance([y], [X], weights)
    np.testing.assert_allclose(metrics["perceptual"], expected, rtol=1e-5)


def test_perceived_features_have_their_own_weights():
    weights = [jnp.array([1.0, 0.5])]
    see = lambda x, *_: Perceived([x], weights)
    players = {"encoder": lambda x, *_: F, "model": decoding, "features": see}
    _, metrics = representation_autoencoder.rae_decoder(tau=0.0)(players, None, KEYS, {"x": X}, 0)
    y = decoding(F, KEYS, None, size=(4, 4)).x
    expected = autoencoder_terms.perceptual_distance([y], [X], weights)
    np.testing.assert_allclose(metrics["perceptual"], expected, rtol=1e-5)


def test_features_near_zero_are_scaled_by_a_constant_beside_their_square():
    """1e-10 has the square 1e-20, as large as the constant: half of a unit vector's square remains."""
    tiny = jnp.zeros((1, 1, 1, 2)).at[..., 0].set(1e-10)
    found = autoencoder_terms.perceptual_distance([tiny], [jnp.zeros((1, 1, 1, 2))])
    np.testing.assert_allclose(found, [0.5], rtol=1e-4)


def test_the_adaptive_weight_is_a_number_without_a_gradient():
    """5 / (2 + delta) of the lengths of both gradients; a gradient through it would change what it weighs."""
    reconstruction, adversarial = jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])
    weight = autoencoder_terms.adaptive_weight
    assert float(weight(reconstruction, adversarial)) == pytest.approx(5 / (2 + 1e-4), rel=1e-6)
    assert float(weight(reconstruction, 0 * adversarial)) == 1e4  # the limit
    slopes = jax.grad(lambda a, b: weight(a, b), (0, 1))(reconstruction, adversarial)
    np.testing.assert_array_equal(slopes, 0)

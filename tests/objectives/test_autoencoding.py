"""Losses of autoencoders against closed forms, their weights against gradients taken by hand, and a short training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.data.digits import digits
from diffusion.data.transforms import to_model, to_uint8
from diffusion.metrics.reconstruction_error import psnr
from diffusion.models.autoencoders import latent_space, quantizers
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.autoencoder_vq import VQModel
from diffusion.models.autoencoders.patch_discriminator import PatchDiscriminator
from diffusion.objectives import autoencoder_terms, autoencoding
from diffusion.objectives.autoencoder_terms import Coded
from diffusion.training import coding
from diffusion.training.alternating import Alternating, AlternatingState, Player, alternating
from diffusion.training.codebooks import following

B = 3


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.slow
def test_kl_is_that_of_gaussians():
    mean = drawn(B, 2, 2, 3)
    log_variance = drawn(B, 2, 2, 3, seed=1)
    # E_q[log q - log p] by Gauss-Hermite quadrature, which is exact for a polynomial of the second degree.
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    z = np.asarray(mean)[..., None] + np.exp(np.asarray(log_variance)[..., None] / 2) * points
    log_q = -0.5 * points**2 - 0.5 * np.asarray(log_variance)[..., None]
    expected = ((log_q + 0.5 * z**2) * weights / weights.sum()).sum((1, 2, 3, 4))
    np.testing.assert_allclose(autoencoder_terms.gaussian_kl(mean, log_variance), expected, rtol=1e-5)


@pytest.mark.slow
def test_perceptual_distance_is_lpips():
    f = [drawn(B, 4, 4, 5), drawn(B, 2, 2, 7, seed=1)]
    g = [drawn(B, 4, 4, 5, seed=2), drawn(B, 2, 2, 7, seed=3)]
    w = [jnp.abs(drawn(5, seed=4)), jnp.abs(drawn(7, seed=5))]
    expected = np.zeros(B)
    for a, b, c in zip(f, g, w):
        unit = lambda x: np.asarray(x) / np.linalg.norm(np.asarray(x), axis=-1, keepdims=True)
        expected += (np.square(unit(a) - unit(b)) * np.asarray(c)).sum(-1).mean((1, 2))
    np.testing.assert_allclose(autoencoder_terms.perceptual_distance(f, g, w), expected, rtol=1e-5)
    # It sees directions alone; without weights it is 2 - 2 cos.
    np.testing.assert_allclose(autoencoder_terms.perceptual_distance(f, [3 * x for x in f]), 0, atol=1e-6)
    np.testing.assert_allclose(autoencoder_terms.perceptual_distance(f[:1], [-f[0]]), 4, rtol=1e-5)
    slope = jax.grad(lambda x: autoencoder_terms.perceptual_distance([x], [f[0]]).sum())(jnp.zeros((B, 4, 4, 5)))
    assert np.isfinite(slope).all()
    with pytest.raises(ValueError, match="got 2 and 1 layers"):
        autoencoder_terms.perceptual_distance(f, g[:1])


def test_perceptual_distance_of_two_directions():
    """Of (1, 0) and (3, 4) / 5 the squares are 0.16 and 0.64; in half of the places the features are the same."""
    f = jnp.broadcast_to(jnp.array([2.0, 0.0]), (1, 1, 2, 2))
    g = jnp.array([[[[3.0, 4.0], [1.0, 0.0]]]])
    np.testing.assert_allclose(autoencoder_terms.perceptual_distance([f], [g]), [0.4], rtol=1e-5)
    weights = [jnp.array([1.0, 0.5]), jnp.array([2.0, 0.0])]
    np.testing.assert_allclose(autoencoder_terms.perceptual_distance([f, f], [g, g], weights), [0.24 + 0.16], rtol=1e-5)


def test_critics_losses():
    real = jnp.array([[2.0, -1.0]])
    fake = jnp.array([[-3.0, 0.5]])
    np.testing.assert_allclose(autoencoder_terms.hinge(real, fake), [0.5 * (0 + 2) / 2 + 0.5 * (0 + 1.5) / 2])
    expected = -0.5 * (np.log(1 / (1 + np.exp([-2.0, 1.0]))) + np.log(1 - 1 / (1 + np.exp([3.0, -0.5])))).mean()
    np.testing.assert_allclose(autoencoder_terms.vanilla(real, fake), [expected], rtol=1e-6)


@pytest.mark.slow
def test_adaptive_weight_is_a_ratio_within_bounds():
    a = jnp.array([3.0, 4.0])
    b = jnp.array([[0.0, 2.0]])
    assert float(autoencoder_terms.adaptive_weight(a, b)) == pytest.approx(5 / (2 + 1e-4), rel=1e-6)
    assert float(autoencoder_terms.adaptive_weight(a, 0 * b)) == 1e4
    assert not jax.grad(lambda a: autoencoder_terms.adaptive_weight(a, b))(a).any()


# ==== The objectives, with an autoencoder of one linear layer after a fixed one ====

X = drawn(B, 4, 4, 2)
PARAMS = {"first": drawn(2, 3, seed=1), "last": drawn(3, 2, seed=2), "log_variance": jnp.float32(0.3)}
CRITIC = drawn(2, 1, seed=3)
BATCH = {"x": X, "index": jnp.arange(B)}


def linear(params, x, keys, condition=None):
    hidden = jnp.tanh(x @ params["first"])
    redo = lambda kernel: hidden @ kernel
    penalty = jnp.square(hidden).mean((1, 2, 3))
    return Coded(
        redo(params["last"]),
        {"kl": penalty, "codebook": penalty, "commitment": 2 * penalty},
        params["last"],
        redo,
        params["log_variance"],
    )


def networks(params=PARAMS, critic=CRITIC):
    return {
        "model": lambda *inputs: linear(params, *inputs),
        "critic": lambda x, *_: jnp.tanh(x @ critic),
        "features": lambda x, *_: [jnp.concatenate([x, jnp.sin(x)], -1)],
    }


def losses(objective, of=None, step=10):
    return objective(of or networks(), None, None, BATCH, step)


@pytest.mark.slow
def test_the_kl_autoencoders_loss_is_latent_diffusions():
    objective = autoencoding.kl_autoencoder(kl=0.7, perceptual=0.4, adversarial=0.6, start=10)
    found, metrics = losses(objective)
    coded = linear(PARAMS, X, None)
    error = np.abs(X - coded.x)
    features = networks()["features"]
    p = np.asarray(autoencoder_terms.perceptual_distance(features(coded.x), features(X)))
    nll = ((error + 0.4 * p[:, None, None, None]) / np.exp(0.3) + 0.3).sum((1, 2, 3))

    def mean_nll(last):
        y = linear({**PARAMS, "last": last}, X, None).x
        p = autoencoder_terms.perceptual_distance(features(y), features(X))
        return jnp.mean(jnp.sum((jnp.abs(X - y) + 0.4 * p[:, None, None, None]) / jnp.exp(0.3), (1, 2, 3)))

    fooled = lambda last: -jnp.mean(jnp.tanh(linear({**PARAMS, "last": last}, X, None).x @ CRITIC))
    norms = [np.linalg.norm(jax.grad(f)(PARAMS["last"])) for f in (mean_nll, fooled)]
    weight = norms[0] / (norms[1] + 1e-4)
    adversarial = -np.tanh(coded.x @ CRITIC).mean((1, 2, 3))
    np.testing.assert_allclose(metrics["adaptive_weight"], np.full(B, weight), rtol=1e-4)
    expected = nll + 0.7 * np.asarray(coded.penalties["kl"]) + 0.6 * weight * adversarial
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    before, _ = losses(objective, step=9)
    np.testing.assert_allclose(before, expected - 0.6 * weight * adversarial, rtol=1e-4)


@pytest.mark.parametrize("make, start", [(autoencoding.kl_autoencoder, 50_001), (autoencoding.vq_autoencoder, 250_001)])
def test_the_critic_is_heard_from_its_start_on(make, start):
    """The authors' first steps, by the gradients of a linear decoder and a linear critic, written out."""
    hidden = np.tanh(X @ PARAMS["first"])
    kernel = PARAMS["last"]
    judge = drawn(2, seed=4)
    redo = lambda kernel: hidden @ kernel
    players = {"model": lambda *_: Coded(redo(kernel), {}, kernel, redo), "critic": lambda x, *_: x @ judge}
    found = [losses(make("l2"), players, step)[0] for step in (start - 1, start, start + 1)]
    error = X - redo(kernel)
    logits = redo(kernel) @ judge
    per_picture = np.square(error).mean((1, 2, 3))
    mine = np.einsum("bhwi,bhwj->ij", hidden, -2 * error) / error.size
    if make is autoencoding.kl_autoencoder:  # its errors are sums over the 32 numbers of a picture
        per_picture = 32 * per_picture
        mine = 32 * mine
    theirs = np.outer(hidden.mean((0, 1, 2)), judge)
    weight = np.linalg.norm(mine) / (np.linalg.norm(theirs) + 1e-4)
    share = 0.5 if make is autoencoding.kl_autoencoder else 0.75
    np.testing.assert_allclose(found[0], per_picture, rtol=1e-5)
    for after in found[1:]:
        np.testing.assert_allclose(after, per_picture - share * weight * logits.mean((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("pixels, of", [("l1", np.abs), ("l2", np.square)])
def test_the_likelihood_of_a_picture_is_that_of_its_pixels(pixels, of):
    """The sum over 32 numbers of error / exp(s) + s, and kl times the penalty; the log-variance s is 0.3."""
    objective = autoencoding.kl_autoencoder(pixels, kl=0.7, perceptual=0.0)
    found, metrics = losses(objective, {"model": networks()["model"]})
    coded = linear(PARAMS, X, None)
    error = of(np.asarray(X) - np.asarray(coded.x))
    expected = (error / np.exp(0.3) + 0.3).sum((1, 2, 3)) + 0.7 * np.asarray(coded.penalties["kl"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["reconstruction"], error.mean((1, 2, 3)), rtol=1e-5)


def test_the_vq_autoencoder_weighs_each_penalty_by_its_own():
    objective = autoencoding.vq_autoencoder(pixels="l2", codebook=1.5, commitment=0.25, perceptual=0.0)
    found, metrics = losses(objective, {"model": networks()["model"]})
    coded = linear(PARAMS, X, None)
    penalty = np.asarray(coded.penalties["codebook"])
    expected = np.square(np.asarray(X) - np.asarray(coded.x)).mean((1, 2, 3)) + 1.5 * penalty + 0.25 * 2 * penalty
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["commitment"], 2 * penalty, rtol=1e-6)


def test_features_are_compared_beside_the_pixels():
    """The squared distance of unit vectors, summed over channels; 0.4 of it."""
    players = {name: networks()[name] for name in ("model", "features")}
    found, metrics = losses(autoencoding.vq_autoencoder("l1", codebook=0.0, commitment=0.0, perceptual=0.4), players)
    reconstruction = np.asarray(linear(PARAMS, X, None).x)
    unit = lambda x: (f := np.concatenate([x, np.sin(x)], -1)) / np.linalg.norm(f, axis=-1, keepdims=True)
    seen = np.square(unit(reconstruction) - unit(np.asarray(X))).sum(-1).mean((1, 2))
    pixels = np.abs(np.asarray(X) - reconstruction).mean((1, 2, 3))
    np.testing.assert_allclose(found, pixels + 0.4 * seen, rtol=1e-4)
    np.testing.assert_allclose(metrics["perceptual"], seen, rtol=1e-4)
    np.testing.assert_allclose(metrics["reconstruction"], pixels, rtol=1e-5)


@pytest.mark.slow
def test_the_gradient_treats_the_adaptive_weight_as_constant_and_learns_the_variance():
    objective = autoencoding.kl_autoencoder(kl=0.0, perceptual=0.0, adversarial=1.0, start=0)
    total = lambda params: jnp.mean(losses(objective, networks(params))[0])
    weight = losses(objective)[1]["adaptive_weight"][0]

    def by_hand(params):
        coded = linear(params, X, None)
        nll = jnp.abs(X - coded.x) / jnp.exp(params["log_variance"]) + params["log_variance"]
        return jnp.mean(nll.sum((1, 2, 3))) - weight * jnp.mean(jnp.tanh(coded.x @ CRITIC))

    found = jax.grad(total)(PARAMS)
    expected = jax.grad(by_hand)(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    # At the optimum of the likelihood, the variance is the mean error.
    error = np.abs(X - linear(PARAMS, X, None).x).mean()
    no_critic = lambda s: {"model": networks({**PARAMS, "log_variance": s})["model"]}
    slope = jax.grad(lambda s: jnp.mean(losses(objective, no_critic(s))[0]))(jnp.log(error))
    np.testing.assert_allclose(slope, 0, atol=1e-4)


@pytest.mark.slow
def test_the_vq_autoencoders_loss_is_vqgans():
    alone = {"model": networks()["model"]}
    objective = autoencoding.vq_autoencoder(pixels="l2", codebook=1.5, commitment=0.25)
    found, metrics = losses(objective, alone)
    coded = linear(PARAMS, X, None)
    expected = np.square(X - coded.x).mean((1, 2, 3)) + (1.5 + 0.5) * np.asarray(coded.penalties["codebook"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert {"t", "reconstruction", "codebook", "commitment"} == set(metrics)


@pytest.mark.parametrize("make", [autoencoding.kl_autoencoder, autoencoding.patch_critic])
def test_networks_beside_an_autoencoder_receive_the_time_of_clean_data(make):
    clocks = []

    def watched(name, network):
        def call(x, t, condition):
            clocks.append((name, t))
            return network(x, t, condition)

        return call

    beside = {name: watched(name, network) for name, network in networks().items() if name != "model"}
    losses(make(start=0), {**networks(), **beside})
    expected = {"critic", "features"} if make is autoencoding.kl_autoencoder else {"critic"}
    assert {name for name, _ in clocks} == expected
    for _, clock in clocks:
        np.testing.assert_array_equal(clock, np.zeros(B))


def test_the_critics_objective_trains_the_critic_alone_from_its_start():
    objective = autoencoding.patch_critic("hinge", start=10)
    found, metrics = losses(objective)
    real, fake = (np.tanh(x @ CRITIC) for x in (X, linear(PARAMS, X, None).x))
    np.testing.assert_allclose(found, autoencoder_terms.hinge(real, fake), rtol=1e-6)
    np.testing.assert_allclose(metrics["fake"], fake.mean((1, 2, 3)), rtol=1e-5)
    assert not losses(objective, step=9)[0].any()
    to_model = jax.grad(lambda params: losses(objective, networks(params))[0].sum())(PARAMS)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(to_model))
    with pytest.raises(ValueError, match=r"loss = 'wasserstein' is not known\. Valid: hinge, vanilla"):
        autoencoding.patch_critic("wasserstein")


# ==== Networks ====


class Linear:
    """An autoencoder that encodes by a factor and decodes by one kernel."""

    def apply(self, variables, z, method, **how):
        params = variables["params"]
        if method == "encode":
            z = params["factor"] * z
            return latent_space.Moments(z, jnp.full_like(z, -200.0)) if params["draws"] else z
        if method == "quantize":
            return jnp.round(z), None
        assert how == ({} if params["draws"] else {"quantize": False})
        return z @ params["decoder"]["conv_out"]["kernel"]


@pytest.mark.parametrize("kind", ["draws", "codes", "levels"])
def test_an_autoencoder_as_a_network(kind):
    """What it decodes, its penalties by their definitions, and the same with another kernel in place of the last."""
    kernel = np.array([[1.0, 2.0], [0.5, -1.0]])
    codes = np.array([[0.0, 0.0], [2.0, 1.0]])
    params = {"factor": 3.0, "draws": kind == "draws", "decoder": {"conv_out": {"kernel": jnp.asarray(kernel)}}}
    params |= {"codebook": jnp.asarray(codes)} if kind == "codes" else {}
    network = (coding.kl_network if kind == "draws" else coding.vq_network)(Linear())
    found = network(coding.parameters(params, 0.25), X, jax.random.split(jax.random.key(0), B))
    z = 3 * np.asarray(X, np.float64)
    nearest = np.argmin(np.square(z[..., None, :] - codes).sum(-1), -1)
    values = {"draws": z, "codes": codes[nearest], "levels": np.round(z)}[kind]
    np.testing.assert_allclose(found.x, values @ kernel, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.redo(2 * found.last), 2 * values @ kernel, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.last, np.float32(kernel))
    distance = np.square(z - codes[nearest]).mean((1, 2, 3))
    expected = {
        "draws": {"kl": 0.5 * (z**2 + 199).sum((1, 2, 3))},
        "levels": {},
        "codes": {"codebook": distance, "commitment": distance},
    }[kind]
    assert found.penalties.keys() == expected.keys() and found.log_variance == 0.25
    for name, value in expected.items():
        np.testing.assert_allclose(found.penalties[name], value, rtol=1e-4)


@pytest.mark.slow
def test_a_patchs_logit_depends_on_its_patch_alone_and_on_no_other_picture():
    """70 x 70 pixels for three layers (Isola et al. 2017); group norms see the rest, so that they are left out."""
    module = PatchDiscriminator(width=4, layers=3, groups=4)
    x = drawn(2, 128, 128, 3)
    params = module.init(jax.random.key(0), x)["params"]
    logits = module.apply({"params": params}, x)
    assert logits.shape == (2, 14, 14, 1)
    np.testing.assert_allclose(module.apply({"params": params}, x[:1]), logits[:1], atol=1e-5)

    def plain(x):  # the same convolutions without norms
        for i in range(4):
            stride = 1 if i == 3 else 2
            x = jax.lax.conv_general_dilated(
                x,
                params[f"conv_{i}"]["kernel"],
                (stride,) * 2,
                ((1, 1),) * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jnp.where(x > 0, x, 0.2 * x)
        return jax.lax.conv_general_dilated(
            x, params["conv_out"]["kernel"], (1, 1), ((1, 1),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    touched = np.flatnonzero(np.abs(jax.grad(lambda x: plain(x)[0, 7, 7, 0])(x)[0]).sum((1, 2)))
    assert touched.max() - touched.min() + 1 == 70
    with pytest.raises(ValueError, match="of at least 24 x 24 pixels; got 16 x 16"):
        module.apply({"params": params}, x[:, :16, :16])


IMAGES, _, SPLITS = digits()


def trained(network, params, objective, steps):
    """Trains an autoencoder of digits with its critic."""
    critic = PatchDiscriminator(width=8, layers=1, groups=2)
    players = {
        "autoencoder": Player(objective, "model", optax.adam(2e-3)),
        "critic": Player(autoencoding.patch_critic(start=steps // 2), "critic", optax.adam(1e-3)),
    }
    judge = lambda params, *inputs: critic.apply({"params": params}, *inputs)
    networks = {
        "model": coding.parameters(params),
        "critic": critic.init(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))["params"],
    }
    state, seen = run(alternating(players, {"model": network, "critic": judge}, None), networks, steps)
    return state.networks["model"], seen


def run(training, networks, steps):
    """The state after so many steps on digits, and the metrics of each."""
    step = jax.jit(training.step, donate_argnums=0)
    train = IMAGES[SPLITS == "train"]
    state = training.init(networks)
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(steps):
        rows = rng.integers(0, len(train), 32)
        batch = {"image": train[rows], "index": np.arange(32)}
        state, metrics = step(state, batch, jax.random.key(2))
        seen.append(metrics)
    assert int(getattr(state, "training", state).failed_at) == -1
    return state, seen


def decibels(network, params):
    test = IMAGES[SPLITS == "test"]
    keys = jax.random.split(jax.random.key(3), len(test))
    return float(jnp.mean(psnr(to_uint8(network(params, to_model(test), keys).x), test)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_small_autoencoder_learns_the_digits(kind):
    """16 places of 2 numbers, or of one of 64 codes, for 64 pixels; the mean of all digits comes to 11 dB."""
    options = {"widths": (8, 16), "layers": 1, "groups": 4, "middle_attention": False, "picture_channels": 1}
    if kind == "kl":
        module = AutoencoderKL(latent_channels=2, **options)
        network = coding.kl_network(module)
        objective = autoencoding.kl_autoencoder(kl=1e-3, adversarial=0.1, start=120)
    else:
        module = VQModel(codes=64, latent_channels=4, code_channels=4, **options)
        network = coding.vq_network(module)
        objective = autoencoding.vq_autoencoder(adversarial=0.1, start=120)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    params, seen = trained(network, params, objective, 240)
    mean = np.broadcast_to(IMAGES.mean(0).round().astype(np.uint8), IMAGES.shape)
    baseline = float(jnp.mean(psnr(mean, IMAGES)))
    reached = decibels(network, params)
    print(kind, baseline, reached)
    assert 10 < baseline < 12 and reached > {"kl": 19, "vq": 15}[kind]
    weights = [float(m["autoencoder/adaptive_weight"]) for m in seen]
    assert 0 < min(weights) and max(weights) <= 1e4


@pytest.mark.slow
def test_a_moving_codebook_brings_its_dead_codes_back_while_it_is_trained():
    """All codes but two begin far from every vector, where no gradient would ever find them."""
    module = VQModel(
        codes=64,
        latent_channels=4,
        code_channels=4,
        widths=(8, 16),
        layers=1,
        groups=4,
        middle_attention=False,
        picture_channels=1,
    )
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    params["codebook"] = params["codebook"].at[2:].add(1e3)
    network = coding.vq_network(module)
    test = to_model(IMAGES[SPLITS == "test"])
    player = Player(autoencoding.vq_autoencoder(codebook=0.0), "model", optax.adam(2e-3))
    training = alternating({"autoencoder": player}, {"model": network}, None)
    wrapped = following(training, module, 0.9, 1.0)  # codes below one vector of a batch's 512 begin anew
    state, seen = run(wrapped, {"model": coding.parameters(params)}, 240)
    found = state.training.networks["model"]
    z = module.apply({"params": found["autoencoder"]}, test, method="encode")
    indices, codes = quantizers.nearest(z, found["autoencoder"]["codebook"])
    assert float(seen[0]["codebook/perplexity"]) < 2.001 and int(seen[0]["codebook/restarted"]) > 40
    assert float(seen[-1]["codebook/perplexity"]) > 10 and len(np.unique(indices)) >= 32
    # What is trained are the moving averages' codes: the vectors lie at them, not at where the codes began.
    assert float(jnp.mean(jnp.square(z - codes))) < 0.2 * float(jnp.var(z))
    assert decibels(network, found) > 15


class Vectors:
    """An autoencoder whose vectors are the pictures."""

    codes = 3

    def apply(self, variables, x, method):
        return x


@pytest.mark.extended
def test_the_codes_follow_as_the_moving_averages_do_unless_the_training_failed():
    init = lambda networks: AlternatingState(jnp.int32(0), networks, {}, {}, jnp.int32(-1))
    loss = lambda batch, key: batch["index"].sum() + jax.random.bernoulli(key, 1.0)
    rest = Alternating(init, lambda state, *drawn: (state._replace(step=state.step + 1), {"loss": loss(*drawn)}))
    codes = jnp.array([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0]])
    x = drawn(B, 2, 2, 2)
    networks = {"model": coding.parameters({"codebook": codes})}
    codes_of = lambda state: np.asarray(state.training.networks["model"]["autoencoder"]["codebook"])
    step = lambda training, state: training.step(state, {"x": x, "index": jnp.arange(B)}, jax.random.key(0))

    slow = following(rest, Vectors(), 0.9, 1e-9)  # nothing is dead
    state = slow.init(networks)
    expected = quantizers.codebook_init(codes)
    for _ in range(3):
        state, metrics = step(slow, state)
        expected = quantizers.codebook_update(expected, x, quantizers.nearest(x, expected.codes)[0], 0.9)
        np.testing.assert_allclose(codes_of(state), expected.codes, rtol=1e-6)
    np.testing.assert_allclose(state.counts, expected.counts, rtol=1e-6)
    assert int(state.training.step) == 3 and metrics["loss"] == 4.0 and int(metrics["codebook/restarted"]) == 0

    quick = following(rest, Vectors(), 0.9, 1.0)
    state, metrics = step(quick, quick.init(networks))
    assert int(metrics["codebook/restarted"]) == 1
    assert (codes_of(state)[2] == np.asarray(x).reshape(-1, 2)).all(1).any()  # one of the vectors
    every = following(rest, Vectors(), 0.9, 1e3)  # all codes are dead in each step: new draws each time
    state = every.init(networks)
    drawn_codes = []
    for _ in range(3):
        state, metrics = step(every, state)
        drawn_codes.append(codes_of(state))
        assert int(metrics["codebook/restarted"]) == 3
    assert len({codes.tobytes() for codes in drawn_codes}) == 3

    broken = state._replace(training=state.training._replace(failed_at=jnp.int32(7)))
    after, _ = step(slow, broken)
    np.testing.assert_array_equal(after.sums, broken.sums)
    np.testing.assert_array_equal(codes_of(after), codes_of(broken))


def test_what_cannot_follow_is_refused():
    with pytest.raises(ValueError, match="AutoencoderKL has no codebook that could follow"):
        following(None, AutoencoderKL())
    with pytest.raises(ValueError, match="decay = 1"):
        following(None, VQModel(), decay=1)
    with pytest.raises(ValueError, match="threshold = 0"):
        following(None, VQModel(), threshold=0)
    rest = Alternating(lambda networks: None, None)
    assert following(rest, VQModel(), decay=0.0).init is not None  # the codes are then the last batch's means


def test_the_variance_of_a_pixel_is_one_at_first():
    assert float(coding.parameters({})["log_variance"]) == 0.0
    assert float(coding.parameters({}, -2.0)["log_variance"]) == -2.0

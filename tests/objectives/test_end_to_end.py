"""End-to-end training of an autoencoder with a model on its latents, against gradients and statistics by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.objectives.autoencoder_terms import Coded
from diffusion.objectives.end_to_end import Latents, Tuned, followed, normalised, restored
from diffusion.objectives.feature_losses import Term

B, SIDE, C, D = 3, 2, 2, 3
SCHEDULE = schedules.rectified_flow()
KEYS = jax.random.split(jax.random.key(0), B)
MEAN = jnp.array([0.5, -1.0, 2.0])
VARIANCE = jnp.array([4.0, 0.25, 1.0])
EPSILON = 0.04


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


X = drawn(B, SIDE, SIDE, C)
PARAMS = {
    "first": drawn(C, D, seed=1),
    "last": drawn(D, C, seed=2),
    "out": drawn(D, D, seed=3),
    "features": drawn(D, 4, seed=4),
    "projector": drawn(4, 5, seed=5),
}
Y = drawn(B, SIDE * SIDE, 5, seed=6)
PLAIN = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))


def encoded(params, x):
    z = x @ params["first"]
    redo = lambda kernel: z @ kernel
    return Coded(redo(params["last"]), {"kl": jnp.square(z).sum((1, 2, 3))}, params["last"], redo, 0.0, z)


LATENTS = Latents(lambda key: {}, lambda params, x, keys: encoded(params, x), MEAN, VARIANCE)


def networks(params):
    def model(x, clock, condition, features=()):
        output = x @ params["out"]
        return (output, (jnp.tanh(x @ params["features"]),) * len(features)) if features else output

    return {
        "model": model,
        "encoder": lambda x, *_: Y,
        "term": lambda h, shape: h.reshape(B, -1, 4) @ params["projector"],
        "autoencoder": lambda x, keys: Tuned(encoded(params, x), MEAN, VARIANCE),
    }


def cosine(params, x_t):
    """The mean cosine `[B]` of the projected features of x_t and the encoder's."""
    h = jnp.tanh(x_t @ params["features"]).reshape(B, -1, 4) @ params["projector"]
    return (h * Y).sum(-1).__truediv__(jnp.linalg.norm(h, axis=-1) * jnp.linalg.norm(Y, axis=-1)).mean(1)


@pytest.mark.extended
def test_each_gradient_goes_where_it_should_and_nowhere_else():
    """The model's is of the whitened latents alone, with z fixed; the autoencoder's has no diffusion loss."""
    output = Term(lambda seen: seen.features[0].sum((1, 2, 3)), (1,), 0.7)  # reads no encoder: aligns nothing
    objective = objectives.added(PLAIN, objectives.alignment(layer=1, weight=0.5), output)
    tuning = objectives.end_to_end(objective, LATENTS, alignment=1.5, pixels="l2", kl=0.01, epsilon=EPSILON)
    own_keys = jax.vmap(lambda key: jax.random.split(key, 3))(KEYS)[:, 2]
    z = X @ PARAMS["first"]
    flat = z.reshape(-1, D)
    whitened = (z - flat.mean(0)) / jnp.sqrt(flat.var(0) + EPSILON)

    def of_model(params):
        batch = {"x": whitened, "features": Y}
        return objective(networks(params), SCHEDULE, own_keys, batch, 0)[0].mean()

    t, eps = jax.jit(lambda: _times_and_noise(own_keys))()
    mix = lambda z: (1 - t)[:, None, None, None] * z + t[:, None, None, None] * eps

    def of_autoencoder(params, still):
        z = X @ params["first"]
        y = z @ params["last"]
        x_t = mix((z - MEAN) / jnp.sqrt(VARIANCE + EPSILON))
        own = jnp.square(X - y).mean((1, 2, 3)) + 0.01 * jnp.square(z).sum((1, 2, 3))
        return (own - 1.5 * cosine(still, x_t)).mean()

    total = lambda params: tuning(networks(params), SCHEDULE, KEYS, {"x": X}, 0)[0].mean()
    ours = jax.jit(jax.grad(total))(PARAMS)
    first = jax.jit(jax.grad(of_model))(PARAMS)
    second = jax.jit(lambda params: jax.grad(of_autoencoder)(params, PARAMS))(PARAMS)
    for name in ("out", "features", "projector"):
        np.testing.assert_allclose(ours[name], first[name], rtol=1e-4, atol=1e-6, err_msg=name)
    for name in ("first", "last"):
        np.testing.assert_allclose(ours[name], second[name], rtol=1e-4, atol=1e-6, err_msg=name)


def _times_and_noise(keys):
    """What the objective draws, seen by a term."""
    see = Term(lambda seen: seen.t, (1,), 0.0)
    found = {}

    def model(x, clock, condition, features=()):
        found["x"] = x
        return x, (x,)

    zeros = jnp.zeros((B, SIDE, SIDE, D))
    _, metrics = objectives.added(PLAIN, see)({"model": model}, SCHEDULE, keys, {"x": zeros}, 0)
    return metrics["t"], found["x"] / metrics["t"][:, None, None, None]


def test_both_parts_have_the_same_times_and_the_autoencoder_all_conditions():
    seen = Term(lambda seen: seen.t + 10.0 * seen.batch["condition"], (1,), 0.5, encoder=True)
    tuning = objectives.end_to_end(
        objectives.added(PLAIN, seen), LATENTS, alignment=1.5, condition_dropout=0.999, null=jnp.int32(7)
    )
    batch = {"x": X, "condition": jnp.arange(B)}
    _, metrics = jax.jit(lambda keys: tuning(networks(PARAMS), SCHEDULE, keys, batch, 0))(KEYS)
    np.testing.assert_allclose(metrics["autoencoder_term"], metrics["t"] + 10 * np.arange(B), rtol=1e-6)
    np.testing.assert_allclose(metrics["term"], metrics["t"] + 70, rtol=1e-6)
    assert tuning.condition.dropout == pytest.approx(0.999) and tuning.examples.block is None


def test_running_statistics_follow_the_batch_as_batch_norm_does():
    """As PyTorch's: 0.7 of the old and 0.3 of the batch's, whose variance is unbiased; of parts as of the whole."""
    objective = objectives.end_to_end(objectives.added(PLAIN, objectives.alignment(layer=1)), LATENTS, momentum=0.3)
    _, metrics = jax.jit(lambda keys: objective(networks(PARAMS), SCHEDULE, keys, {"x": X}, 0))(KEYS)
    params = {"network": {}, "mean": MEAN, "var": VARIANCE}
    after = objective.heads["autoencoder"].follow(params, metrics["autoencoder"])
    z = np.asarray(X @ PARAMS["first"], np.float64).reshape(-1, D)
    np.testing.assert_allclose(after["mean"], 0.7 * MEAN + 0.3 * z.mean(0), rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.7 * VARIANCE + 0.3 * z.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(followed(MEAN, VARIANCE, z.reshape(B, -1, D), 0.3)[1], after["var"], rtol=1e-5)
    np.testing.assert_allclose(restored(normalised(z, MEAN, VARIANCE, 0.0), MEAN, VARIANCE), z, rtol=1e-4, atol=1e-5)
    head = objective.heads["autoencoder"]
    begun = head.init(jax.random.key(0), 0, 0)
    np.testing.assert_array_equal(begun["mean"], MEAN)


def test_a_critic_judges_what_the_head_makes():
    judge = {**networks(PARAMS), "critic": lambda x, *_: x[..., :1]}
    seeing = {**judge, "features": lambda x, *_: [x]}
    critic = objectives.end_to_end_critic()
    aligned = objectives.added(PLAIN, objectives.alignment(layer=1))
    made = objectives.end_to_end(aligned, LATENTS, adversarial=0.5)
    later = objectives.end_to_end(aligned, LATENTS, perceptual=2.5, start=4)

    @jax.jit
    def called():
        call = lambda objective, networks, step=0, **more: objective(networks, SCHEDULE, KEYS, {"x": X, **more}, step)
        return (
            call(critic, judge)[0],
            call(made, judge),
            call(made, networks(PARAMS))[0],
            call(later, seeing, 3),
            call(later, seeing, 4),
            call(made, {**networks(PARAMS), "encoder": None}, features=Y)[0],
        )

    losses, (with_it, seen), without, (before, parts), (after, parts_after), stored = called()
    np.testing.assert_allclose(stored, without, rtol=1e-6)  # of features that the batch has, and no encoder
    y = np.asarray(X @ PARAMS["first"] @ PARAMS["last"])[..., 0].reshape(B, -1)
    real = np.asarray(X)[..., 0].reshape(B, -1)
    hinge = 0.5 * np.maximum(0, 1 - real).mean(1) + 0.5 * np.maximum(0, 1 + y).mean(1)
    np.testing.assert_allclose(losses, hinge, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen["adversarial"], -y.mean(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(with_it - without, -0.5 * y.mean(1), rtol=1e-3, atol=1e-5)
    assert critic.shares == made.shares
    np.testing.assert_allclose(before - without, 2.5 * parts["perceptual"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(after - before, 0.1 * parts_after["adversarial"], rtol=1e-3, atol=1e-5)


def test_what_cannot_be_trained_end_to_end_is_refused():
    aligned = objectives.added(PLAIN, objectives.alignment(layer=1))
    for arguments, message in [
        ({"objective": PLAIN}, r"the autoencoder.*features that reads the encoder,.*\. Valid: added"),
        ({"objective": objectives.added(PLAIN, objectives.dispersive(1, 3))}, "that reads the encoder,"),
        ({"alignment": -1.0}, "alignment = -1.0 must be positive"),
        ({"epsilon": -1.0}, "epsilon = -1.0 must not be negative"),
        ({"start": -3}, "start = -3 must not be negative"),
        ({"perceptual": -1.0}, "perceptual = -1.0"),
        ({"kl": -1.0}, "kl = -1.0"),
        ({"adversarial": float("nan")}, "adversarial = nan"),
        ({"momentum": 0.0}, r"momentum = 0.0 must be in \(0, 1\]"),
        ({"condition_dropout": 1.0}, "condition_dropout = 1.0"),
        ({"pixels": "l3"}, "pixels = 'l3'"),
    ]:
        with pytest.raises(ValueError, match=message):
            objectives.end_to_end(**{"objective": aligned, "autoencoder": LATENTS, **arguments})

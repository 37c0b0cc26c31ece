"""The classifier of noised examples: its logits and its loss, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import parameterizations, schedules
from diffusion.objectives.classification import noisy_classification
from tests.objectives.objective_cases import at

FLOW = schedules.rectified_flow()


def test_logits_are_means_over_positions_and_channels_and_the_loss_is_their_cross_entropy():
    """Each of the data's two channels has the outputs of all three classes, side by side; the weight of t is 0.5."""
    outputs = np.random.default_rng(0).normal(size=(4, 2, 3, 2 * 3)).astype(np.float32)
    labels = np.array([2, 0, 1, 1])
    seen = []
    network = lambda x, t, condition: seen.append(condition) or outputs
    density = at(0.3)
    half = density._replace(sample=lambda *drawn: (density.sample(*drawn)[0], jnp.full(4, 0.5)))
    objective = noisy_classification(half, parameterizations.velocity(), 3)
    batch = {"x": jnp.zeros((4, 2, 3, 2)), "condition": jnp.asarray(labels)}
    losses, metrics = objective({"model": network}, FLOW, jax.random.split(jax.random.key(0), 4), batch, 0)
    logits = np.stack([outputs[..., [k, k + 3]].mean((1, 2, 3)) for k in range(3)], axis=1)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(losses, -0.5 * log_p[np.arange(4), labels], rtol=1e-5)
    np.testing.assert_array_equal(metrics["accuracy"], logits.argmax(1) == labels)
    np.testing.assert_array_equal(seen[0], [3] * 4)  # the null class


def test_a_classifier_judges_noised_examples_by_the_probability_of_their_labels():
    outputs = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    network = lambda x, t, condition: jnp.asarray(outputs) + x[:, :1] + t[:, None] * jnp.arange(3)
    objective = noisy_classification(at(0.3), parameterizations.velocity(), 3)
    labels = np.array([1, 0, 2, 2])
    judge = objective.network.judges(network, FLOW, jnp.asarray(labels))
    x_t, t = np.random.default_rng(2).normal(size=(4, 1)).astype(np.float32), np.float32([0.1, 0.5, 0.9, 0.2])
    logits = outputs + x_t + t[:, None] * np.arange(3)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(judge(jnp.asarray(x_t), jnp.asarray(t)), log_p[np.arange(4), labels], rtol=1e-5)
    assert objective.network.channels == 3

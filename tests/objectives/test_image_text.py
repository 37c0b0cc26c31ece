"""The losses of CLIP and SigLIP in closed form, term by term, and over a mesh."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffusion.objectives import image_text


def unit(seed, batch=5, width=3):
    x = np.random.default_rng(seed).normal(size=(batch, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


X = unit(0)
Y = unit(1)


@jax.jit
def losses(x, y):
    return image_text.contrastive(x, y, 14.0), image_text.sigmoid(x, y, 10.0, -3.0)


def test_losses_are_the_papers_term_by_term():
    contrastive, sigmoid = losses(X, Y)
    x = X.astype(np.float64)
    y = Y.astype(np.float64)
    for i in range(5):
        row = [np.exp(14.0 * x[i] @ y[j]) for j in range(5)]
        column = [np.exp(14.0 * x[j] @ y[i]) for j in range(5)]
        expected = -(np.log(row[i] / sum(row)) + np.log(column[i] / sum(column))) / 2
        np.testing.assert_allclose(contrastive[i], expected, rtol=1e-5, atol=2e-6)
        expected = sum(np.log1p(np.exp(-(1 if i == j else -1) * (10.0 * x[i] @ y[j] - 3.0))) for j in range(5))
        np.testing.assert_allclose(sigmoid[i], expected, rtol=1e-5)


def test_closed_forms():
    same = np.repeat(unit(2, 1), 5, axis=0)  # all pairs are equal: ln B; B - 1 pairs wrong, one right
    contrastive, sigmoid = losses(same, same)
    np.testing.assert_allclose(contrastive, np.log(5), rtol=1e-5)
    np.testing.assert_allclose(sigmoid, 4 * np.log1p(np.exp(7)) + np.log1p(np.exp(-7)), rtol=1e-5)
    apart = np.eye(5, 3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    contrastive, _ = losses(apart, apart)  # twice two pairs alike
    close = lambda count: np.log(count + (5 - count) * np.exp(-14.0))
    np.testing.assert_allclose(contrastive, [close(2), close(2), close(1), close(2), close(2)], atol=1e-5)


def test_pretraining_is_the_contrastive_loss_of_both_towers_with_the_scale_cut():
    """A scale of 300 counts as 100; the second picture is nearer to the first caption than to its own."""
    texts = np.eye(3, dtype=np.float32)
    images = np.eye(3, dtype=np.float32)[[0, 0, 2]]
    seen = []

    def model(x, clock, condition):
        seen.append((x, condition))
        return texts, images, np.float32(300.0)

    batch = {"x": np.ones((3, 2, 2, 3), np.float32), "condition": {"ids": np.arange(3)}}
    losses, metrics = image_text.contrastive_pretraining()({"model": model}, None, None, batch, 0)
    assert seen[0][0] is batch["x"] and seen[0][1] is batch["condition"]
    # Pictures 1 and 2 are caption 1; a caption without its picture sees all pictures at a cosine of 0.
    to_texts = np.array([0, 100, 0])
    to_images = np.array([np.log(2), np.log(3), 0])
    np.testing.assert_allclose(losses, (to_texts + to_images) / 2, atol=1e-4)
    np.testing.assert_array_equal(metrics["found"], [1, 0, 1])
    np.testing.assert_array_equal(metrics["t"], np.zeros(3))


def test_contrastive_is_symmetric_and_nothing_overflows():
    np.testing.assert_allclose(losses(Y, X)[0], losses(X, Y)[0], rtol=1e-5)
    assert np.isfinite(losses(100 * X, -100 * Y)).all()


def test_embeddings_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(4, 3\)"):
        image_text.contrastive(X, Y[:4], 1.0)


OVER_A_MESH = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from diffusion.objectives import image_text
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
rows = NamedSharding(mesh, P(("data", "fsdp")))
x, y = (np.random.default_rng(seed).normal(size=(8, 3)).astype(np.float32) for seed in (0, 1))
def mean(x, y, scale):
    return image_text.contrastive(x, y, scale).mean() + image_text.sigmoid(x, y, scale, -1.0).mean()
step = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))
one = step(x, y, 2.0)
many = step(*(jax.device_put(a, rows) for a in (x, y)), 2.0)
assert not many[1][0].sharding.is_fully_replicated
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
print("the same")
"""


@pytest.mark.slow
def test_the_global_batch_is_contrasted_over_a_mesh():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", OVER_A_MESH], capture_output=True, text=True, env=env, check=False)
    assert result.stdout.strip() == "the same", result.stderr[-2000:]

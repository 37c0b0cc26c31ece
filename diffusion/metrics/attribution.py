"""The training examples that a model's output depends on: TRAK's scores from projected gradients.

project = attribution.sketch(key, params, 2048)
of_train = features(params, x_i, key_i)         # `Features`, one for each example
scores = attribution.trak(of_queries.loss, of_train.loss, of_train.output)      # [Q, N]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # imports its subpackages when they are first used
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike


class Features(NamedTuple):
    """Projected gradients of one example, or of several examples.

    Attributes:
        loss: the projected gradient of the loss, the mean over draws of time and noise, `[..., k]`.
        output: the projected gradients o of the network's outputs along random directions, `[..., draws, k]`;
            E[o o^T] is the projected Gauss-Newton matrix of the loss.
    """

    loss: Array
    output: Array


def sketch(key: Array, params: Any, k: int) -> Callable[[Any], Array]:
    """A random projection of a pytree of parameters to k numbers, which keeps inner products in expectation.

        (S g)_j = sum over the p with h(p) = j of s_p g_p,    h(p) uniform in 0 .. k - 1, s_p = +-1

    where p is the number of a parameter. This is the sparsest of the Johnson-Lindenstrauss projections, and needs no
    matrix of k columns. The error of an inner product of g and g' is of the order of |g| |g'| / sqrt(k).

    Facts:
        paper: Charikar et al. 2002, "Finding Frequent Items in Data Streams" (CountSketch); Weinberger et al. 2009,
            "Feature Hashing for Large Scale Multitask Learning", lemma 2

    Args:
        key: one random key; it must be the same for all examples.
        params: the parameters, or their shapes.
        k: the number of projected values, >= 1. If k is at least the number of parameters P, nothing is projected, and
            there are P values.

    Returns:
        A function from a pytree like `params` to float32 `[min(k, P)]`.

    Raises:
        ValueError: if k is below 1.
    """
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    if k < 1:
        raise ValueError(f"sketch: k = {k} must be at least 1")
    flat = lambda tree: ravel_pytree(tree)[0].astype(jnp.float32)
    if k >= number:
        return flat
    where, sign = jax.random.split(key)
    bucket = jax.random.randint(where, (number,), 0, k)
    signs = jax.random.rademacher(sign, (number,), jnp.float32)
    return lambda tree: jax.ops.segment_sum(signs * flat(tree), bucket, k)


def features(
    residual: Callable[[Any, Array], tuple[Array, Array]], params: Any, keys: Array, project: Callable[[Any], Array]
) -> Features:
    """The projected gradients of one example, over draws of its time and noise.

        loss: the gradient of L = mean over draws of |f - y|^2 / 2
        output: J^T v for each draw, with v ~ N(0, I) and J = df / d params

    Args:
        residual: (params, key) -> (f, y), the network's output and its target for one draw of time and noise, both
            multiplied by the square root of the loss's weight.
        params: the network's parameters.
        keys: random keys, `[draws]`.
        project: the projection, from `sketch`.
    """

    def one(key: Array) -> tuple[Array, Array]:
        draw, direction = jax.random.split(key)
        output, pull, target = jax.vjp(lambda p: residual(p, draw), params, has_aux=True)
        v = jax.random.normal(direction, output.shape, output.dtype)
        return project(pull(output - target)[0]), project(pull(v)[0])

    losses, outputs = jax.lax.map(one, keys)
    return Features(losses.mean(0), outputs)


def trak(queries: ArrayLike, train: ArrayLike, outputs: ArrayLike, damping: float = 1e-3) -> np.ndarray:
    """The influence of each training example on each query: the rise of the query's loss without the example, times N.

        score_qi = g_q^T (H + damping tr(H) / k I)^-1 g_i,    H = mean over examples and draws of o o^T

    where g are projected gradients of the loss and o are projected gradients of the network's outputs. This is TRAK's
    kernel; the residual by which TRAK multiplies the kernel is a factor of g_i. If the model is linear and its
    parameters minimise the squared loss, the score is the effect of leaving out example i to first order; it differs
    from the exact effect only by the leverage of the example.

    Facts:
        paper: Park et al. 2023, "TRAK: Attributing Model Behavior at Scale"; Georgiev et al. 2023, "The Journey, Not
            the Destination: How Data Guides Diffusion Models"; Zheng et al. 2024, "Intriguing Properties of Data
            Attribution on Diffusion Models" (D-TRAK)

    Args:
        queries: `Features.loss` of the samples, `[Q, k]`.
        train: `Features.loss` of the training examples, `[N, k]`.
        outputs: `Features.output` of the training examples, `[N, draws, k]`.
        damping: the damping of H, as a share of its mean eigenvalue, >= 0; it must be positive if k is larger than N
            times the number of draws.

    Returns:
        Scores, float64 `[Q, N]`; a positive score means that the example lowers the loss of the query.

    Raises:
        ValueError: if the shapes do not fit, or the damping is negative.
    """
    g_q, g_i, o = (np.asarray(a, np.float64) for a in (queries, train, outputs))
    if g_q.ndim != 2 or g_i.ndim != 2 or o.ndim != 3 or not g_q.shape[1] == g_i.shape[1] == o.shape[2]:
        raise ValueError(
            f"trak takes [Q, k], [N, k] and [N, draws, k] with one k, got {g_q.shape}, {g_i.shape} and {o.shape}"
        )
    if not damping >= 0:
        raise ValueError(f"trak: damping = {damping} must not be negative")
    rows = o.reshape(-1, o.shape[2])
    curvature = rows.T @ rows / len(rows)
    curvature[np.diag_indices_from(curvature)] += damping * np.trace(curvature) / len(curvature)
    return g_q @ scipy.linalg.cho_solve(scipy.linalg.cho_factor(curvature), g_i.T)

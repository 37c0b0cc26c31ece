"""TRAK on a linear denoiser is leave-one-out: parameters, losses and retrained models are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.metrics import attribution

EXAMPLES, DRAWS, D = 60, 16, 4
RNG = np.random.default_rng(0)
X = RNG.standard_normal((EXAMPLES + 5, D)) * np.array([2.0, 1.0, 0.5, 0.2])
EPS = RNG.standard_normal((EXAMPLES + 5, DRAWS, D))
T = RNG.uniform(0.1, 0.9, (EXAMPLES + 5, DRAWS, 1))
INPUTS = np.concatenate([(1 - T) * X[:, None] + T * EPS, np.ones_like(T)], -1)  # x_t, and a constant


def fitted(rows):
    """The least squares of eps = W^T (x_t, 1) over the draws of some examples, `[D + 1, D]`."""
    return np.linalg.lstsq(INPUTS[rows].reshape(-1, D + 1), EPS[rows].reshape(-1, D), rcond=None)[0]


def loss(w, rows):
    """|f - y|^2 / 2, the mean over the draws of each example."""
    return ((INPUTS[rows] @ w - EPS[rows]) ** 2).sum(-1).mean(-1) / 2


@pytest.fixture(scope="module")
def computed():
    w = fitted(np.arange(EXAMPLES))
    params = {"w": jnp.asarray(w, jnp.float32)}
    project = attribution.sketch(jax.random.key(1), params, 1000)  # more than there are: nothing is projected

    def of(i):
        def residual(p, draw):
            j = jax.random.randint(draw, (), 0, DRAWS)
            return jnp.asarray(INPUTS, jnp.float32)[i, j] @ p["w"], jnp.asarray(EPS, jnp.float32)[i, j]

        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), i), 400)
        return attribution.features(residual, params, keys, project)

    return w, jax.jit(lambda rows: jax.lax.map(of, rows))(jnp.arange(EXAMPLES + 5))


@pytest.mark.extended
def test_scores_are_the_changes_of_the_loss_when_an_example_is_left_out(computed):
    w, found = computed
    queries = np.arange(EXAMPLES, EXAMPLES + 5)
    without = [fitted(np.delete(np.arange(EXAMPLES), i)) for i in range(EXAMPLES)]
    true = np.stack([loss(other, queries) - loss(w, queries) for other in without], axis=1)
    scores = attribution.trak(found.loss[EXAMPLES:], found.loss[:EXAMPLES], found.output[:EXAMPLES], damping=0.0)
    for one, row in zip(scores / EXAMPLES, true):
        assert np.corrcoef(one, row)[0, 1] > 0.97
        assert np.polyfit(one, row, 1)[0] == pytest.approx(1, abs=0.2)
    shuffled = np.random.default_rng(1).permutation(EXAMPLES)
    assert abs(np.corrcoef(scores[0], true[0][shuffled])[0, 1]) < 0.5


def test_exact_gradients_give_the_leverage_formula(computed):
    """With the exact gradients and Gauss-Newton matrix, only the leverage of the one example is left out."""
    w, _ = computed
    rows = np.arange(EXAMPLES + 5)
    gradient = np.einsum("njd,nje->nde", INPUTS, INPUTS[rows] @ w - EPS[rows]).reshape(len(rows), -1) / DRAWS
    outputs = np.stack([np.kron(INPUTS[:EXAMPLES], np.eye(D)[e]) for e in range(D)], 2)
    outputs = outputs.reshape(EXAMPLES, DRAWS * D, -1) * np.sqrt(D)  # sum over outputs as a mean of D directions
    scores = attribution.trak(gradient[EXAMPLES:], gradient[:EXAMPLES], outputs, damping=0.0)
    without = [fitted(np.delete(np.arange(EXAMPLES), i)) for i in range(EXAMPLES)]
    true = np.stack([loss(other, rows[EXAMPLES:]) - loss(w, rows[EXAMPLES:]) for other in without], axis=1)
    assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(scores, true)) > 0.995


@pytest.mark.extended
def test_the_sketch_keeps_inner_products():
    rng = np.random.default_rng(3)
    trees = [{"a": jnp.asarray(rng.standard_normal((40, 30))), "b": jnp.asarray(rng.standard_normal(50))} for _ in "ab"]
    trees[1] = jax.tree.map(lambda a, b: a + 0.5 * b, *trees)
    flat = [np.concatenate([np.ravel(t["a"]), np.ravel(t["b"])]) for t in trees]
    true = flat[0] @ flat[1]
    made = []
    for seed in range(12):
        project = attribution.sketch(jax.random.key(seed), trees[0], 256)
        assert project(trees[0]).shape == (256,)
        made.append(float(project(trees[0]) @ project(trees[1])))
    assert np.mean(made) == pytest.approx(true, rel=0.1)
    assert np.std(made) < 2.5 * np.linalg.norm(flat[0]) * np.linalg.norm(flat[1]) / np.sqrt(256)


@pytest.mark.parametrize("k", [3, 4])
def test_a_sketch_of_all_dimensions_is_the_gradient_itself(k):
    """No two numbers share a place, and no sign changes."""
    tree = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    assert attribution.sketch(jax.random.key(0), tree, k)(tree).tolist() == [1, -2, 3]


def test_the_directions_are_not_the_noise_of_the_draws_and_the_loss_is_a_mean_over_them():
    """The output is the parameters themselves, so that a gradient is the residual, and a direction itself."""
    residual = lambda p, draw: (p, p - jax.random.normal(draw, (3,)))  # the output less the target: normal numbers
    run = jax.jit(lambda keys: attribution.features(residual, jnp.ones(3), keys, lambda tree: tree))
    keys = jax.random.split(jax.random.key(0), 4)
    together, alone = run(keys), [run(keys[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(together.loss, np.mean([one.loss for one in alone], axis=0), rtol=1e-5)
    for one, key in zip(alone, keys):
        assert np.abs(one.loss - one.output[0]).min() > 1e-3
        drawn = jax.random.normal(jax.random.split(key)[0], (3,))
        np.testing.assert_allclose(one.loss, drawn, rtol=1e-5)  # the gradient of the loss is the residual's


def test_damping_is_a_share_of_the_mean_curvature():
    """Of curvatures c_1 and c_2 in two directions: 1 / (c + 0.1 (c_1 + c_2) / 2) in each."""
    outputs = np.array([[[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])  # c = 4 / 3 and 2 / 3: the mean of squares over 3 rows
    scores = attribution.trak(np.eye(2), np.eye(2), outputs, damping=0.1)
    np.testing.assert_allclose(scores, np.diag(1 / (np.array([4 / 3, 2 / 3]) + 0.1 * 1)))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one k"):
        attribution.trak(np.zeros((1, 3)), np.zeros((2, 3)), np.zeros((2, 1, 4)))
    with pytest.raises(ValueError, match="damping = -1"):
        attribution.trak(np.zeros((1, 3)), np.zeros((2, 3)), np.zeros((2, 1, 3)), damping=-1)
    with pytest.raises(ValueError, match="k = 0"):
        attribution.sketch(jax.random.key(0), {"a": jnp.zeros(3)}, 0)

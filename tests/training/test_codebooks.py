"""A codebook that follows its vectors beside any training: by the moving averages in NumPy, and when a step fails."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.training import codebooks
from diffusion.training.alternating import Alternating, AlternatingState
from diffusion.training.state import HEALTHY

CODES = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 9.0]], np.float32)
X = np.array([[0.2, 0.1], [0.4, -0.3], [3.0, 1.0], [5.0, 0.5]], np.float32)  # none is near the third code
KEY = jax.random.key(3)


class Scaled:
    """Encodes x to x times its parameter."""

    codes = 3

    def apply(self, variables, x, method):
        assert method == "encode"
        return x * variables["params"]["scale"]


def training(failed_at=HEALTHY, moves=0.0):
    """A training whose step doubles the scale and moves the codes, as weight decay may; by nothing if not said."""

    def init(networks):
        return AlternatingState(jnp.int32(0), dict(networks), {}, {}, jnp.int32(HEALTHY))

    def step(state, batch, key):
        player = state.networks["model"]
        codes = player["autoencoder"]["codebook"] + moves
        weights = {**player["autoencoder"], "scale": 2 * player["autoencoder"]["scale"], "codebook": codes}
        networks = {**state.networks, "model": {**player, "autoencoder": weights}}
        return state._replace(step=state.step + 1, networks=networks, failed_at=jnp.int32(failed_at)), {"loss": 1.0}

    return Alternating(init, step)


def begun(failed_at=HEALTHY, moves=0.0, **how):
    init, step = codebooks.following(training(failed_at, moves), Scaled(), **how)
    model = {"autoencoder": {"scale": jnp.float32(0.5), "codebook": jnp.asarray(CODES)}, "log_variance": 0.0}
    return init({"model": model, "critic": "other"}), step


def test_the_sums_share_no_memory_with_the_codes_so_that_a_step_may_overwrite_both():
    state, _ = begun()
    codes = state.training.networks["model"]["autoencoder"]["codebook"]
    assert state.sums.unsafe_buffer_pointer() != codes.unsafe_buffer_pointer()


@pytest.mark.parametrize("moves", [0.0, 5.0])
def test_codes_move_to_the_mean_of_their_vectors_under_the_new_encoder(moves):
    """Whatever the player's optimizer does with the codes."""
    state, step = begun(moves=moves, decay=0.75, threshold=0.1)
    np.testing.assert_array_equal(state.counts, np.ones(3))
    np.testing.assert_array_equal(state.sums, CODES)
    state, metrics = step(state, {"x": X}, KEY)
    counts = 0.75 * np.ones(3) + 0.25 * np.array([2, 2, 0])
    sums = 0.75 * CODES + 0.25 * np.stack([X[0] + X[1], X[2] + X[3], 0 * X[0]])
    np.testing.assert_allclose(state.counts, counts, rtol=1e-6)
    np.testing.assert_allclose(state.sums, sums, rtol=1e-6)
    model = state.training.networks["model"]
    np.testing.assert_allclose(model["autoencoder"]["codebook"], sums / counts[:, None], rtol=1e-4)
    assert float(model["autoencoder"]["scale"]) == 1.0 and state.training.networks["critic"] == "other"
    assert metrics["loss"] == 1.0 and int(metrics["codebook/restarted"]) == 0
    np.testing.assert_allclose(metrics["codebook/perplexity"], 2, rtol=1e-5)  # two codes, equally often
    assert model["log_variance"] == 0.0 and int(state.training.step) == 1


def test_a_code_without_vectors_starts_again_at_one_of_them():
    state, step = begun(decay=0.5, threshold=1.0)
    starts = []
    for key in jax.random.split(KEY, 6):
        after, metrics = step(state, {"x": X}, key)
        assert int(metrics["codebook/restarted"]) == 1
        code = np.asarray(after.training.networks["model"]["autoencoder"]["codebook"])[2]
        (row,) = np.flatnonzero(np.abs(X - code).max(1) < 1e-6)
        assert float(after.counts[2]) == 1.0
        starts.append(int(row))
    assert len(set(starts)) > 1  # drawn by the step's key


def test_the_draws_of_two_steps_differ_under_one_key():
    state, step = begun(decay=0.5, threshold=1.0)
    codes = []
    for number in range(6):
        later = state._replace(training=state.training._replace(step=jnp.int32(number)))
        after, _ = step(later, {"x": X}, KEY)
        codes.append(tuple(after.training.networks["model"]["autoencoder"]["codebook"][2].tolist()))
    assert len(set(codes)) > 1


def test_a_failed_step_leaves_the_codebook_as_it_was():
    state, step = begun(failed_at=0, decay=0.75)
    after, _ = step(state, {"x": X}, KEY)
    np.testing.assert_array_equal(after.counts, state.counts)
    np.testing.assert_array_equal(after.sums, state.sums)
    np.testing.assert_array_equal(after.training.networks["model"]["autoencoder"]["codebook"], CODES)


@pytest.mark.parametrize(
    "module, how, message",
    [
        (types.SimpleNamespace(), {}, "SimpleNamespace has no codebook that could follow"),
        (types.SimpleNamespace(codes=0), {}, "has no codebook"),
        (Scaled(), {"decay": 1.0}, r"decay = 1\.0 must be in \[0, 1\)"),
        (Scaled(), {"decay": -0.1}, r"decay = -0\.1"),
        (Scaled(), {"threshold": 0.0}, r"threshold = 0\.0 above 0"),
    ],
)
def test_what_cannot_follow_is_refused(module, how, message):
    with pytest.raises(ValueError, match=message):
        codebooks.following(training(), module, **how)
    codebooks.following(training(), Scaled(), decay=0.0)

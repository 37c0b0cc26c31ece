"""The optimum of every objective of symbols on data that can be enumerated is the exact posterior: no slope there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, schedules, timesteps
from tests.discrete.enumerated import PROCESSES, Enumerated
from tests.discrete.test_rate_processes import PROCESSES as RATE_PROCESSES

LINE = schedules.rectified_flow()
NUMBER = 8192
DENSITY = timesteps.uniform_density(LINE, NUMBER)
MIDDLE = timesteps.uniform_density(LINE, NUMBER)._replace(  # times that keep the variance of the slopes low
    sample=lambda state, keys, index: (0.2 + 0.6 * (index % NUMBER + 0.5) / NUMBER, jnp.ones(len(keys)))
)
TOKENS = discrete.token_masks(np.array([0.5, 1.0, 3.0]))
PATH = discrete.metric_path(discrete.line_distances(4), scale=1.0)
OBJECTIVES = {
    "masked_diffusion": (discrete.masked_diffusion, PROCESSES["absorbing"], {}),
    "masked_diffusion of token masks": (discrete.masked_diffusion, TOKENS, {}),
    "score_entropy of masks": (discrete.score_entropy, PROCESSES["absorbing"], {}),
    "score_entropy of uniform": (discrete.score_entropy, PROCESSES["uniform"], {}),
    "score_entropy of rates": (discrete.score_entropy, RATE_PROCESSES["gaussian"], {}),
    "duo after its curriculum": (discrete.duo, PROCESSES["uniform"], {"until": 0, "reading": discrete.from_logits}),
    "hybrid_bound of masks": (discrete.hybrid_bound, PROCESSES["absorbing"], {"steps": 8}),
    "hybrid_bound of uniform": (discrete.hybrid_bound, PROCESSES["uniform"], {"steps": 8}),
    "flow matching from masks": (discrete.discrete_flow_matching, PROCESSES["absorbing"], {}),
    "flow matching from uniform": (discrete.discrete_flow_matching, PROCESSES["uniform"], {}),
    "flow matching by distances": (discrete.discrete_flow_matching, PATH, {}),
    "block_diffusion": (discrete.block_diffusion, PROCESSES["absorbing"], {"block": 2}),
}


def slopes(objective, data, away):
    """The mean slopes `[L, K]` of the loss by logits that are added at each position and symbol, and their errors."""
    rows = np.resize(np.repeat(np.arange(len(data.p)), np.round(data.p * NUMBER).astype(int)), NUMBER)
    x = jnp.asarray(data.states[np.random.default_rng(0).permutation(rows)], jnp.int32)
    exact = data.predictor()
    keys = jax.random.split(jax.random.key(0), NUMBER)

    def losses(added, x, keys, index):
        floor = lambda log_p: jnp.maximum(log_p, -30.0)  # a network's logits are finite
        network = lambda x, t, condition: floor(exact(jnp.argmax(x, -1) if x.ndim == 3 else x, t)) + added
        return objective({"model": network}, LINE, keys, {"x": x, "index": index}, 0)[0]

    @jax.jit
    def each(x, keys):
        part = lambda x, key, i: jax.grad(lambda added: losses(added, x[None], key[None], i[None])[0])(away)
        return jax.vmap(part)(x, keys, jnp.arange(NUMBER))

    found = np.asarray(each(x, keys), np.float64)
    return found.mean(0), found.std(0) / np.sqrt(NUMBER) + 1e-6


@pytest.mark.extended
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_slope_is_zero_at_the_exact_posterior_and_nowhere_near(name):
    make, process, more = OBJECTIVES[name]
    data = Enumerated(process, positions=2, concentration=3.0)
    objective = make(process, MIDDLE, **more)
    nothing = jnp.zeros((2, process.size))
    found, errors = slopes(objective, data, nothing)
    assert errors.max() < 0.02 and (np.abs(found) < 4.5 * errors).all(), (found / errors, errors)
    moved, errors = slopes(objective, data, nothing.at[:, 0].set(0.7))
    assert (np.abs(moved) > 8 * errors).any(), moved / errors

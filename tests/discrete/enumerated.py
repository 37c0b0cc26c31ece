"""Data on so few symbols that every law can be written down: three positions, by matrices in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import discrete

POSITIONS = 3


class Enumerated:
    """A law on `POSITIONS` symbols of `size`; under masks the last symbol is in no data."""

    def __init__(self, process, seed=0, positions=POSITIONS, concentration=0.3):
        self.process, self.positions = process, positions
        self.states = np.array(list(itertools.product(range(process.size), repeat=positions)))  # [S, L]
        rng = np.random.default_rng(seed)
        p = rng.dirichlet(np.full(len(self.states), concentration))
        if process.mask is not None:
            p = np.where((self.states == process.mask).any(1), 0.0, p)
        self.p = p / p.sum()

    @property
    def entropy(self):
        return -np.sum(self.p[self.p > 0] * np.log(self.p[self.p > 0]))

    def matrix(self, alpha):
        """q(x_t | x_0) of one position, `[K from, K to]`."""
        size = self.process.size
        return alpha * np.eye(size) + (1 - alpha) * np.tile(self.process.prior, (size, 1))

    def likelihood(self, t):
        """q(x_t | x_0) of all positions, `[S from, S to]`."""
        one = self.matrix(float(self.process.keeping.alpha(t)))
        return np.prod([one[self.states[:, None, i], self.states[None, :, i]] for i in range(self.positions)], 0)

    def table(self, t):
        """p(x_0 | x_t) of each position for every state x_t, `[S, L, K]`; of impossible states any law."""
        joint = self.p[:, None] * self.likelihood(t)  # [x_0, x_t]
        total = joint.sum(0)
        given = np.where(total > 0, joint / np.where(total > 0, total, 1), self.p[:, None])
        one_hot = np.eye(self.process.size)[self.states]  # [x_0, L, K]
        return np.einsum("at,alk->tlk", given, one_hot)

    def index(self, x):
        return jnp.sum(x * self.process.size ** jnp.arange(self.positions)[::-1], -1)

    def predictor(self):
        """The exact predictor as a function of JAX, by the states and the likelihoods of the positions."""
        states, p = jnp.asarray(self.states), jnp.asarray(self.p, jnp.float32)
        one_hot = jnp.eye(self.process.size)[states]

        def predict(x, t):
            q = self.process.marginal(jnp.broadcast_to(states, (len(x), *states.shape)), t)  # [B, S, L, K]
            here = jnp.take_along_axis(q, x[:, None, :, None], -1)[..., 0]
            joint = p * jnp.prod(here, -1)
            total = joint.sum(-1, keepdims=True)
            return jnp.log(jnp.einsum("bs,slk->blk", joint / jnp.where(total > 0, total, 1.0), one_hot))

        return predict

    def tabled(self):
        """The exact predictor of many samples that are all at one time: computed for each state, and looked up."""
        predict, states = self.predictor(), jnp.asarray(self.states, jnp.int32)
        return lambda x, t: predict(states, jnp.full(len(states), t[0]))[self.index(x)]

    def stepped_law(self, law, times):
        """The law of samples that take the steps of these times, `[S]`: products of the laws of positions."""
        x = jnp.asarray(self.states, jnp.int32)
        compiled = jax.jit(lambda t, s: law(self.predictor(), self.process, x, t, s))
        current = self.prior()
        for t, s in itertools.pairwise(times):
            t, s = (np.full(len(x), value, np.float32) for value in (t, s))
            current = current @ self.kernel(np.asarray(compiled(t, s), np.float64))
        return current

    def kernel(self, probabilities):
        """`[S, S]` of probabilities `[S, L, K]` of positions by themselves."""
        each = np.stack([probabilities[:, i][:, self.states[:, i]] for i in range(self.positions)])
        return np.prod(each, 0)

    def prior(self):
        return np.prod(self.process.prior[self.states], 1)

    def at(self, t):
        return self.p @ self.likelihood(t)


PROCESSES = {
    "absorbing": discrete.absorbing(discrete.linear(), 4),
    "uniform": discrete.uniform(discrete.cosine(), 3),
    "mixture": discrete.mixture(discrete.polynomial(2.0), [0.5, 0.3, 0.2, 0.0]),
}

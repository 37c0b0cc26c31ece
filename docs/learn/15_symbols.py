# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 15. Symbols
#
# Between "cat" and "dog" there are no intermediate values, so Gaussian noise cannot be added to text directly. Masked
# diffusion replaces noise by masks: at $t = 0$ all letters are visible, at $t = 1$ none is, and sampling fills them in.
# Here the data are words of three letters with known probabilities. You derive the reverse step, show that the loss is
# a bound on the likelihood, train a network with that bound, and measure the error of filling in several letters at
# once.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from diffusion import discrete, timesteps

plt.style.use("course.mplstyle")
LETTERS = "abcdegot"
WORDS = {"cat": 6, "dog": 6, "cot": 3, "dot": 3, "bat": 2, "bed": 2, "god": 2, "toe": 2, "ace": 1, "egg": 1}
K = len(LETTERS) + 1  # the mask is the last symbol
MASK = K - 1
ids = lambda word: np.array(["abcdegot_".index(letter) for letter in word])
spelled = lambda symbols: "".join("abcdegot_"[symbol] for symbol in symbols)

# p(x_0) over all 8 x 8 x 8 strings: the words, and with probability 1/50 a uniformly random string.
law = np.full((MASK,) * 3, 0.02 / MASK**3)
for word, weight in WORDS.items():
    law[tuple(ids(word))] += 0.98 * weight / sum(WORDS.values())
entropy = -(law * np.log(law)).sum()
strings = np.stack(np.meshgrid(*[np.arange(MASK)] * 3, indexing="ij"), -1).reshape(-1, 3)


def draw(key, number):
    """Words of the data, int32 `[number, 3]`."""
    return jnp.asarray(strings)[jax.random.choice(key, len(strings), (number,), p=jnp.asarray(law.ravel()))]


print("data:", ", ".join(map(spelled, np.asarray(draw(jax.random.key(0), 8)))))
print(f"entropy: {entropy:.3f} nats, of at most {3 * np.log(MASK):.3f}")

# %% [markdown]
# ## Forward process: each letter is masked independently
#
# Each letter is kept with probability $\alpha_t$, here $1 - t$, and replaced by the mask otherwise
# ([`discrete.absorbing`](../../diffusion/discrete/processes.py)):
#
# $$
# q(x_t \mid x_0) = \prod_i \big( \alpha_t\, 1[x_t^i = x_0^i] + (1 - \alpha_t)\, 1[x_t^i = \text{mask}] \big)
# $$

# %%
process = discrete.absorbing(discrete.linear(), size=K)
keys = jax.random.split(jax.random.key(1), 4)
for t in (0.0, 0.3, 0.6, 0.9):
    masked = discrete.noised(process, keys, jnp.asarray([ids("dog")] * 4), jnp.full(4, t))
    print(f"t = {t}: ", "  ".join(map(spelled, np.asarray(masked))))

# %% [markdown]
# ## Reverse process: Bayes' rule gives one probability
#
# Suppose that a letter is masked at time $t$. A letter is still visible at $s < t$ with probability $\alpha_s$, and is
# then masked between $s$ and $t$ with probability $1 - \alpha_t / \alpha_s$. Divide by the probability $1 - \alpha_t$
# that it is masked at $t$:
#
# $$
# q(x_s = x_0 \mid x_t = \text{mask}, x_0) = \frac{\alpha_s (1 - \alpha_t / \alpha_s)}{1 - \alpha_t} = \frac{\alpha_s - \alpha_t}{1 - \alpha_t}
# $$
#
# Otherwise the position stays masked. A visible letter equals $x_0$ and stays. So a reverse step fills in each mask
# with this probability, and the only unknown is **which** letter to fill in: $p(x_0^i \mid x_t)$.

# %%
t, s = 0.8, 0.5
known = jax.nn.one_hot(jnp.asarray([[ids("dog")[0]]]), K)
back = process.posterior(jnp.asarray([[MASK]]), known, t, s)[0, 0]
by_hand = ((1 - s) - (1 - t)) / (1 - (1 - t))
print(
    f"q(x_s = d | mask) = {float(back[ids('dog')[0]]):.4f}, by hand {by_hand:.4f}; still masked: {float(back[MASK]):.4f}"
)
assert np.isclose(back[ids("dog")[0]], by_hand, atol=1e-6)

# %% [markdown]
# ## The target does not depend on the time
#
# The probability that exactly these positions are masked, $\alpha_t^{\text{shown}} (1 - \alpha_t)^{\text{masked}}$, is
# the same for every word. It cancels, and only the distribution of the data given the visible letters remains:
#
# $$ p(x_0^i = a \mid x_t) = p(x_0^i = a \mid \text{visible letters})
# $$
#
# A masked model learns all such conditional distributions at once. Here we can compute them exactly from the table of
# probabilities.


# %%
def conditionals(x_t):
    """p(x_0^i | the visible letters): float `[N, 3, K]` for x_t `[N, 3]`, by a sum over all 512 strings."""
    fits = ((x_t[:, None] == strings[None]) | (x_t[:, None] == MASK)).all(-1)
    share = fits * law.ravel()
    share = share / share.sum(1, keepdims=True)
    return np.einsum("ns,sik->nik", share, np.eye(K)[strings])


every = np.stack(np.meshgrid(*[np.arange(K)] * 3, indexing="ij"), -1).reshape(-1, 3)  # all 9 x 9 x 9 states x_t
table = jnp.asarray(conditionals(every), jnp.float32).reshape(K, K, K, 3, K)
exact = lambda x_t, t: jnp.log(table[x_t[..., 0], x_t[..., 1], x_t[..., 2]])

for shown in ("___", "_o_", "_og"):
    first = np.asarray(jnp.exp(exact(jnp.asarray([ids(shown)]), 0.5)))[0, 0, :MASK]
    print(f"{shown}: first letter", ", ".join(f"{LETTERS[i]} {first[i]:.2f}" for i in np.argsort(-first)[:3]))

# %% [markdown]
# ## The loss is a bound, and for the exact model it is the entropy
#
# Remove the masks one after the other. For any order, the log-probability of a word is a sum over its letters, each
# given the letters that are already visible. A mask is removed between $t$ and $t - dt$ with probability
# $-\alpha'_t\, dt / (1 - \alpha_t)$, so
#
# $$
# -\log p(x_0) \le \int_0^1 \frac{-\alpha'_t}{1 - \alpha_t}\; \mathbb{E}_{x_t} \sum_{i \text{ masked}} -\log p_\theta(x_0^i \mid x_t)\; dt
# $$
#
# [`discrete.masked_bound`](../../diffusion/discrete/bounds.py) estimates this integral at one time for each example.
# The inequality is Jensen's, over the order in which the masks are removed. For the exact conditionals every order
# gives the same product, so the mean over the data is the entropy. No model has a lower bound than that. For a model
# that knows only the frequencies of the letters at each position, the bound is the sum of the entropies of the
# positions.

# %%
N = 40_000
x_0 = draw(jax.random.key(2), N)
keys = jax.random.split(jax.random.key(3), N)
times = (jnp.arange(N) + jax.random.uniform(jax.random.key(4), (N,))) / N
alone = jnp.broadcast_to(exact(jnp.full((1, 3), MASK), 0.5), (N, 3, K))
marginals = np.stack([law.sum((1, 2)), law.sum((0, 2)), law.sum((0, 1))])
by_position = -(marginals * np.log(marginals)).sum()
for name, predict, answer in (("exact", exact, entropy), ("letters by themselves", lambda x, t: alone, by_position)):
    losses = np.asarray(discrete.masked_bound(predict, process, keys, x_0, times))
    error = losses.std() / N**0.5
    print(f"{name:21} bound {losses.mean():.3f} +- {error:.3f} nats, exactly {answer:.3f}")
    assert abs(losses.mean() - answer) < 4 * error

# %% [markdown]
# ## A network that learns it
#
# Three positions with nine symbols each (eight letters and the mask) give 27 inputs and 27 logits. The time is not an
# input. `from_logits` sets the probability of the mask to zero and keeps the visible letters, so the output of the
# network matters only at masked positions.

# %%
sizes = [(3 * K, 256), (256, 256), (256, 3 * K)]
params = [jax.random.normal(jax.random.key(i), size) / size[0] ** 0.5 for i, size in enumerate(sizes)]


def network(params, x_t, t, condition=None):
    """Logits `[B, 3, K]` of symbols `[B, 3]`."""
    h = jax.nn.one_hot(x_t, K).reshape(len(x_t), -1)
    for weight in params[:-1]:
        h = jax.nn.gelu(h @ weight)
    return (h @ params[-1]).reshape(-1, 3, K)


BATCH, STEPS = 512, 1500
optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, STEPS))


@jax.jit
def train_step(params, state, key):
    data, noise, clock = jax.random.split(key, 3)
    t = (jnp.arange(BATCH) + jax.random.uniform(clock, (BATCH,))) / BATCH  # one time in each of 512 equal parts
    keys, x_0 = jax.random.split(noise, BATCH), draw(data, BATCH)

    def loss(params):
        predict = discrete.predictor(lambda *inputs: network(params, *inputs), process, discrete.from_logits)
        return discrete.masked_bound(predict, process, keys, x_0, t).mean()

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


state, curve = optimizer.init(params), []
for key in jax.random.split(jax.random.key(5), STEPS):
    params, state, value = train_step(params, state, key)
    curve.append(float(value))
learned = discrete.predictor(lambda *inputs: network(params, *inputs), process, discrete.from_logits)
bounds = [
    discrete.masked_bound(predict, process, keys, x_0, times) for predict in (learned, exact)
]  # at the same masks
excess = np.asarray(bounds[0] - bounds[1])
print(f"the network's bound is {excess.mean():.4f} +- {excess.std() / N**0.5:.4f} nats above the exact one")
assert -4 * excess.std() / N**0.5 < excess.mean() < 0.1

# %% [markdown]
# ## Sampling: the letters of one step are independent
#
# The reverse step above treats each position separately. If one step fills in two letters, it draws them independently
# of each other: in "_o_" it can combine the "c" of "cot" with the "g" of "dog". With $N$ steps the probability that one
# step fills in two letters is proportional to $1 / N$ ([`discrete.ancestral`](../../diffusion/discrete/steps.py)).
# [`discrete.first_hitting`](../../diffusion/discrete/steps.py) draws the time at which the next letter is filled in,
# and fills in only this position. Its samples have the exact distribution, with one evaluation per letter.

# %% tags=["picture"]
many = 20_000


def samples(sampler, predict, steps):
    """Samples, int `[many, 3]`: starts with all positions masked and takes equal steps of time."""
    start, keys = jax.random.split(jax.random.key(6))
    x = discrete.prior(process, jax.random.split(start, many), (3,))
    plan = timesteps.plan(jnp.linspace(1.0, 0.0, steps + 1))
    return np.asarray(discrete.sample(sampler, predict, process, x, plan, jax.random.split(keys, many)))


def distance(symbols):
    """Half of the sum of |share of the samples - probability|, over all strings."""
    counts = np.bincount(symbols @ np.array([MASK**2, MASK, 1]), minlength=MASK**3)
    return 0.5 * np.abs(counts / len(symbols) - law.ravel()).sum()


steps = np.array([1, 2, 4, 8, 16, 32])
by_steps = {name: [distance(samples(discrete.ancestral(), predict, int(n))) for n in steps]
            for name, predict in (("exact", exact), ("network", learned))}  # fmt: skip
once = {name: distance(samples(discrete.first_hitting(), predict, 3))
        for name, predict in (("exact", exact), ("network", learned))}  # fmt: skip
floor = distance(np.asarray(draw(jax.random.key(7), many)))

figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.4))
panels[0].plot(np.convolve(curve, np.ones(50) / 50, "valid"), label="bound, mean of 50 steps")
panels[0].axhline(entropy, color="k", linestyle=":", label="entropy of the data")
panels[0].set(xlabel="step", ylabel="nats a word", title="the loss has a floor that is known")
for name, colour in (("exact", "C0"), ("network", "C1")):
    panels[1].loglog(steps, by_steps[name], marker=".", color=colour, label=f"ancestral, {name}")
    panels[1].plot(3, once[name], marker="*", markersize=9, linestyle="", color=colour, label=f"first hitting, {name}")
panels[1].axhline(floor, color="k", linestyle=":", label="as many draws of the data")
panels[1].set(
    xlabel="network evaluations",
    ylabel="distance from the data",
    title="several letters at once cost words",
    ylim=(0.01, 8),
)
for panel in panels:
    panel.legend()
plt.show()

# %%
for n in (1, 4, 32):
    print(f"{n:2} steps:", ", ".join(map(spelled, samples(discrete.ancestral(), exact, n)[:10])))
print("3 evaluations, one letter each:", ", ".join(map(spelled, samples(discrete.first_hitting(), exact, 3)[:6])))
assert once["exact"] < 1.5 * floor < by_steps["exact"][2]
assert 1.6 < by_steps["exact"][1] / by_steps["exact"][2] < 2.6  # halved by twice the steps

# %% [markdown]
# ## Infilling works without changes
#
# Visible letters stay. To fill in "_o_", start from it: the samples follow the conditional distribution of the data
# given that letter ([`discrete.infilling`](../../diffusion/discrete/known_positions.py) does this for any sampler and
# process).

# %%
asked = jnp.asarray(np.tile(ids("_o_"), (many, 1)))
sampler = discrete.infilling(discrete.first_hitting(), asked, asked != MASK)
plan = timesteps.plan(jnp.linspace(1.0, 0.0, 4))
filled = np.asarray(discrete.sample(sampler, exact, process, asked, plan, jax.random.split(jax.random.key(8), many)))
conditional = law[:, ids("o")[0]] / law[:, ids("o")[0]].sum()
for word in ("dog", "cot", "dot", "god"):
    share = (filled == ids(word)).all(1).mean()
    exactly = conditional[ids(word)[0], ids(word)[2]]
    print(f"{word}: {share:.3f} of the samples, exactly {exactly:.3f}")
    assert abs(share - exactly) < 4 * (exactly / many) ** 0.5

# %% [markdown]
# ## Summary
#
# - A masked model learns all conditional distributions and does not depend on the time. The time only determines how
#   many letters are visible.
# - The loss is a bound on $-\log p$ in nats. It is comparable with the loss of an autoregressive model: the entropy is
#   the minimum of both.
# - With few steps, letters that are filled in together become independent, but each letter still has the right
#   distribution. Better samplers choose which letters to fill in together: some of
#   [these samplers](../discrete.md#samplers) choose the most certain letters, and some bound the resulting error.
# - The same sampling loop works for [`discrete.uniform`](../../diffusion/discrete/processes.py), which replaces letters
#   by other letters and can correct them later, and for score-based networks
#   ([`discrete.from_ratios`](../../diffusion/discrete/predictions.py)).
#
# **Try it**: with one step all letters are drawn independently. Compute the distance between this distribution and the
# data without sampling, and compare it with the first point of the right panel.

# %% tags=["solution"]
together = np.einsum("i,j,k->ijk", *marginals)
one_step = 0.5 * np.abs(together - law).sum()
print(f"exactly {one_step:.4f}, of {many} samples {by_steps['exact'][0]:.4f}")
assert abs(one_step - by_steps["exact"][0]) < 2 * floor

# %% [markdown]
# [The page on discrete data](../discrete.md) describes the processes, bounds and samplers, and
# [examples/symbols](../../examples/symbols/README.md) trains on characters of prose.

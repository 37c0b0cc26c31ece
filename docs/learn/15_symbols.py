# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 15. Symbols
#
# Text has no noise between "cat" and "dog". Diffusion of symbols therefore replaces noise by masks: at $t = 0$ all letters
# show, at $t = 1$ none does, and to sample is to fill them in. Here the data are words of three letters with known
# probabilities. You derive the reverse step, see what the loss bounds, train a network on that bound, and see what it costs to
# fill in several letters at once.

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

# p(x_0) over all 8 x 8 x 8 strings: the words, and one time in fifty any string.
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
# ## Forward: each letter is masked by itself
#
# A letter is kept with probability $\alpha_t$, here $1 - t$, and is the mask otherwise
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
# ## Backward: Bayes' rule has one number
#
# Let a letter be masked at time $t$. It still showed at $s < t$ with probability $\alpha_s$, and was masked between $s$ and $t$
# with probability $1 - \alpha_t / \alpha_s$. Divide by the probability $1 - \alpha_t$ that it is masked at $t$:
#
# $$
# q(x_s = x_0 \mid x_t = \text{mask}, x_0) = \frac{\alpha_s (1 - \alpha_t / \alpha_s)}{1 - \alpha_t} = \frac{\alpha_s - \alpha_t}{1 - \alpha_t}
# $$
#
# Otherwise the position stays masked. A letter that shows is $x_0$ and stays. So a step back fills in each mask with that
# probability, and the only unknown is **which** letter: $p(x_0^i \mid x_t)$.

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
# ## What there is to learn does not depend on the time
#
# The probability that exactly these positions are masked, $\alpha_t^{\text{shown}} (1 - \alpha_t)^{\text{masked}}$, is the same for
# every word. It cancels, and only the law of the data given the letters that show is left:
#
# $$
# p(x_0^i = a \mid x_t) = p(x_0^i = a \mid \text{letters that show})
# $$
#
# A masked model is a model of all such conditionals at once. Ours can be counted from the table.


# %%
def conditionals(x_t):
    """p(x_0^i | the letters that show): float `[N, 3, K]` of `[N, 3]`, by a sum over all 512 strings."""
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
# ## The loss is a bound, and for the exact answer it is the entropy
#
# Let the masks fall one after the other. In any order, the log-probability of a word is a sum over its letters, each given the
# letters that showed before it. A mask falls between $t$ and $t - dt$ with probability $-\alpha'_t\, dt / (1 - \alpha_t)$, so
#
# $$
# -\log p(x_0) \le \int_0^1 \frac{-\alpha'_t}{1 - \alpha_t}\; \mathbb{E}_{x_t} \sum_{i \text{ masked}} -\log p_\theta(x_0^i \mid x_t)\; dt
# $$
#
# which [`discrete.masked_bound`](../../diffusion/discrete/bounds.py) estimates at one time for each example. The inequality is
# Jensen's, over the order in which the masks fall. For the exact conditionals every order gives the same product, and the mean
# over the data is the entropy. No model can be lower. A model that knows only how often each letter occurs at each position
# pays the entropies of the positions.

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
# Three letters and a mask are 27 numbers in, and 27 logits out. The time is not an input. `from_logits` gives the mask no
# probability and keeps the letters that show, so that the network says something only where there is a mask.

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
# ## Sampling: letters of one step are drawn independently
#
# The reverse step above treats each position by itself. If two masks fall in one step, each letter is drawn from its own
# conditional, and neither draw knows the other: in "_o_" the "c" of "cot" can meet the "g" of "dog". With $N$ steps the
# probability that two masks fall together goes as $1 / N$ ([`discrete.ancestral`](../../diffusion/discrete/steps.py)).
# [`discrete.first_hitting`](../../diffusion/discrete/steps.py) draws the time at which the next mask falls, and fills in this
# position alone: its law is exact, in as many evaluations as there are letters.

# %% tags=["picture"]
many = 20_000


def samples(sampler, predict, steps):
    """int `[many, 3]`, from masks alone, in equal steps of time."""
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
# ## Infilling needs nothing more
#
# A letter that shows stays. To fill in "_o_", begin with it: the samples have the law of the data given that letter
# ([`discrete.infilling`](../../diffusion/discrete/known_positions.py) does it for any sampler and process).

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
# ## What you take with you
#
# - A masked model is a time-free model of all conditionals. The time says how many letters show, and nothing more.
# - The loss is a bound on $-\log p$ in nats, comparable with that of an autoregressive model: both have the entropy as floor.
# - With few steps the letters lose their dependence, not their sharpness. Samplers choose which letters to fill in together:
#   some of [the page of symbols](../discrete.md#samplers) take the surest ones, and some bound the loss.
# - The same sampler loop takes [`discrete.uniform`](../../diffusion/discrete/processes.py), whose letters are replaced by others and can be
#   corrected later, and score-based networks ([`discrete.from_ratios`](../../diffusion/discrete/predictions.py)).
#
# **Try it**: in one step all letters are drawn independently. Compute how far that law is from the data without a single
# sample, and compare the distance with the first point of the right panel.

# %% tags=["solution"]
together = np.einsum("i,j,k->ijk", *marginals)
one_step = 0.5 * np.abs(together - law).sum()
print(f"exactly {one_step:.4f}, of {many} samples {by_steps['exact'][0]:.4f}")
assert abs(one_step - by_steps["exact"][0]) < 2 * floor

# %% [markdown]
# [The page of symbols](../discrete.md) has the processes, bounds and samplers, and
# [examples/symbols](../../examples/symbols/README.md) trains on characters of prose.

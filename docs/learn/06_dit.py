# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 6. A DiT, from einsum up
#
# So far the network was a perceptron, and the data were points. A diffusion transformer (DiT) processes pictures: it
# cuts a picture into patches, treats the patches as a set of tokens, and relates the tokens to each other by attention.
# Here you write the DiT of [Peebles & Xie (2023)](https://arxiv.org/abs/2212.09748) in eighty lines of plain JAX. You
# check that it computes the same function as the library's [`models.DiT`](../../diffusion/models/dit.py) with the same
# parameters, generate digits with the weights that ship with the package, and train it from scratch.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import small_digits
import small_training

from diffusion import models, objectives, timesteps
from diffusion.experiments.sampling import trained_run

plt.style.use("course.mplstyle")
PATCH, WIDTH, DEPTH, HEADS, CLASSES = 2, 64, 4, 4, small_digits.CLASSES

# %% [markdown]
# ## `einsum`
#
# Every product in this notebook is an `einsum`. Each axis of an array has a letter, and `einsum` sums over the letters
# that do not occur in the result. For example, `"bnd,de->bne"` applies a dense layer to the tokens of a batch:
#
# $$ y_{bne} = \sum_d x_{bnd}\, W_{de} $$
#
# An `einsum` also turns a picture into tokens. Rows and columns of pixels have two letters each: one for the patch and
# one for the position inside the patch. Only the order of the letters changes.


# %%
def dense(p, x):
    return jnp.einsum("...d,de->...e", x, p["kernel"]) + p["bias"]


def patchify(x):
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, channels)
    return jnp.einsum("bipjqc->bijpqc", x).reshape(batch, -1, PATCH * PATCH * channels)


def unpatchify(tokens, height, width):
    x = tokens.reshape(len(tokens), height // PATCH, width // PATCH, PATCH, PATCH, -1)
    return jnp.einsum("bijpqc->bipjqc", x).reshape(len(tokens), height, width, -1)


digits = jnp.asarray(small_digits.images[:2])
print("a picture", digits.shape[1:], "becomes", patchify(digits).shape[1], "tokens of", patchify(digits).shape[2])
assert (unpatchify(patchify(digits), 8, 8) == digits).all()

# %% [markdown]
# ## Position and time embeddings
#
# A set has no order, so each token needs its position: the sines and cosines of its column, then of its row, are added
# to the token. The sines and cosines of $t$, followed by a perceptron, encode the time. If a position or a time is
# encoded in $D$ numbers, the frequencies are
#
# $$ w_i = 10000^{-i / n}, \qquad i = 0, \dots, n - 1, \qquad n = D / 2 \text{ for a time}, \; D / 4 \text{ for a row or a column} $$


# %%
def frequencies(n):
    return jnp.exp(-jnp.log(10_000.0) * jnp.arange(n) / n)


def time_features(t, size=256):
    angles = jnp.einsum("b,i->bi", t, frequencies(size // 2))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)


def positions(rows, columns):
    row, column = jnp.divmod(jnp.arange(rows * columns), columns)
    angles = jnp.einsum("nk,i->nki", jnp.stack([column, row], axis=1), frequencies(WIDTH // 4))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=2).reshape(rows * columns, WIDTH)


# %% [markdown]
# ## Attention
#
# One product computes all queries, keys and values: the letter $a$ selects one of the three, $h$ is the head, and $s$
# the component within a head. Each query is compared with all keys. The softmax turns these scores into weights, and
# the output is the weighted mean of the values
# ([`models.layers.attention.attention`](../../diffusion/models/layers/attention.py)):
#
# $$ A_{bhnm} = \operatorname{softmax}_m\!\left(\frac{1}{\sqrt{S}} \sum_s q_{bnhs}\, k_{bmhs}\right), \qquad y_{bnhs} = \sum_m A_{bhnm}\, v_{bmhs} $$
#
# The division by $\sqrt{S}$ keeps the variance of the scores near one: a sum of $S$ products of independent numbers of
# variance one has variance $S$.


# %%
def attention(p, x):
    q, k, v = jnp.einsum("bnd,dahs->abnhs", x, p["qkv"]["kernel"]) + p["qkv"]["bias"][:, None, None]
    scores = jnp.einsum("bnhs,bmhs->bhnm", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("bhnm,bmhs->bnhs", jax.nn.softmax(scores, axis=-1), v)
    return jnp.einsum("bnhs,hsd->bnd", mixed, p["out"]["kernel"]) + p["out"]["bias"]


# %% [markdown]
# ## adaLN-zero
#
# How does a block receive the time and the class? One could add their embeddings to the tokens. In DiT they modulate
# the normalization. A vector $c$ encodes time and class. In each block, a dense layer maps $c$ to six vectors: a shift
# $b$, a scale $s$ and a gate $g$ for the attention, and three more for the perceptron
# ([`models.layers.blocks.Block`](../../diffusion/models/layers/blocks.py)):
#
# $$ x \leftarrow x + g \odot f\big((1 + s) \odot \operatorname{norm}(x) + b\big), \qquad (b, s, g) = W c + w, \qquad f = \text{attention, then perceptron} $$
#
# All $W$ and $w$ are initialized at zero. So every gate is zero, and each block starts as the identity: hence the
# "zero" in the name. Figure 5 of the paper compares adaLN-zero with three other ways to use the condition, and
# adaLN-zero is the best.


# %%
def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def vectors(p, c):
    """Vectors of the condition for every token: [B, D] -> [count, B, 1, D]."""
    return (jnp.einsum("bd,dkw->kbw", c, p["kernel"]) + p["bias"][:, None])[:, :, None]


def block(p, x, c):
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors(p["modulation"]["dense"], c)
    x = x + gate_a * attention(p["attention"], (1 + scale_a) * norm(x) + shift_a)
    h = jax.nn.gelu(dense(p["mlp"]["hidden"], (1 + scale_m) * norm(x) + shift_m))
    return x + gate_m * dense(p["mlp"]["out"], h)


# %% [markdown]
# ## The network
#
# The network consists of the patches, the positions, the blocks, and a last layer that turns each token back into a
# patch. The blocks differ only in their parameters. We stack the parameters along a first axis, over which
# `jax.lax.scan` loops, so JAX compiles a single block for any depth.


# %%
def condition_vector(params, t, label):
    p = params["timestep_embedding"]
    time = dense(p["out"], jax.nn.silu(dense(p["hidden"], time_features(t))))
    return jax.nn.silu(time + params["label_embedding"]["embedding"][label])


def dit(params, x, t, label):
    """(x_t [B, H, W, 1], the clock [B] in 0 .. 1000, classes [B], of which 10 is "none") -> [B, H, W, 1]."""
    height, width = x.shape[1:3]
    c = condition_vector(params, t, label)
    tokens = dense(params["patch_embedding"], patchify(x)) + positions(height // PATCH, width // PATCH)
    tokens, _ = jax.lax.scan(lambda tokens, p: (block(p, tokens, c), None), tokens, params["blocks"])
    shift, scale = vectors(params["final_modulation"]["dense"], c)
    return unpatchify(dense(params["final"], (1 + scale) * norm(tokens) + shift), height, width)


# %% [markdown]
# ## The same network in the library
#
# Parameters are arrays in nested dictionaries. We use the library's names, so both networks accept the same dictionary.


# %%
def init(key):
    keys = iter(jax.random.split(key, 16))
    normal = lambda shape, scale: scale * jax.random.normal(next(keys), shape)
    dense = lambda m, n, *stack: {"kernel": normal((*stack, m, n), m**-0.5), "bias": jnp.zeros((*stack, n))}
    zeros = lambda *shape: {"kernel": jnp.zeros(shape), "bias": jnp.zeros((*shape[:-3], *shape[-2:]))}
    size = WIDTH // HEADS
    qkv = {"kernel": normal((DEPTH, WIDTH, 3, HEADS, size), WIDTH**-0.5), "bias": jnp.zeros((DEPTH, 3, HEADS, size))}
    out = {"kernel": normal((DEPTH, HEADS, size, WIDTH), WIDTH**-0.5), "bias": jnp.zeros((DEPTH, WIDTH))}
    return {
        "patch_embedding": dense(PATCH * PATCH, WIDTH),
        "timestep_embedding": {"hidden": dense(256, WIDTH), "out": dense(WIDTH, WIDTH)},
        "label_embedding": {"embedding": normal((CLASSES + 1, WIDTH), 0.02)},
        "blocks": {
            "modulation": {"dense": zeros(DEPTH, WIDTH, 6, WIDTH)},
            "attention": {"qkv": qkv, "out": out},
            "mlp": {"hidden": dense(WIDTH, 4 * WIDTH, DEPTH), "out": dense(4 * WIDTH, WIDTH, DEPTH)},
        },
        "final_modulation": {"dense": zeros(WIDTH, 2, WIDTH)},
        "final": {"kernel": jnp.zeros((WIDTH, PATCH * PATCH)), "bias": jnp.zeros(PATCH * PATCH)},
    }


def moved(params, key, scale):
    """The initial parameters plus random numbers, so that no layer is zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten([a + scale * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys)])


params = init(jax.random.key(0))
print(f"{sum(a.size for a in jax.tree.leaves(params)):,} parameters")

library = models.DiT(patch=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS, num_classes=CLASSES)
x = jax.random.normal(jax.random.key(1), (8, 8, 8, 1))
t = jnp.linspace(0, 1000, 8)
label = jnp.array([0, 1, 2, 3, 4, 8, 9, 10])
random = moved(params, jax.random.key(2), 0.02)
ours = dit(random, x, t, label)
theirs = library.apply({"params": random}, x, t, label)
print(f"outputs of size {float(jnp.abs(ours).max()):.2f}; largest difference {float(jnp.abs(ours - theirs).max()):.1e}")
assert jnp.abs(ours).max() > 0.1 and jnp.abs(ours - theirs).max() < 1e-6

tokens = jax.random.normal(jax.random.key(3), (8, 16, WIDTH))
first_block = jax.tree.map(lambda a: a[0], params["blocks"])
assert (block(first_block, tokens, condition_vector(params, t, label)) == tokens).all()  # the identity at the start

# %% [markdown]
# ## Digits from the package's weights
#
# The package contains trained weights of this network. The preset `digits:demo` trained it for 3,000 steps to predict
# the velocity of the straight path. Our eighty lines use its parameter dictionary unchanged. `small_digits.py` provides
# held-out digits, a classifier that judges the class of samples, and the Fréchet distance to the held-out digits. The
# network was also trained with an eleventh class, "none", for guidance ([notebook 5](05_guidance.ipynb)).

# %%
run = trained_run.load("digits")
schedule, velocity = run.schedule, run.recipe.parameterization
trained = run.params["params"]
assert jax.tree.map(jnp.shape, trained) == jax.tree.map(jnp.shape, params)

# %% tags=["picture"]
pictures = small_digits.samples(dit, trained, schedule, velocity, scales=(1.0, 2.0))
small_digits.draw_rows(pictures)

# %%
recognised = small_digits.judge(pictures)
assert recognised["samples, w = 2"] > 0.9

# %% [markdown]
# ## Training
#
# To train such a network, we use the loop of `small_training.py` again. The loss is
# [`objectives.flow_matching`](../../diffusion/objectives/flow_matching.py), and the class is dropped with probability
# 0.1 ([`objectives.with_condition_dropout`](../../diffusion/objectives/conditioning.py)). We train for a tenth of the
# package's steps to show how the loss falls. `diffusion train --config=digits:demo` trains the network above: it takes
# 3,000 steps, with another optimizer and a moving average of the parameters.

# %%
STEPS = 300
objective = objectives.with_condition_dropout(
    objectives.flow_matching(timesteps.uniform_density(schedule), clock=velocity.clock), null=CLASSES, rate=0.1
)
_, losses = small_training.train(
    objective, schedule, params, small_digits.draw, steps=STEPS, batch=64, network=dit, rate=2e-3
)
print(f"mean loss of the first 20 steps {losses[:20].mean():.3f}, of the last 100 {losses[-100:].mean():.3f}")
assert losses[-100:].mean() < 0.6 * losses[:20].mean()

# %% [markdown]
# ## How the gates depend on the time
#
# Before training, every gate was zero. We plot the mean absolute gate of each block against $t$, for class 3, and the
# mean absolute scale before the perceptron. Both depend on $t$: the network computes a different function at each noise
# level.

# %%
time = jnp.linspace(0.0, 1.0, 60)
c = condition_vector(trained, velocity.clock(schedule, time), jnp.full(60, 3))
figure, panels = plt.subplots(1, 3, figsize=(7.5, 2.7))
for number in range(DEPTH):
    p = jax.tree.map(lambda a, n=number: a[n], trained["blocks"])
    _, _, gate_a, _, scale_m, gate_m = jnp.abs(vectors(p["modulation"]["dense"], c)).mean((2, 3))
    panels[0].plot(time, gate_a, label=f"block {number + 1}")
    panels[1].plot(time, gate_m, label=f"block {number + 1}")
    panels[2].plot(time, scale_m, label=f"block {number + 1}")
panels[0].set(xlabel="t  (0 data, 1 noise)", ylabel="mean |gate|", title="gates of the attention", ylim=(0, None))
panels[1].set(xlabel="t  (0 data, 1 noise)", title="gates of the perceptron", ylim=(0, None))
panels[2].set(
    xlabel="t  (0 data, 1 noise)", ylabel="mean |scale|", title="scales before the perceptron", ylim=(0, None)
)
panels[0].legend()
plt.show()
assert gate_a.min() > 0

# %% [markdown]
# ## Summary
#
# - Each block of a DiT consists of four einsums for attention, two dense layers, and norms that the condition
#   modulates. Only the patches and the positions depend on the fact that the data are pictures. So the same blocks work
#   for time series, clips and sets.
# - adaLN-zero starts a deep network as the identity. It costs parameters rather than time: here a third of a block's
#   weights belong to the layer that computes the six vectors.
# - Later papers change only a few lines of this code: rotary positions, RMS norms, SwiGLU, and normalized queries and
#   keys are options of [`models.DiT`](../../diffusion/models/dit.py), and
#   [`models.lightning_dit_preset`](../../diffusion/models/lightning_dit.py) sets the first three.
#
# **Try it**: remove the position embeddings. What can the network no longer distinguish? Show it without training.

# %% tags=["solution"]
permutation = jax.random.permutation(jax.random.key(5), 16)
# Without positions the tokens are a set: permuted patches give the same output, permuted.
shuffled = lambda x: unpatchify(patchify(x)[:, permutation], 8, 8)


def change_by_permutation():
    return float(jnp.abs(dit(trained, shuffled(x), t, label) - shuffled(dit(trained, x, t, label))).max())


gaps = {"with": change_by_permutation()}
with_positions, positions = positions, lambda rows, columns: 0.0
gaps["without"] = change_by_permutation()
positions = with_positions
for name, gap in gaps.items():
    print(f"{name} positions, permuted patches change the output by up to {gap:.1e}")
assert gaps["without"] < 1e-4 < 0.1 < gaps["with"]

# %% [markdown]
# Next: [7. Latents](07_latents.ipynb)

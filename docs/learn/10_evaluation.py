# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # 10. Evaluation, and how FID misleads
#
# The Fréchet distance is the standard metric of the field; with features of an Inception network it is called FID. It
# is a good metric if you know its limits. Here you see four ways in which it misleads, on data where the truth is
# known, and learn what to report together with the distance.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
from exact_mixture import THREE_CLUSTERS
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from diffusion.metrics import extrapolation, frechet, kernel_distance, memorisation

plt.style.use("course.mplstyle")
random = np.random.default_rng(0)


def moments(rows):
    return frechet.update(frechet.init(rows.shape[1]), rows)


def distance(a, b):
    return frechet.frechet_distance(moments(a), moments(b))


# %% [markdown]
# ## The formula
#
# Fit a Gaussian to the features of each set, and compute the squared 2-Wasserstein distance between the two Gaussians.
# If their covariances have the same principal axes, the optimal transport treats each axis separately: along one axis,
# a linear map takes $\mathcal{N}(m, s^2)$ to $\mathcal{N}(n, r^2)$ at a cost of $(m - n)^2 + (s - r)^2$. For arbitrary
# covariances $S$ and $R$, the distance is
#
# $$
# d^2 = |m - n|^2 + \operatorname{Tr} S + \operatorname{Tr} R - 2 \operatorname{Tr} \big(S^{1/2} R\, S^{1/2}\big)^{1/2}
# $$
#
# which is [`metrics.frechet.frechet_distance`](../../diffusion/metrics/frechet.py).

# %%
s, r, shift = np.array([1.0, 2.0, 0.5]), np.array([1.2, 1.5, 0.5]), np.array([0.3, 0.0, -0.1])
by_hand = (shift**2).sum() + ((s - r) ** 2).sum()
fit = lambda mean, deviation: frechet.Moments(10**9, mean, np.diag(deviation**2) * (10**9 - 1))
by_code = frechet.frechet_distance(fit(np.zeros(3), s), fit(shift, r))
print(f"axis by axis {by_hand:.6f}, by the function {by_code:.6f}")
assert abs(by_hand - by_code) < 1e-6

# %% [markdown]
# ## Limit 1: the distance depends on the number of samples
#
# The covariance of $N$ samples is a noisy estimate, and the noise increases the distance: $d^2$ is biased upwards by
# about $c / N$. So a good model with 500 samples looks worse than a bad model with 5,000. Both models below are
# Gaussians in 64 dimensions, and the data are N(0, I). The good model is exact. The worse one has a standard deviation
# of 0.93, so its true distance is $64\, (1 - 0.93)^2 = 0.31$.

# %% tags=["picture"]
D = 64
reference = fit(np.zeros(D), np.ones(D))
sizes = np.array([200, 350, 700, 1500, 3000, 6000, 12000])
models = {"good (truth: 0)": 1.0, "worse (truth: 0.31)": 0.93}
curves = {
    name: [frechet.frechet_distance(moments(width * random.standard_normal((n, D))), reference) for n in sizes]
    for name, width in models.items()
}
figure, panels = plt.subplots(1, 2)
for name, curve in curves.items():
    panels[0].plot(sizes, curve, marker=".", label=name)
    panels[1].plot(1 / sizes, curve, marker=".", label=name)
panels[0].set(xlabel="samples N", ylabel="Fréchet distance", xscale="log", title="what is reported")
panels[1].set(
    xlabel="1 / N", ylabel="Fréchet distance", title="a line in 1 / N, whose intercept is the truth", xlim=(0, 0.0031)
)
panels[0].legend()
plt.show()
good, worse = curves.values()
assert good[2] > 2 * worse[-1], "700 samples of the good model look worse than 12,000 of the worse one"

# %% [markdown]
# Extrapolate to $N = \infty$ ([`metrics.extrapolation.extrapolate`](../../diffusion/metrics/extrapolation.py), Chong
# and Forsyth 2020), or compare models only at the same N. Also state the floor: the distance between two sets of N real
# examples.

# %%
for name, width in models.items():
    samples = width * random.standard_normal((12000, D))
    found = extrapolation.extrapolate(samples, reference, sizes=np.linspace(1000, 12000, 15).astype(int))
    measured = frechet.frechet_distance(moments(samples), reference)
    print(f"{name:20} at N = 12,000 {measured:.3f}, extrapolated {found.value:.3f}")
    truth = D * (1 - width) ** 2
    assert abs(found.value - truth) < 0.06

# %% [markdown]
# ## Limit 2: the distance sees only mean and covariance
#
# A Gaussian with the mean and the covariance of the data has distance zero, even if the data are far from Gaussian. The
# kernel distance (KID, [`metrics.kernel_distance.mmd2`](../../diffusion/metrics/kernel_distance.py)) also compares
# third moments if its kernel is cubic, and all moments if its kernel is Gaussian.

# %%
data = np.asarray(THREE_CLUSTERS.sample(jax.random.key(0), 4000), np.float64)
again = np.asarray(THREE_CLUSTERS.sample(jax.random.key(1), 4000), np.float64)
blob = random.multivariate_normal(data.mean(0), np.cov(data.T), 4000)
figure, panels = plt.subplots(1, 2, figsize=(6, 2.8), sharex=True, sharey=True)
for panel, (name, rows) in zip(panels, {"data": again, "a Gaussian of the same moments": blob}.items()):
    gap = kernel_distance.mmd2(kernel_distance.gaussian(0.5), rows, data)
    panel.scatter(*rows[:1500].T, s=2)
    panel.set(title=f"{name}\nFréchet {distance(rows, data):.4f}, kernel {gap.value:.4f}", xlabel="first axis")
panels[0].set_ylabel("second axis")
plt.show()
kernel = lambda rows: kernel_distance.mmd2(kernel_distance.gaussian(0.5), rows, data).value
assert distance(blob, data) < 0.02 and kernel(blob) > 10 * abs(kernel(again))

# %% [markdown]
# ## Limit 3: copies of the training set score best
#
# A model that copies its training set has a distance near zero to the training set. We split scikit-learn's digits into
# two halves: a training set and a held-out set. The "copies" are training digits with a little noise. The held-out
# digits, which are real, have a larger distance to the training set than the copies.

# %%
digits, labels = load_digits(return_X_y=True)
digits = digits / 16
order = random.permutation(len(digits))
train, held_out = digits[order[:900]], digits[order[900:]]
train_labels, held_out_labels = labels[order[:900]], labels[order[900:]]
copies = np.clip(train + 0.03 * random.standard_normal(train.shape), 0, 1)
for name, rows in {"copies of the training set": copies[:897], "held-out real digits": held_out}.items():
    share = memorisation.copied_by_ratio(rows, train)
    print(f"{name:28} distance to the training set {distance(rows, train):.3f}, copied {share.value:.0%}")
assert distance(copies, train) < distance(held_out, train)
assert (
    memorisation.copied_by_ratio(copies, train).value > 0.9 > 0.1 > memorisation.copied_by_ratio(held_out, train).value
)

# %% [markdown]
# So compare with held-out data if you can, and test for copies:
# [`metrics.memorisation.copied_by_ratio`](../../diffusion/metrics/memorisation.py) checks whether a sample is much
# nearer to one training example than to any other. `diffusion evaluate` does both for a run.
#
# ## Limit 4: the features decide which model wins
#
# The distance compares features, and every set of features ignores some differences. We corrupt digits in two ways.
# Either three pixels that are black in all data become bright (a viewer notices this at once, but can read every
# digit), or each digit is blended with another one (many digits become illegible). We measure both corruptions with
# pixels and with the features of a classifier (the linear discriminants of ten classes, which give no weight to pixels
# that never change).

# %%
lit = held_out.copy()
lit[:, [0, 32, 39]] = 1
blended = 0.62 * held_out + 0.38 * held_out[random.permutation(len(held_out))]
classifier = LinearDiscriminantAnalysis().fit(train, train_labels)
ratio = {}
for name, rows in {"three lit pixels": lit, "blended": blended}.items():
    pixels = distance(rows, train) / distance(held_out, train)
    features = distance(classifier.transform(rows), classifier.transform(train)) / distance(
        classifier.transform(held_out), classifier.transform(train)
    )
    ratio[name] = pixels, features
    print(f"{name:18} times the floor: pixels {pixels:5.1f}, classifier's features {features:5.1f}")
figure, panels = plt.subplots(3, 10, figsize=(7.5, 2.4))
for row, (name, rows) in zip(panels, {"real": held_out, "lit": lit, "blended": blended}.items()):
    for panel, image in zip(row, rows):
        panel.imshow(image.reshape(8, 8), cmap="gray_r")
        panel.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
plt.show()
(lit_pixels, lit_features), (blended_pixels, blended_features) = ratio.values()
assert lit_pixels > 2 * blended_pixels and blended_features > 2 * lit_features

# %% [markdown]
# With pixels as features, the digits with bright pixels are far worse than the blended ones. With the classifier's
# features, they are as good as real digits. Inception's features have blind spots too, since they were trained to
# distinguish the object classes of ImageNet.
#
# ## What to report
#
# - The protocol: features, N, reference set, resizing, guidance.
#   [`metrics.protocols.get`](../../diffusion/metrics/protocols.py) returns published protocols, and every figure of
#   this library states its protocol ([evaluation](../evaluation.md)).
# - The floor, a confidence interval, and more than one seed.
# - A second metric with other blind spots: KID, precision and recall, or a test for copies.
# - Samples, chosen at random.
#
# **Try it**: the floor is a random number too. Measure it for 100, 200 and 400 digits, on 20 random splits each. How do
# its mean and its standard deviation depend on N?

# %% tags=["solution"]
floors = {}
for n in (100, 200, 400):
    halves = [random.permutation(len(digits))[: 2 * n] for _ in range(20)]
    floors[n] = [distance(digits[rows[:n]], digits[rows[n:]]) for rows in halves]
    print(f"N = {n}: the floor is {np.mean(floors[n]):.3f} +- {np.std(floors[n]):.3f}")
assert np.mean(floors[100]) > 3 * np.mean(floors[400])  # about c / N

# %% [markdown]
# Next: [11. Your own objective](11_own_objective.ipynb)

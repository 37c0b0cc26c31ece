"""Three tasks of simulation-based inference with exact posteriors, and the two-sample test by a classifier.

Simulators, priors and the classifier follow Lueckmann et al. 2021, "Benchmarking Simulation-Based Inference".
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion.metrics import frechet


class Task(NamedTuple):
    """A prior, a simulator and the exact posterior.

    Attributes:
        prior: a function (rng, number) -> parameters `[number, D]`.
        simulate: a function (rng, parameters `[number, D]`) -> observations `[number, K]`.
        posterior: a function (rng, observation `[K]`, number) -> independent draws of the parameters `[number, D]`.
    """

    prior: Callable[[np.random.Generator, int], np.ndarray]
    simulate: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    posterior: Callable[[np.random.Generator, np.ndarray, int], np.ndarray]


def _box(bound: float, dims: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, number: rng.uniform(-bound, bound, (number, dims))


def _gaussian_prior(rng: np.random.Generator, number: int) -> np.ndarray:
    return math.sqrt(0.1) * rng.normal(size=(number, 10))


def _gaussian_simulator(rng: np.random.Generator, parameters: np.ndarray) -> np.ndarray:
    return parameters + math.sqrt(0.1) * rng.normal(size=parameters.shape)


def _gaussian_posterior(rng: np.random.Generator, observation: np.ndarray, number: int) -> np.ndarray:
    """Draws from N(x / 2, 0.05 I), since prior and noise have the same variance of 0.1."""
    return observation / 2 + math.sqrt(0.05) * rng.normal(size=(number, 10))


def _crescent(rng: np.random.Generator, number: int) -> np.ndarray:
    """Points `[number, 2]` near the half circle around (0.25, 0) from which the simulator starts."""
    angle, radius = rng.uniform(-math.pi / 2, math.pi / 2, number), rng.normal(0.1, 0.01, number)
    return np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], -1)


def _moons_simulator(rng: np.random.Generator, parameters: np.ndarray) -> np.ndarray:
    first, second = parameters.T / math.sqrt(2)
    return _crescent(rng, len(parameters)) + np.stack([-np.abs(first + second), second - first], -1)


def _moons_posterior(rng: np.random.Generator, observation: np.ndarray, number: int) -> np.ndarray:
    """Draws a point of the crescent, and solves for parameters that move it to the observation.

    The simulator reads the absolute value of the parameters' sum, so that both signs of the sum are solutions; one is
    chosen at random. The map from a point to its parameters has a constant determinant, and the prior is flat.
    Therefore a point is drawn again only if it has no solution, or if the chosen one lies outside of the prior.
    """

    def propose(size):
        point = _crescent(rng, size)
        total = (point[:, 0] - observation[0]) * rng.choice([-1.0, 1.0], size)
        difference = observation[1] - point[:, 1]
        parameters = np.stack([total - difference, total + difference], -1) / math.sqrt(2)
        return parameters[(point[:, 0] >= observation[0]) & (np.abs(parameters) <= 1).all(1)]

    return _accepted(propose, number)


def _slcp_simulator(rng: np.random.Generator, parameters: np.ndarray) -> np.ndarray:
    """Four points from a Gaussian in the plane.

    The parameters are two means, two roots of the standard deviations, and the atanh of the correlation.
    """
    scale, correlation = parameters[:, 2:4] ** 2, np.tanh(parameters[:, 4])
    noise = rng.normal(size=(len(parameters), 4, 2))
    second = correlation[:, None] * noise[..., 0] + np.sqrt(1 - correlation[:, None] ** 2) * noise[..., 1]
    points = parameters[:, None, :2] + scale[:, None] * np.stack([noise[..., 0], second], -1)
    return points.reshape(-1, 8)


def _slcp_posterior(rng: np.random.Generator, observation: np.ndarray, number: int) -> np.ndarray:
    """Draws from the posterior by rejection.

    With a flat prior of the mean, the covariance C has the density |C|^(-3/2) exp(-tr(C^-1 A) / 2), where A is the
    scatter matrix of the four points; it is largest at C = A / 3. For a given C, the mean has the distribution
    N(mean of the points, C / 4). Draws outside of the prior are rejected too.
    """
    points = observation.reshape(4, 2)
    centre = points.mean(0)
    scatter = (points - centre).T @ (points - centre)
    largest = -1.5 * math.log(np.linalg.det(scatter / 3)) - 3

    def propose(size):
        shape = rng.uniform(-3, 3, (size, 3))
        scale, correlation = shape[:, :2] ** 2, np.tanh(shape[:, 2])
        left = 1 - correlation**2
        with np.errstate(divide="ignore", invalid="ignore"):  # a scale of 0 gives NaN, which is rejected below
            squares = (np.diag(scatter) / scale**2).sum(1)
            trace = (squares - 2 * correlation * scatter[0, 1] / scale.prod(1)) / left
            density = -1.5 * (2 * np.log(scale.prod(1)) + np.log(left)) - trace / 2
        keep = np.log(rng.uniform(size=size)) < density - largest
        shape, scale, correlation, left = shape[keep], scale[keep], correlation[keep], left[keep]
        noise = rng.normal(size=(len(shape), 2))
        turned = np.stack([noise[:, 0], correlation * noise[:, 0] + np.sqrt(left) * noise[:, 1]], -1)
        mean = centre + scale * turned / 2
        return np.concatenate([mean, shape], 1)[(np.abs(mean) <= 3).all(1)]

    return _accepted(propose, number)


def _accepted(propose: Callable[[int], np.ndarray], number: int) -> np.ndarray:
    """The first `number` accepted rows; proposals are made until there are enough."""
    size = min(50 * number, 200_000)
    accepted = [propose(size)]
    while sum(map(len, accepted)) < number:
        accepted.append(propose(size))
    return np.concatenate(accepted)[:number]


TASKS = {
    "two_moons": Task(_box(1, 2), _moons_simulator, _moons_posterior),
    "gaussian_linear": Task(_gaussian_prior, _gaussian_simulator, _gaussian_posterior),
    "slcp": Task(_box(3, 5), _slcp_simulator, _slcp_posterior),
}


def classifier_accuracy(truth: np.ndarray, samples: np.ndarray) -> float:
    """The classifier two-sample test, C2ST: the share of draws that a classifier assigns to the right set.

    The share is 0.5 if the sets cannot be distinguished, and 1 if they always can. The classifier is a perceptron with
    two hidden layers of width 10 D and ReLUs. It is cross-validated over five folds, after both sets were standardised
    by the mean and standard deviation of the exact draws.

    Args:
        truth: draws of the exact posterior, `[N, D]`.
        samples: draws of a model, `[N, D]`.

    Returns:
        The mean accuracy over the folds, in [0, 1].

    Paper:
        Lueckmann et al. 2021, "Benchmarking Simulation-Based Inference"; the settings of its `metrics/c2st.py`.
    """
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    mean, deviation = truth.mean(0), truth.std(0, ddof=1)
    rows = (np.concatenate([truth, samples]) - mean) / deviation
    labels = np.repeat([0, 1], [len(truth), len(samples)])
    width = 10 * truth.shape[1]
    classifier = MLPClassifier((width, width), activation="relu", solver="adam", max_iter=10_000, random_state=1)
    folds = KFold(n_splits=5, shuffle=True, random_state=1)
    with frechet.one_thread():  # the matrix products are small, so that two threads would mostly wait for each other
        return float(cross_val_score(classifier, rows, labels, cv=folds, scoring="accuracy").mean())

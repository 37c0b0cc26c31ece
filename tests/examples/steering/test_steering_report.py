"""The report of steering: its tilted law, what its ways may spend, its densities, and the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.io import opener
from examples.steering import constants, equal_evaluations, report
from tests import commands


def test_the_tilted_law_is_the_mixture_times_the_reward():
    """The ratio of densities at three points is that of the rewards' exponentials."""

    def density(mixture, x):
        away = x[:, None] - mixture.means
        inverse = np.linalg.inv(mixture.covariance)
        power = -np.einsum("nki,ij,nkj->nk", away, inverse, away) / 2
        return np.exp(power) @ mixture.weights / np.linalg.det(mixture.covariance) ** 0.5

    x = np.array([[0.5, 0.3], [1.0, 1.2], [0.0, -0.4]])
    ratio = density(equal_evaluations.TILTED, x) / density(equal_evaluations.MIXTURE, x)
    rewards = np.exp(np.asarray(equal_evaluations.log_reward(jnp.asarray(x))))
    np.testing.assert_allclose(ratio / ratio[0], rewards / rewards[0], rtol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("name", equal_evaluations.WAYS)
def test_no_way_takes_more_evaluations_than_it_may(name, monkeypatch):
    """Counted at run time; an evaluation with its derivative counts as three."""
    calls = []
    plain = equal_evaluations.DENOISE

    def counted(x, t):
        jax.debug.callback(lambda x: calls.append(len(x)), x)
        return plain(x, t)

    monkeypatch.setattr(equal_evaluations, "DENOISE", counted)
    budget = 160
    run = equal_evaluations.WAYS[name](budget)
    keys = jax.random.split(jax.random.key(0), 2)
    jax.block_until_ready(run(jnp.ones((2, 2)), keys))
    jax.effects_barrier()
    factor = equal_evaluations.DERIVATIVE if name == "gradient guidance" else 1
    spent = sum(calls) * factor / 2
    if name == "noise optimisation":
        spent = (sum(calls) / 2 - 40) * equal_evaluations.DERIVATIVE + 20  # the last value and sample are one call
    least = 0 if name == "rejection" else 0.5 * budget  # it ends with its last accepted sample
    assert least < spent <= budget + equal_evaluations.STEPS  # a search samples its best noise once more


@pytest.mark.parametrize(
    "name, least",
    [
        ("best of N", 40),  # a sample takes 20
        ("search near the best noise", 80),  # the first one and three trials
        ("search over paths", 40),
        ("noise optimisation", 80),  # a derivative of a sample takes 60, and the last sample 20
        ("particles (SMC)", 40),
        ("rejection", 40),
    ],
)
def test_a_way_begins_where_its_first_choice_is_paid(name, least):
    way = equal_evaluations.WAYS[name]
    assert way(least) is not None and way(least - 1) is None


def test_estimates_are_of_rows_of_weights():
    """Equal weights are all of their number, and one among four a quarter; their means are 2, 1 / 2 and 3."""
    weights = np.array([[2.0, 2, 2, 2], [0, 2, 0, 0], [3, 3, 3, 3]])
    with np.errstate(divide="ignore"):
        estimates = constants.estimates_of(jnp.asarray(np.log(weights), jnp.float32))
    np.testing.assert_allclose(np.exp(estimates.log_normalisers), [2, 0.5, 3], rtol=1e-5)
    assert estimates.effective == pytest.approx((1 + 1 / 4 + 1) / 3)


@pytest.mark.parametrize("name", constants.DENSITIES)
def test_a_unit_leaves_the_integral(name):
    """By the change of variables at a point."""
    density = constants.DENSITIES[name]
    target = constants.unit(density)
    x = np.full((1, *target.shape), 0.3, np.float32)
    expected = density.target.log_density(density.scale * x) + x.size * np.log(density.scale)
    np.testing.assert_allclose(target.log_density(x), expected, rtol=1e-5)
    assert target.log_normaliser == density.target.log_normaliser


@pytest.mark.slow
def test_the_report_has_every_method(tmp_path):
    """It measures one density by all of them, and takes the other densities from an earlier report."""
    row = {method: {"error": 0.5, "effective": 0.25} for method in constants.METHODS}
    known = {name: row for name in constants.DENSITIES if name != "funnel"}
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"constants": known, "protocol": {"git_commit": "abc"}}))
    done = commands.run(
        "-m", "examples.steering.report", f"--out={tmp_path}", "--most=80", "--number=100",
        "--density_evaluations=8192", f"--known={earlier}", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = opener.read_table(tmp_path / "report.json")
    assert set(content["rewards"]) == {"the tilted law", "the model", *equal_evaluations.WAYS}
    assert set(content["constants"]) == set(constants.DENSITIES) and content["known"] == "abc"
    assert all(set(row) == set(constants.METHODS) for row in content["constants"].values())
    assert {name: content["constants"][name] for name in known} == known
    assert all(cell != row["log-variance"] for cell in content["constants"]["funnel"].values())
    assert (tmp_path / "rewards.png").is_file() and report.TITLE in (tmp_path / "report.md").read_text()

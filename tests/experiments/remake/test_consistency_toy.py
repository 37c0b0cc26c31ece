"""What each training is, and the claims from distances by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules
from diffusion.experiments.remake import consistency_toy as toy
from diffusion.training.step import example_keys


def loss_and_pairs(name, target=0.0):
    """Losses at step 0 of a network that is 1 everywhere, beside a target of another value, and the pairs' noises."""
    constant = lambda value: lambda x, clock, condition: jnp.full_like(x, value)
    rows, keys = {"x": jnp.zeros((64, 2))}, example_keys(jax.random.key(0), 0, jnp.arange(64))
    networks = {"model": constant(1.0), "target": constant(target)}
    losses, facts = toy.setting(name, 80).objective.loss(networks, schedules.edm(), keys, rows, 0)
    return np.asarray(losses), 80 * np.asarray(facts["t"], np.float64), 80 * np.asarray(facts["s"], np.float64)


@pytest.mark.extended
@pytest.mark.parametrize("name", toy.REMAKE.parts)
def test_pairs_are_neighbours_among_the_noises_of_a_setting(name):
    """Karras's values from 0.002 to 80, 11 of them at the start of iCT and 18 where they are fixed."""
    number = 18 if name == toy.FIXED else 11
    levels = (0.002 ** (1 / 7) + np.arange(number) / (number - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    _, t, s = loss_and_pairs(name)
    upper = np.argmin(np.abs(np.log(levels)[None] - np.log(t)[:, None]), 1)
    np.testing.assert_allclose(t, levels[upper], rtol=1e-3)
    np.testing.assert_allclose(s, levels[upper - 1], rtol=1e-3)


@pytest.mark.extended
@pytest.mark.parametrize("name", toy.REMAKE.parts)
def test_the_average_is_the_teacher_of_one_training_alone(name):
    changed = (loss_and_pairs(name, 0.0)[0] != loss_and_pairs(name, 5.0)[0]).mean()
    assert changed > 0.5 if name == toy.AVERAGE else changed == 0


def test_the_rate_of_the_average():
    assert toy.setting(toy.IMPROVED, 80).rate is None
    assert toy.setting(toy.AVERAGE, 80).rate(0) == pytest.approx(0.9 ** (2 / 11), rel=1e-6)


class Constant:
    """A network of one parameter, its output."""

    def __init__(self, dims, width=0):
        self.dims = dims

    def init(self, key, x, clock):
        return jnp.ones(())

    def apply(self, params, x, clock, condition=None):
        return jnp.broadcast_to(params, (len(x), self.dims))


@pytest.mark.parametrize("rate", [None, 0.75])
def test_the_teacher_follows_the_student_at_its_rate(monkeypatch, rate):
    """The student's gradient is the teacher's value; the step k of 4 has the rate (1 + cos(pi k / 4)) / 2000."""

    def loss(networks, schedule, keys, batch, step):
        x, clock = batch["x"], jnp.zeros(len(batch["x"]))
        model, target = (networks[name](x, clock, None).mean(1) for name in ("model", "target"))
        return model * jax.lax.stop_gradient(target), {}

    monkeypatch.setattr(toy, "ReLUNet", Constant)
    monkeypatch.setattr(toy.optax, "adam", toy.optax.sgd)
    chosen = toy.Setting(objectives.Objective(loss), None if rate is None else lambda step: rate)
    student = teacher = 1.0
    for k in range(4):
        student -= 1e-3 * (1 + np.cos(np.pi * k / 4)) / 2 * teacher
        teacher = teacher if rate is None else rate * teacher + (1 - rate) * student
    assert float(toy.train(jax.random.key(0), chosen, 4)) == pytest.approx(student, abs=2e-7)


def test_samples_are_drawn_from_one_noise_and_from_two(monkeypatch):
    sigmas = []

    def sample(sampler, to_end, schedule, start, plan, keys):
        sigmas.append(np.asarray(schedule.sigma(plan.t)).tolist())
        return start

    monkeypatch.setattr(toy.samplers, "sample", sample)
    toy.draws({}, jax.random.key(0))
    assert sigmas == [pytest.approx([80]), pytest.approx([80, toy.TWO_STEPS])]


def test_the_claims_of_distances_by_hand():
    noise = np.array([0.0, 0.01, -0.01, 0.02])
    distances = dict(zip(toy.REMAKE.parts, (1.0, 2.0, 1.0, 0.5, 1.5), strict=True))
    values = {
        toy.VALUE.format(part, seed, steps): distance * (0.8 if steps == "two steps" else 1) + noise[seed]
        for part, distance in distances.items()
        for seed in range(toy.SEEDS)
        for steps in ("one step", "two steps")
    }
    claims = toy.conclude(values)
    assert {name for name, holds in claims.items() if holds} == {
        toy.WORSE.format(toy.AVERAGE), toy.WORSE.format(toy.FIXED), toy.SECOND
    }  # fmt: skip
    assert set(claims) == {published.figure for published in toy.REMAKE.published}


@pytest.mark.extended
def test_a_part_has_the_distances_of_both_samplers_to_new_data(monkeypatch):
    """From a point p to data of mean m and variance v it is |p - m|^2 + v; the moons are symmetric about m."""
    trained = []

    def train(key, chosen, steps):
        trained.append((chosen.rate is None, steps))
        return jax.random.uniform(key)

    monkeypatch.setattr(toy, "POINTS", 60)
    monkeypatch.setattr(toy, "train", train)
    monkeypatch.setattr(toy, "draws", lambda params, key: (jnp.zeros((60, 2)) + params, jnp.full((60, 2), 30.0)))
    values = toy.measure(toy.AVERAGE, False)
    assert trained == [(False, toy.STEPS)] and values["one"].shape == (60, 2) and (values["two"] == 30).all()
    ends = values["one"][0, 0]
    center = 0.3 * (3 * np.array([0.6, 0.35]) - 1)
    spread = 0.9**2 * (1 / 2 + 1 / 4 + 1 / 2 - (2 / np.pi) ** 2 + (2 / np.pi - 1 / 4) ** 2 + 2 / 300)
    for seed in range(toy.SEEDS):
        one, two = (values[toy.VALUE.format(toy.AVERAGE, seed, steps)] for steps in ("one step", "two steps"))
        assert two == pytest.approx(((30 - center) ** 2).sum(), rel=0.02)
        if not seed:
            assert one == pytest.approx(((ends - center) ** 2).sum() + spread, abs=0.15)


def test_the_picture_has_one_step_above_two():
    rng = np.random.default_rng(0)
    clouds = [{"one": rng.uniform(-1, 1, (5, 2)), "two": rng.uniform(-1, 1, (5, 2))} for _ in range(2)]
    parts = {}
    for part, cloud, shift in zip(("iCT", toy.FIXED), clouds, (0, 10)):
        seeds = {("one step", seed): 1 + seed + shift for seed in range(toy.SEEDS)}
        seeds |= {("two steps", seed): 2 + seed + shift for seed in range(toy.SEEDS)}
        parts[part] = cloud | {toy.VALUE.format(part, seed, steps): v for (steps, seed), v in seeds.items()}
    axes = np.reshape(toy.draw(parts).axes, (2, 2))
    for column, cloud in zip(axes.T, clouds):
        for panel, points in zip(column, cloud.values(), strict=True):
            assert not len(panel.get_xticks()) and not len(panel.get_yticks())
            np.testing.assert_array_equal(panel.collections[0].get_offsets(), points)
    titles = [[panel.get_title() for panel in row] for row in axes]
    assert titles == [["iCT\none step: 2.5", f"{toy.FIXED}\none step: 12"], ["\ntwo steps: 3.5", "\ntwo steps: 14"]]


@pytest.mark.slow
@pytest.mark.parametrize("part", toy.REMAKE.parts)
def test_a_quick_part_measures_each_seed(part):
    values = toy.measure(part, True)
    assert values["one"].shape == values["two"].shape == (toy.POINTS, 2)
    assert all(0 < values[toy.VALUE.format(part, seed, "one step")] < 1e4 for seed in range(toy.SEEDS))

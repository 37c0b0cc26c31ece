"""The discriminator's loss, the figures and the claims by hand, and the cost of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.remake import gan_digits as toy


def test_the_loss_of_a_linear_discriminator_by_hand():
    """D(x) = x_1 + 2 x_2 has a squared slope of 5."""
    discriminate = lambda x: x @ jnp.array([1.0, 2.0])
    real, fake = jnp.array([[1.0, 1.0], [0.0, 0.5]]), jnp.array([[-1.0, 0.0], [0.0, 0.0]])
    expected = np.mean([np.log1p(np.exp(-3)) + np.log1p(np.exp(-1)), np.log1p(np.exp(-1)) + np.log(2)]) + 0.3 / 2 * 5
    assert toy.discriminator_loss(discriminate, real, fake, 0.3) == pytest.approx(expected, rel=1e-6)


def test_the_figures_of_digits_that_are_known():
    data, held_out = toy.digits()
    repeated = toy.figures(data[: len(held_out)])
    assert repeated[toy.DISTANCE] == 1 and repeated[toy.NEAREST] == 0
    perfect = toy.figures(held_out)
    assert perfect[toy.DISTANCE] == pytest.approx(0, abs=1e-9)
    assert perfect[toy.PRECISION] == perfect[toy.RECALL] == perfect[toy.NEAREST] == 1
    one = toy.figures(np.repeat(held_out[:1], len(held_out), 0))
    assert one[toy.RECALL] < 0.05 and one[toy.PRECISION] == 1 and one[toy.DISTANCE] > 10


def test_the_claims_of_figures_by_hand():
    """The GAN of weight 1 is the best one; diffusion is better, and flow no better, and no worse by its short runs."""
    noise = np.array([0.0, 0.01, -0.01, 0.02])
    names = (*toy.GANS, toy.DIFFUSION, toy.FLOW, *(toy.SHORT.format(name) for name in (toy.DIFFUSION, toy.FLOW)))
    distances = dict(zip(names, (6, 4, 5, 2, 4, 3, 4.5), strict=True))
    recalls = dict(zip(names, (0.9, 0.3, 0.8, 0.7, 0.3, 0, 0), strict=True))
    values = {}
    for name in names:
        for seed in range(toy.SEEDS):
            values[toy.VALUE.format(name, seed, toy.DISTANCE)] = distances[name] + noise[seed]
            values[toy.VALUE.format(name, seed, toy.RECALL)] = recalls[name] + noise[::-1][seed]
    claims = toy.conclude(values)
    holding = {claim.format(toy.DIFFUSION) for claim in (toy.BETTER, toy.FAST, toy.COVERS)}
    assert {name for name, holds in claims.items() if holds} == holding
    assert set(claims) == {published.figure for published in toy.REMAKE.published}


def test_the_cost_of_a_step_leaves_out_what_is_computed_once():
    """A product of 8 x 8 matrices has 8^3 multiplications and as many additions; here is one at the start."""

    def training(key, steps, factor):
        x = jax.random.normal(key, (8, 8))
        x = x @ x
        for _ in range(steps):
            x = x @ (factor * x)
        return x

    assert toy.step_cost(training, 1.0) == pytest.approx(2 * 8**3, rel=0.15)


@pytest.mark.extended
def test_both_kinds_train_at_one_cost_and_are_measured_over_all_seeds(monkeypatch):
    """A GAN's step costs three of a denoiser's; the first sampler returns held-out digits, the second training ones."""
    digits, trained, sampled = toy.digits(), [], []

    def denoised(params, key, process, number, solver_steps):
        sampled.append(solver_steps)
        return jnp.asarray(digits[1 if len(sampled) == 1 else 0][:number])

    def train_denoiser(key, steps, process):
        trained.append(steps)
        return jnp.zeros(())

    monkeypatch.setattr(toy, "train_denoiser", train_denoiser)
    monkeypatch.setattr(toy, "step_cost", lambda training, *unused: 2.0 if training is train_denoiser else 6.0)
    monkeypatch.setattr(toy, "denoised", denoised)
    values = toy.measure(toy.FLOW, False)
    assert trained == [3 * toy.GAN_STEPS] == [values[f"{toy.FLOW}: steps"]] and sampled == [40, 13]
    for seed in range(toy.SEEDS):
        assert values[toy.VALUE.format(toy.FLOW, seed, toy.RECALL)] == 1
        assert values[toy.VALUE.format(toy.SHORT.format(toy.FLOW), seed, toy.NEAREST)] == 0
    np.testing.assert_array_equal(values["samples"], digits[1][:10])


@pytest.mark.extended
def test_the_penalty_of_a_gan_is_that_of_its_name(monkeypatch):
    """Without weights a generator makes zeros of any noise, and its samples repeat."""
    seen = []

    def train_gan(key, steps, penalty):
        seen.append((steps, penalty))
        return jax.tree.map(jnp.zeros_like, toy.ReLUNet(64, toy.WIDTH).init(key, jnp.zeros((1, 64)), jnp.zeros(1)))

    monkeypatch.setattr(toy, "train_gan", train_gan)
    values = toy.measure(toy.GANS[1], False)
    assert seen == [(toy.GAN_STEPS, 1.0)] and values[f"{toy.GANS[1]}: steps"] == toy.GAN_STEPS
    assert values["samples"].shape == (10, 64) and not values["samples"].any()
    assert {name for name in values if "seed" in name} == {
        toy.VALUE.format(toy.GANS[1], seed, figure)
        for seed in range(toy.SEEDS)
        for figure in (toy.DISTANCE, toy.PRECISION, toy.RECALL, toy.NEAREST)
    }


def test_both_players_step_in_turn_and_the_generators_average_is_returned(monkeypatch):
    """D(x) = w x_1 and G(z) = g, at data of 1/2: both losses and their slopes by hand, the generator's on the new D."""

    class Linear:
        def __init__(self, dims, width):
            self.dims = dims

        def init(self, key, x, clock):
            return jnp.float32(1.0 if self.dims == 1 else 2.0)

        def apply(self, params, x, clock):
            return params * x[:, :1] if self.dims == 1 else jnp.full((len(x), 64), 1.0) * params

    def adam(rate, b1, b2):
        assert (b1, b2) == (0, 0.99)
        return toy.optax.sgd(1e3 * rate)

    monkeypatch.setattr(toy, "ReLUNet", Linear)
    monkeypatch.setattr(toy.optax, "adam", adam)
    monkeypatch.setattr(toy, "draw_batch", lambda key: jnp.full((toy.BATCH, 64), 0.5))
    logistic = lambda x: 1 / (1 + np.exp(-x))
    w, g, average = 1.0, 2.0, 2.0
    for _ in range(3):
        w -= -0.5 * logistic(-0.5 * w) + g * logistic(w * g) + 0.3 * w
        g += w * logistic(-w * g)
        average += (g - average) / 1000
    assert float(toy.train_gan(jax.random.key(0), 3, 0.3)) == pytest.approx(average, rel=1e-5)


def test_the_cost_of_a_step_is_that_of_one_minus_that_of_none():
    def training(key, steps, other):
        a = jnp.tile(jax.random.bits(key, dtype=jnp.uint32).astype(jnp.float32), (32, 32))
        for _ in range(steps):
            a = a @ a
        return a.sum() * other

    assert toy.step_cost(training, 3.0) == pytest.approx(2 * 32**3, rel=0.03)  # and the sum


@pytest.mark.extended
def test_a_denoiser_trains_on_digits_at_a_rate_that_falls_to_zero(monkeypatch):
    """Adam's first step is the rate itself; half of the cosine is left in the middle."""

    def train(objective, schedule, apply, params, optimizer, batch, steps, key):
        assert batch(key)["x"].shape == (toy.BATCH, 64) and objective is process.objective
        state, slopes = optimizer.init(jnp.zeros(())), []
        for _ in range(steps):
            change, state = optimizer.update(jnp.ones(()), state)
            slopes.append(float(change))
        return slopes

    monkeypatch.setattr(toy, "train", train)
    process = toy.process(toy.DIFFUSION)
    changes = toy.train_denoiser(jax.random.key(0), 4, process)
    np.testing.assert_allclose(changes, [-1e-3 * (1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)], rtol=1e-4)
    assert toy.train_denoiser(jax.random.key(0), 0, process) == []
    assert process.schedule.sigma(process.grid(3)[0]) == pytest.approx(80)
    zero, one = jnp.zeros((1, 2)), jnp.ones((1, 2))
    skip = process.parameterization.to_prediction(process.schedule, jnp.array(1.0), one, zero)
    deviation = toy.digits()[0].std()
    np.testing.assert_allclose(skip.x0, deviation**2 / (deviation**2 + 80**2), rtol=1e-4)


@pytest.mark.extended
def test_batches_are_of_training_digits_and_a_flow_of_no_velocity_keeps_its_noise():
    data, batch = toy.digits()[0], np.asarray(toy.draw_batch(jax.random.key(0)))
    assert batch.shape == (toy.BATCH, 64) and len(np.unique(batch, axis=0)) > 50
    assert all((data == row).all(1).any() for row in batch)
    shapes = jax.eval_shape(toy.ReLUNet(64, toy.WIDTH).init, jax.random.key(0), jnp.zeros((1, 64)), jnp.zeros(1))
    params, process = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes), toy.process(toy.FLOW)
    noise = toy.samplers.prior(process.schedule, jax.random.split(jax.random.key(1), 5), (64,))
    np.testing.assert_allclose(toy.denoised(params, jax.random.key(1), process, 5, 2), noise, atol=1e-6)


def test_digits_are_drawn_in_the_range_of_the_data_with_gaps_of_paper():
    samples = np.linspace(-2, 2, 640).reshape(10, 64)
    parts = {}
    for name in (toy.GANS[0], toy.FLOW):
        parts[name] = {"samples": samples, f"{name}: steps": 3.0}
        for what in (toy.DISTANCE, toy.PRECISION, toy.RECALL, toy.NEAREST):
            parts[name] |= {toy.VALUE.format(name, seed, what): 0.5 for seed in range(toy.SEEDS)}
    for axes in toy.draw(parts).axes:
        assert not len(axes.get_xticks()) and not len(axes.get_yticks())
        (image,) = axes.images
        drawn = np.asarray(image.get_array()).reshape(8, 10, 9)
        np.testing.assert_array_equal(drawn[:, :, :8].transpose(1, 0, 2).reshape(10, 64), np.clip(samples, -1, 1))
        assert (drawn[:, :, 8] == -1).all() and image.get_clim() == (-1, 1)


@pytest.mark.slow
def test_the_cost_of_a_step_of_a_denoiser_by_hand():
    """Six operations for a weight and an example, but four for the first layer, whose input has no gradient."""
    first, others = 65 * toy.WIDTH, 3 * toy.WIDTH**2 + toy.WIDTH * 64
    counted = toy.step_cost(toy.train_denoiser, toy.process(toy.FLOW))
    assert counted == pytest.approx(toy.BATCH * (4 * first + 6 * others), rel=0.25)
    assert 3 < toy.step_cost(toy.train_gan, 1.0) / counted < 6


@pytest.mark.slow
@pytest.mark.parametrize("part", toy.REMAKE.parts)
def test_a_quick_part_measures_all_its_figures(part):
    values = toy.measure(part, True)
    assert np.isfinite([values[toy.VALUE.format(part, seed, toy.DISTANCE)] for seed in range(toy.SEEDS)]).all()
    assert values["samples"].shape == (10, 64)

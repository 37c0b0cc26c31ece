"""Steering from a config: drivers that replace `samplers.sample`, most of which use measured pictures or a reward.

Each function returns a driver: (sampler=, denoise=, schedule=, x=, plan=, keys=) -> x at the end of the plan,
with the signature of `samplers.sample`. A particle driver returns (x, `Weighed`), and rejection returns (x, `Tried`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffusion import guidance, samplers
from diffusion.arrays.not_a_number import nan_unless
from diffusion.guidance.measurements import Measurement
from diffusion.sampling import steering
from diffusion.sampling.steering.noise_search import Generate
from diffusion.sampling.steering.twists import LogReward
from diffusion.schedules import NoiseSchedule
from diffusion.schedules.noise_schedule import prior_std

Driver = Callable[..., Any]


class Weighed(NamedTuple):
    """How the particles of a batch of samples were weighed: means over its groups.

    Attributes:
        effective_size: effective sample size before each resampling `[]`, from 1 to the number of particles.
        log_normaliser: logarithm of the estimate of the normalising constant `[]`.
    """

    effective_size: Any
    log_normaliser: Any
    title = "particles"
    undefined = "so the particles' weights mean nothing. Valid: a reward that is finite for each sample"

    def sentence(self) -> str:
        """The means in words."""
        return (
            f"particles of a sample: effective size {self.effective_size:.2f}, log of the normalising constant "
            f"{self.log_normaliser:.4g}, means over samples"
        )


class Tried(NamedTuple):
    """How often the samples of a batch were drawn until they were accepted: means over the batch.

    Attributes:
        trials: number of trials of a sample `[]`.
        log_normaliser: logarithm of the estimate of the normalising constant `[]`; NaN where a sample was not accepted,
            or has a reward that is above the bound or no number.
    """

    trials: Any
    log_normaliser: Any
    title = "rejection"
    undefined = (
        "so some sample was accepted in none of its trials, or has a reward that is above the bound or no number. "
        "Valid: more trials, a larger beta, or the reward's upper bound"
    )

    def sentence(self) -> str:
        """The means in words."""
        return (
            f"rejection: {self.trials:.2f} trials of a sample, log of the normalising constant "
            f"{self.log_normaliser:.4g}, means over samples"
        )


def numbering(numbers: type) -> Callable[[Callable], Callable]:
    """A decorator of drivers that return other numbers about a batch than `Weighed`.

    Args:
        numbers: a NamedTuple of two numbers `[]` with the attributes of `Weighed`: the `title` under which samples.json
            holds their means over the batches, `undefined`, which says what it means if one is not finite, and
            `sentence`, which the command prints.
    """

    def attach(driver: Callable) -> Callable:
        driver.numbers = numbers  # type: ignore[attr-defined]
        return driver

    return attach


def ddrm(measurement: Measurement, y: Array, noise_std: float = 0.0, eta: float = 0.85, eta_b: float = 1.0) -> Driver:
    """`steering.ddrm` along the plan; the config's sampler is not used.

    Args:
        measurement: the operator A with the field `filtered`.
        y: the measurements `[B, ...]` of the samples.
        noise_std: standard deviation of the noise in y, >= 0.
        eta: share of fresh noise in the directions where y is missing or noisier than x_s, in [0, 1].
        eta_b: share of the measured value in the other directions, in [0, 1].
    """
    steered = steering.ddrm(measurement, y, noise_std, eta, eta_b)
    return lambda sampler, **arguments: samplers.sample(steered, **arguments)


def daps(measurement: Measurement, y: Array, noise_std: float = 0.0, steps: int = 1, data_std: float = 1.0) -> Driver:
    """`steering.daps` with `steering.gaussian_draw`, which is exact; the config's sampler is not used.

    Args:
        measurement: the linear operator A.
        y: the measurements `[B, ...]` of the samples.
        noise_std: standard deviation of the noise in y, >= 0.
        steps: number of DDIM steps that compute an estimate of x0, >= 1.
        data_std: standard deviation of the data, > 0.
    """
    draw = steering.gaussian_draw(measurement, y, noise_std)
    return lambda sampler, denoise, schedule, x, plan, keys: steering.daps(
        denoise, schedule, x, plan, keys, draw, steps=steps, data_std=data_std
    )


def red_diff(log_reward: LogReward, learning_rate: float = 0.1, scale: float = 0.25) -> Driver:
    """`steering.red_diff` by Adam, starting at zeros; the config's sampler is not used.

    Args:
        log_reward: x `[B, ...]` -> reward `[B]`, which serves as the log-likelihood log p(y | x).
        learning_rate: learning rate of Adam, > 0.
        scale: weight of the network's residual, >= 0.
    """
    _check_rate("red_diff", learning_rate)
    optimizer = optax.adam(learning_rate, b2=0.99)
    return lambda sampler, denoise, schedule, x, plan, keys: steering.red_diff(
        denoise, schedule, log_reward, jnp.zeros_like(x), plan, keys, optimizer, scale=scale
    )


def twisted(log_reward: LogReward, number: int, beta: float = 1.0, pull: float = 0.0) -> Driver:
    """`steering.twisted` with groups of `number` particles; each sample is one draw from its group.

    Args:
        log_reward: x `[B, ...]` -> reward `[B]`.
        number: number of particles for a sample, >= 1.
        beta: temperature of the reward, > 0.
        pull: scale of the reward's gradient in the proposal, as in `guidance.posterior_sampling`; 0: no gradient.
    """
    tempered = _tempered("twisted", log_reward, number, beta)

    def drive(sampler, denoise, schedule, x, plan, keys):
        _check_plain("twisted", denoise)
        pulled = guidance.posterior_sampling(denoise, schedule, tempered, pull) if pull else None
        proposal = None if pulled is None else _each_particle(pulled, number)
        arguments, draws = _particle_arguments(sampler, denoise, schedule, x, keys, number)
        twist = steering.tilt(_over_particles(tempered, number))
        particles = steering.twisted(plan=plan, twist=twist, proposal=proposal, **arguments)
        return _drawn(particles, draws)

    return drive


def das(log_reward: LogReward, number: int, beta: float = 1.0, gamma: float | None = None) -> Driver:
    """`steering.das` with groups of `number` particles; each sample is one draw from its group.

    Args:
        log_reward: x `[B, ...]` -> reward `[B]`, differentiable.
        number: number of particles for a sample, >= 1.
        beta: temperature of the reward, > 0.
        gamma: rate of the tempering, > 0; None: the rate at which it ends at 1.
    """
    tempered = _tempered("das", log_reward, number, beta)

    def drive(sampler, denoise, schedule, x, plan, keys):
        _check_plain("das", denoise)
        arguments, draws = _particle_arguments(sampler, denoise, schedule, x, keys, number)
        reward = _over_particles(tempered, number)
        return _drawn(steering.das(plan=plan, log_reward=reward, gamma=gamma, **arguments), draws)

    return drive


def searched_paths(log_reward: LogReward, number: int, width: int = 1) -> Driver:
    """The best sample of `steering.searched_paths`.

    Args:
        log_reward: x `[B, ...]` -> reward `[B]`.
        number: number of candidates for a sample, >= 1.
        width: number of candidates that survive a step, >= 1; it divides `number`.
    """
    tempered = _tempered("searched_paths", log_reward, number, 1.0)

    def drive(sampler, denoise, schedule, x, plan, keys):
        _check_plain("searched_paths", denoise)
        arguments, _ = _particle_arguments(sampler, denoise, schedule, x, keys, number)
        reward = _over_particles(tempered, number)
        return steering.searched_paths(plan=plan, log_reward=reward, width=width, **arguments)[0]

    return drive


@numbering(Tried)
def rejected(log_reward: LogReward, beta: float = 1.0, bound: float = 0.0, trials: int = 1000) -> Driver:
    """`steering.rejected` of the sampler's samples.

    Args:
        log_reward: x `[B, ...]` -> reward `[B]`.
        beta: temperature of the reward, > 0.
        bound: the upper bound of the reward; `near_value` and the likelihood of measured pictures have 0.
        trials: largest number of trials for a sample, >= 1.
    """
    tempered = _tempered("rejected", log_reward, 1, beta)

    def drive(sampler, denoise, schedule, x, plan, keys):
        def draw(keys):
            starts, walks = jax.vmap(jax.random.split, out_axes=1)(keys)
            noise = samplers.prior(schedule, starts, x.shape[1:])
            return samplers.sample(sampler, denoise, schedule, noise, plan, walks)

        outcome = steering.rejected(draw, tempered, keys, bound=bound / beta, trials=trials)
        right = outcome.accepted.all() & (outcome.highest <= bound / beta).all()
        log_normaliser = bound / beta - jnp.log(outcome.trials.mean())
        return outcome.x, Tried(outcome.trials.mean(), nan_unless(right, log_normaliser))

    return drive


def mcgdiff(measurement: Measurement, y: Array, number: int, noise_std: float = 0.0) -> Driver:
    """`steering.mcgdiff` with groups of `number` particles; each sample is one draw from its group.

    Args:
        measurement: the operator A with the fields `filtered` and `trace`.
        y: the measurements `[B, ...]` of the samples.
        number: number of particles for a sample, >= 1.
        noise_std: standard deviation of the noise in y, >= 0.
    """
    _check_number("mcgdiff", number)

    def drive(sampler, denoise, schedule, x, plan, keys):
        arguments, draws = _particle_arguments(sampler, denoise, schedule, x, keys, number)
        measured = {"measurement": measurement, "y": jnp.repeat(y, number, axis=0), "noise_std": noise_std}
        return _drawn(steering.mcgdiff(plan=plan, **measured, **arguments), draws)

    return drive


def corrected(number: int) -> Driver:
    """`steering.corrected` of the run's product of densities, with groups of `number` particles for each sample.

    The product is `guidance.product` or `guidance.multiplied`. One particle is the plain sum of the scores.
    """
    _check_number("corrected", number)

    def drive(sampler, denoise, schedule, x, plan, keys):
        arguments, draws = _branch_arguments("corrected", sampler, denoise, schedule, x, keys, number)
        arguments["x"] = arguments["x"] / denoise.total**0.5
        return _drawn(steering.corrected(plan=plan, exponents=denoise.exponents, **arguments), draws)

    return drive


def mixed(number: int) -> Driver:
    """`steering.mixed` of the densities of the run's product, whose exponents are the shares of the mixture.

    The product is `guidance.product` or `guidance.multiplied`; the exponents are positive and sum to 1.
    """
    _check_number("mixed", number)

    def drive(sampler, denoise, schedule, x, plan, keys):
        arguments, draws = _branch_arguments("mixed", sampler, denoise, schedule, x, keys, number)
        return _drawn(steering.mixed(plan=plan, shares=denoise.exponents, **arguments), draws)

    return drive


def searched_noise(log_reward: LogReward, rounds: int = 1, trials: int = 3, distance: float = 1.0) -> Driver:
    """The sample of the best noise of `steering.searched_noise`; by default, of the best of 4 noises.

    Args:
        log_reward: x `[B, ...]` -> reward `[B]`.
        rounds: number of rounds, >= 1; each starts from the best noise so far.
        trials: number of neighbours in a round, >= 1.
        distance: distance of the neighbours, in (0, 1]; at 1 they are independent of the noise.
    """

    def drive(keys, **arguments):
        searches, draws = jax.vmap(jax.random.split, out_axes=1)(keys)
        generate, noise = _from_noise(keys=draws, **arguments)
        best, _ = steering.searched_noise(
            generate, log_reward, noise, searches, rounds=rounds, trials=trials, distance=distance
        )
        return generate(best)

    return drive


def optimised_noise(log_reward: LogReward, updates: int = 10, learning_rate: float = 0.1, prior: float = 0.0) -> Driver:
    """The sample of the noise of `steering.optimised_noise`, by plain gradient ascent.

    Args:
        log_reward: x `[B, ...]` -> reward `[B]`, differentiable.
        updates: number of steps of gradient ascent, >= 1.
        learning_rate: learning rate of gradient ascent, > 0.
        prior: weight of the log-density of the noise's norm, >= 0.
    """
    _check_rate("optimised_noise", learning_rate)

    def drive(**arguments):
        generate, noise = _from_noise(**arguments)
        best, _ = steering.optimised_noise(
            generate, log_reward, noise, optax.sgd(learning_rate), steps=updates, prior=prior
        )
        return generate(best)

    return drive


def _check_number(driver: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{driver}: number = {number} must be at least 1")


def _check_rate(driver: str, learning_rate: float) -> None:
    if not learning_rate > 0:
        raise ValueError(f"{driver}: learning_rate = {learning_rate} must be positive")


def _check_plain(driver: str, denoise: Any) -> None:
    if isinstance(denoise, (guidance.Memory, guidance.Unpaired)):
        raise ValueError(f"{driver} needs a plain denoiser. Valid: a guidance such as classifier_free, without a cache")


def _tempered(driver: str, log_reward: LogReward, number: int, beta: float) -> LogReward:
    """The reward over its temperature; the number of particles is also checked."""
    if number < 1 or not beta > 0:
        raise ValueError(f"{driver}: number = {number} must be at least 1, beta = {beta} positive")
    return lambda x: log_reward(x) / beta


def _particle_arguments(
    sampler: samplers.Sampler, denoise: Any, schedule: NoiseSchedule, x: Array, keys: Array, number: int
) -> tuple[dict[str, Any], Array]:
    """(the arguments of a function of particles, with initial noise for samples like x; the keys `[B]` of `_drawn`)."""
    several = jax.vmap(lambda key: jax.random.split(key, 2 * number + 1))(keys)
    starts, walks = (several[:, k : k + number].reshape(-1) for k in (0, number))
    noise = samplers.prior(schedule, starts, x.shape[1:])
    if sampler.real is not None:
        sampler = samplers.padded(sampler, jnp.repeat(sampler.real, number, axis=0))
    arguments = {"sampler": sampler, "denoise": _each_particle(denoise, number), "schedule": schedule}
    return {**arguments, "x": noise, "keys": walks, "number": number}, several[:, -1]


def _branch_arguments(
    driver: str, sampler: samplers.Sampler, denoise: Any, schedule: NoiseSchedule, x: Array, keys: Array, number: int
) -> tuple[dict[str, Any], Array]:
    """`_particle_arguments` for a function that takes the branches of a product of densities."""
    if not isinstance(denoise, guidance.Product):
        raise ValueError(
            f"{driver} needs a product of densities, which config.sample.guidance and guides do not define. Valid: the "
            "guidance product, or the guide multiplied"
        )
    arguments, draws = _particle_arguments(sampler, denoise.branches, schedule, x, keys, number)
    arguments["branches"] = arguments.pop("denoise")
    return arguments, draws


def _each_particle(denoise: Any, number: int) -> Callable[[Array, Any], Any]:
    """The function (x_t, t) on `number` particles for each sample, from a function on samples."""
    return lambda x, t: _over_particles(lambda x: denoise(x, t), number)(x)


def _over_particles(function: Callable[[Array], Any], number: int) -> Callable[[Array], Any]:
    """The function on `[B number, ...]` from a function on `[B, ...]`, whose sample b has its own condition."""
    grouped = lambda x: x.reshape(-1, number, *x.shape[1:])
    every = jax.vmap(function, in_axes=1, out_axes=1)
    return lambda x: jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), every(grouped(x)))


def _drawn(particles: steering.Particles, keys: Array) -> tuple[Array, Weighed]:
    """One particle of each group, and how the particles were weighed."""
    means = Weighed(particles.effective_sizes.mean(), steering.log_normaliser(particles.log_weights).mean())
    return steering.drawn(particles, keys), means


def _from_noise(schedule: NoiseSchedule, x: Array, **arguments: Any) -> tuple[Generate, Array]:
    """(the function from standard normal noise to samples, with the same draws in each call; the noise of x)."""
    std = prior_std(schedule, schedule.t_max)
    return lambda z: samplers.sample(schedule=schedule, x=std * z, **arguments), x / std

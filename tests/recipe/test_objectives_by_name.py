"""Objectives that are made of parts, by their names in a config: the losses are those of the same parts in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits, digits_mean_flow
from diffusion import couplings, flow_maps, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.experiments import train
from diffusion.experiments.run import program
from diffusion.experiments.sampling import run_samples
from diffusion.objectives import consistency, consistency_times, decoders, few_step, interpolants
from diffusion.recipe import ConfigError, Recipe, checks
from diffusion.recipe.parts import Resolver

LINE = schedules.rectified_flow()
VELOCITY = parameterizations.velocity(parameterizations.steps())
UNIFORM = {"name": "uniform_density"}
AWAY = {"name": "uniform_density", "t_min": 0.01}  # from t = 0
TEACHER = {"teacher.parameterization": {"name": "velocity", "clock": {"name": "steps"}}}
JUMPS = {"sample.sampler": {"name": "flow_map"}, "sample.guidance.scale": 1.0}
BRIDGE = {"name": "schroedinger_bridge", "sigma": 0.5, "density": AWAY}
CASES = {  # the entry, other fields, and the same in Python
    "variational_bound": (
        {"name": "variational_bound", "density": AWAY, "t_start": 0.01, "decoder": {"name": "gaussian"}},
        {},
        lambda: objectives.variational_bound(
            VELOCITY, timesteps.uniform_density(LINE, t_min=0.01), 0.01, decoders.gaussian()
        ),
    ),
    "stochastic_interpolant": (
        {
            "name": "stochastic_interpolant",
            "interpolant": {"name": "brownian_bridge", "sigma": 0.5},
            "density": AWAY,
            "predicts": ("mean_velocity", "denoiser"),
        },
        JUMPS,
        lambda: objectives.stochastic_interpolant(
            interpolants.brownian_bridge(0.5),
            timesteps.uniform_density(LINE, t_min=0.01),
            ("mean_velocity", "denoiser"),
            clock=parameterizations.steps(),
        ),
    ),
    "reward_backpropagation": (
        {
            "name": "reward_backpropagation",
            "reward": {"name": "near_value", "value": 0.5},
            "sampler": {"name": "ddpm"},
            "last": 2,
        },
        {"sample.steps": 3, "sample.guidance.scale": 1.0},
        lambda: objectives.reward_backpropagation(
            VELOCITY, timesteps.uniform(LINE, 3), objectives.near_value(0.5), 2, samplers.ddpm()
        ),
    ),
    "schroedinger_bridge": (
        BRIDGE | {"coupling": {"name": "schroedinger_bridge", "sigma": 0.5, "block": 8}},
        JUMPS,
        lambda: objectives.schroedinger_bridge(
            0.5,
            timesteps.uniform_density(LINE, t_min=0.01),
            couplings.schroedinger_bridge(0.5, block=8),
            clock=parameterizations.steps(),
        ),
    ),
    "flow_matching": (
        {
            "name": "flow_matching",
            "density": UNIFORM,
            "coupling": {"name": "conditional_optimal_transport", "ratio": 0.3, "distance": {"name": "cosine"}}
            | {"block": 8},
        },
        {},
        lambda: objectives.flow_matching(
            timesteps.uniform_density(LINE),
            couplings.conditional_optimal_transport(0.3, 8, couplings.cosine),
            parameterizations.steps(),
        ),
    ),
    "flow_matching across conditions": (
        {
            "name": "flow_matching",
            "density": UNIFORM,
            "coupling": {"name": "across_conditions", "coupling": {"name": "sinkhorn", "reg": 2.0, "block": 8}},
        },
        {},
        lambda: objectives.flow_matching(
            timesteps.uniform_density(LINE),
            couplings.across_conditions(couplings.sinkhorn(2.0, 8)),
            parameterizations.steps(),
        ),
    ),
    "consistency_training": (
        {
            "name": "consistency_training",
            "density": {"name": "ramp_density"},
            "pairs": {"name": "discretised", "curriculum": {"name": "square_root_curriculum", "last": 20}},
            "distance": {"name": "pseudo_huber"},
            "pair_weighting": {"name": "inverse_gap"},
            "target": "model",
        },
        JUMPS,
        lambda: objectives.consistency_training(
            VELOCITY,
            consistency_times.ramp_density(LINE),
            consistency_times.discretised(consistency_times.square_root_curriculum(40, last=20)),
            few_step.pseudo_huber(),
            consistency.inverse_gap,
            "model",
        ),
    ),
    "consistency_distillation": (
        {
            "name": "consistency_distillation",
            "density": UNIFORM,
            "pairs": {"name": "discretised", "curriculum": {"name": "constant_curriculum", "N": 9}},
            "distance": {"name": "squared"},
            "solver": {"name": "ddim"},
        },
        JUMPS | TEACHER,
        lambda: objectives.consistency_distillation(
            VELOCITY,
            VELOCITY,
            timesteps.uniform_density(LINE),
            consistency_times.discretised(lambda step: jnp.asarray(9)),
            solver=flow_maps.from_denoiser,
        ),
    ),
    "diffusion_nft": (
        {
            "name": "diffusion_nft",
            "weighting": {"name": "constant"},
            "density": UNIFORM,
            "reward": {"name": "near_value", "value": 0.5},
            "group": 4,
            "sampler": {"name": "heun"},
            "beta": 0.5,
            "limit": 2.0,
            "divergence": 0.1,
        },
        TEACHER | {"sample.steps": 3},
        lambda: objectives.diffusion_nft(
            VELOCITY,
            weightings.constant(VELOCITY),
            timesteps.uniform_density(LINE),
            timesteps.uniform(LINE, 3),
            objectives.near_value(0.5),
            4,
            VELOCITY,
            samplers.heun(),
            0.5,
            2.0,
            0.1,
        ),
    ),
    "adjoint_matching": (
        {
            "name": "adjoint_matching",
            "weighting": {"name": "constant"},
            "reward": {"name": "near_value", "value": 0.5},
            "beta": 0.3,
        },
        TEACHER | {"sample.steps": 3},
        lambda: objectives.adjoint_matching(
            VELOCITY,
            VELOCITY,
            weightings.constant(VELOCITY),
            timesteps.uniform(LINE, 3),
            objectives.near_value(0.5),
            0.3,
        ),
    ),
    "policy_gradient": (
        {
            "name": "policy_gradient",
            "reward": {"name": "near_value", "value": 0.5},
            "group": 4,
            "sampler": {"name": "ddim", "eta": 0.8},
            "clip": 0.1,
            "beta": 0.1,
            "policy": "target",
        },
        TEACHER | {"sample.steps": 3},
        lambda: objectives.policy_gradient(
            VELOCITY,
            timesteps.uniform(LINE, 3),
            objectives.near_value(0.5),
            4,
            VELOCITY,
            samplers.ddim(0.8),
            0.1,
            0.1,
            policy="target",
        ),
    ),
    "reward_weights": (
        {
            "name": "flow_matching",
            "density": UNIFORM,
            "wrappers": ({"name": "reward_weights", "reward": {"name": "near_value", "value": 0.5}, "beta": 0.2},),
        },
        {},
        lambda: objectives.with_reward_weights(
            objectives.flow_matching(timesteps.uniform_density(LINE), None, parameterizations.steps()),
            objectives.near_value(0.5),
            0.2,
        ),
    ),
    "diffusion_dpo": (
        {"name": "diffusion_dpo", "weighting": {"name": "snr"}, "density": AWAY, "beta": 0.2},
        TEACHER,
        lambda: objectives.diffusion_dpo(
            VELOCITY, VELOCITY, weightings.snr(), timesteps.uniform_density(LINE, t_min=0.01), 0.2
        ),
    ),
    "regression": (
        {"name": "regression", "distance": {"name": "squared"}},
        JUMPS | TEACHER | {"sample.steps": 1, "teacher.pairs.number": 64},
        lambda: objectives.regression(VELOCITY, few_step.squared),
    ),
}


def config_of(name, folder):
    entry, others, _ = CASES[name]
    config = digits.get_config("tiny")
    config.objective = entry
    config.update_from_flattened_dict(others)
    config.sample.guidance.scale = 1.0
    if "teacher.parameterization" in others:
        config.teacher.path = str(folder)
    return config


@pytest.mark.extended
@pytest.mark.parametrize("name", list(CASES))
def test_an_entry_is_its_function_of_its_parts(name, tmp_path):
    config = config_of(name, tmp_path)
    named = checks.validate(config).objective
    made = CASES[name][2]()
    x = jnp.clip(jax.random.normal(jax.random.key(1), (8, 2, 2, 1)), -1, 1)
    batch = {"x": x, "noise": jnp.roll(x, 1, axis=0)} if named.teacher and named.teacher.pairs else {"x": x}
    batch |= {"rejected": jnp.roll(x, 1, axis=0)} if named.examples.pairs else {}
    channels = named.network.channels or 1
    if name.startswith("flow_matching"):  # by its coupling
        batch["condition"] = x[:, 0] if "across" not in name else jnp.arange(8) % 2
    network = lambda x, clock, condition: jnp.concatenate([jnp.sin(3 * x + jnp.mean(clock) / 1000)] * channels, -1)
    networks = dict.fromkeys(("model", "target", "teacher"), network)
    if named.examples.pairs:  # else each is as likely as the other
        networks["teacher"] = lambda x, clock, condition: jnp.cos(x)
    losses = [
        objective(networks, LINE, jax.random.split(jax.random.key(0), 8), batch, 3)[0] for objective in (named, made)
    ]
    np.testing.assert_array_equal(*losses)
    assert np.isfinite(losses[0]).all() and np.ptp(losses[0]) > 0
    assert named.network.channels == made.network.channels


@pytest.mark.extended
@pytest.mark.parametrize("name", ["variational_bound", "schroedinger_bridge", "consistency_training"])
def test_a_step_of_it_is_built(name, tmp_path):
    config = config_of(name, tmp_path)
    recipe = checks.validate(config).at((8, 8, 1))
    program.build(recipe, program.mesh_of(config))  # which traces the step


def test_the_flow_of_an_interpolant_ends_at_the_data():
    """For one datum the velocity is known: b = E[x_1 - x_0 + gamma' z | x_t]; with it every path ends at the datum."""
    datum = 0.7
    gamma2 = lambda t: jnp.sin(jnp.pi * t) ** 4

    def network(x, t, condition):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        # x_t - (1 - t) datum = t x_1 + gamma z, of variance t^2 + gamma^2, with E[x_1 | .] and E[z | .] its shares.
        noise = (x - (1 - t) * datum) / (t**2 + gamma2(t))
        return jnp.concatenate([t * noise - datum, jnp.sqrt(gamma2(t)) * noise], -1)

    objective = objectives.stochastic_interpolant(
        interpolants.smooth_bridge(), timesteps.uniform_density(LINE), ("mean_velocity", "denoiser")
    )
    flow = objective.reads.flow_map(network, LINE, condition=None)
    x = jax.random.normal(jax.random.key(0), (16, 3))
    times = np.linspace(1, 0, 401, dtype=np.float32)
    step = jax.jit(lambda x, at: (flow(x, *at), None))
    end, _ = jax.lax.scan(step, x, (times[:-1], times[1:]))
    np.testing.assert_allclose(end, datum, atol=0.01)
    for schedule, start in (
        (schedules.variance_exploding(0.01, 50.0), r"50.01 at t = 1\."),
        (schedules.variance_preserving()._replace(t_max=2.0), r"1 at t = 2\."),
    ):
        with pytest.raises(ValueError, match=rf"from N\(0, I\) at t = 1.*deviation {start} Valid: rectified_flow"):
            objective.reads.flow_map(network, schedule, condition=None)


def test_channels_that_the_network_cannot_put_out_are_refused(tmp_path):
    config = config_of("schroedinger_bridge", tmp_path)
    config.model = {"name": "mlp"}
    with pytest.raises(ConfigError, match=r"config\.model\.name = 'mlp'.*config\.objective needs 2 times as many"):
        Recipe.from_config(config, (2,))


def pictures(folder, seed):
    """A source of 48 pictures of noise, of the shape and the classes of digits."""
    path = folder / f"{seed}.npz"
    np.savez(
        path, image=np.random.default_rng(seed).integers(0, 256, (48, 8, 8, 1), np.uint8), label=np.arange(48) % 10
    )
    return {"name": "arrays", "path": str(path), "classes": tuple("0123456789")}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_a_run_of_it_trains_and_makes_samples(name, tmp_path):
    teacher = digits.get_config("tiny")
    teacher.train.steps = 2
    needs_teacher = "teacher.parameterization" in CASES[name][1]
    if needs_teacher:
        assert train.run(teacher, tmp_path / "teacher") == 0
    config = config_of(name, tmp_path / "teacher")
    if checks.validate(config).objective.examples.pairs:
        config.data.source = {"name": "preferences", "of": (pictures(tmp_path, 0), pictures(tmp_path, 1))}
    config.train.steps = config.checkpoint.every = 4
    assert train.run(config, tmp_path / "run") == 0
    made = run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path / "run")
    assert made.shape == (20, 8, 8, 1) and np.ptp(made) > 0


@pytest.mark.parametrize("guidance", [1, "x", (), ((1, 2),)])
def test_settings_that_are_no_mapping_are_refused(guidance):
    config = digits_mean_flow.get_config("tiny")
    config.objective = {**config.objective, "guidance": guidance}
    with pytest.raises(ConfigError, match=r"config\.objective\.guidance = .* Valid: a mapping"):
        checks.validate(config)


def test_settings_of_none_are_the_default():
    config = digits_mean_flow.get_config("tiny")
    config.objective = {**config.objective, "guidance": None}
    assert not Resolver(config).objective.condition.strength
    assert checks.validate(config)

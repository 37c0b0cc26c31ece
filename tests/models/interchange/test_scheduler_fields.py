"""Every field of every scheduler that is read, as diffusers 0.42 defines them: used, refused in words, or harmless.

The classes and their fields are those of tests/fixtures/text_to_image/schedulers.json, which diffusers wrote.
"""

import functools
import json
import types

import jax
import numpy as np
import pytest
import scipy.special

from diffusion import flow_maps, samplers, schedules, timesteps
from diffusion.models.interchange import schedulers
from diffusion.models.interchange.family import Refusal
from diffusion.models.interchange.schedulers.solvers import SOLVERS
from diffusion.models.interchange.schedulers.trajectories import Trajectory, levels_between
from diffusion.parameterizations import Prediction
from tests.conformance import slow_but
from tests.text_to_image import made_pipelines

CLASSES = json.loads((made_pipelines.FIXTURES / "schedulers.json").read_text())
# Another value than the default for each field.
OTHER = {
    "algorithm_type": "sde-dpmsolver++",
    "base_image_seq_len": 128,
    "base_shift": 0.6,
    "beta_end": 0.015,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0005,
    "clip_sample_range": 0.5,
    "disable_corrector": [1],
    "dynamic_thresholding_ratio": 0.9,
    "flow_shift": 3.0,
    "interpolation_type": "log_linear",
    "lambda_min_clipped": -5.0,
    "max_image_seq_len": 2048,
    "max_shift": 1.2,
    "noise_sampler_seed": 3,
    "num_train_timesteps": 500,
    "original_inference_steps": 25,
    "prediction_type": "v_prediction",
    "rho": 5.0,
    "sample_max_value": 2.0,
    "scale_factors": [0.5],
    "shift": 3.0,
    "shift_terminal": 0.1,
    "sigma_data": 1.0,
    "sigma_max": 70.0,
    "sigma_min": 0.01,
    "sigma_schedule": "exponential",
    "solver_order": 1,
    "solver_p": "DPMSolverMultistepScheduler",
    "steps_offset": 1,
    "time_shift_type": "linear",
    "timestep_scaling": 1.0,
    "timestep_type": "continuous",
    "trained_betas": [0.01] * 1000,
    "upscale_mode": "nearest",
}
CHOICES = {
    "final_sigmas_type": ("zero", "sigma_min"),
    "timestep_spacing": ("leading", "trailing"),
    "variance_type": ("fixed_large", "fixed_small"),
    "solver_type": ("heun", "bh1"),
}
# What a class itself does not use, or only beside another field.
ASIDE = {
    "clip_sample_range": {"clip_sample": True},
    "base_image_seq_len": {"use_dynamic_shifting": True},
    "max_image_seq_len": {"use_dynamic_shifting": True},
    "base_shift": {"use_dynamic_shifting": True},
    "max_shift": {"use_dynamic_shifting": True},
    "time_shift_type": {"use_dynamic_shifting": True},
    "steps_offset": {"timestep_spacing": "leading"},
    "flow_shift": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    "use_flow_sigmas": {"prediction_type": "flow_prediction"},
    "lower_order_final": {"final_sigmas_type": "sigma_min"},
    "euler_at_final": {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    "variance_type": {"clip_sample": False},
}
IDLE = {  # (class, field): why diffusers makes the same whatever its value
    ("LCM", "set_alpha_to_one"): "its last step returns the estimate of the data",
    ("LCM", "timestep_spacing"): "its steps are those of its training",
    ("LCM", "steps_offset"): "its steps are those of its training",
    ("TCD", "set_alpha_to_one"): "its last step ends at the first time of the process",
    ("TCD", "timestep_spacing"): "its steps are those of its training",
    ("TCD", "steps_offset"): "its steps are those of its training",
    ("TCD", "clip_sample"): "its step does not read it",
    ("TCD", "clip_sample_range"): "its step does not read it",
    ("EDMEuler", "num_train_timesteps"): "of its table, which set_timesteps replaces",
    ("EDMDPMSolverMultistep", "num_train_timesteps"): "of its table, which set_timesteps replaces",
    ("EDMDPMSolverMultistep", "lower_order_final"): "its last step is of order 1 onto zero, or goes nowhere",
    ("EDMDPMSolverMultistep", "euler_at_final"): "its last step is of order 1 onto zero, or goes nowhere",
    ("DEISMultistep", "solver_type"): "every other value means 'logrho' there",
    ("DPMSolverMultistep", "variance_type"): "says that the output has the variance beside, which is split off before",
    ("DPMSolverSinglestep", "variance_type"): "as for DPMSolverMultistep",
}
FIELDS = [(name, field) for name, config in CLASSES.items() for field in config if not field.startswith("_")]


def _made(config):
    """What a config makes, as numbers: its steps, its start, the network's reading, and four steps of its sampler."""
    process = schedulers.read(config)
    trajectory = schedulers.trajectory(process, "", 4, tokens=300)
    return [trajectory.plan.grid, trajectory.start, *_read(process), _sampled(process, trajectory)]


def _read(process):
    at = np.array([0.25, 0.5])
    x = np.ones((2, 1))
    output = np.full((2, 1), 0.3)
    parameterization, schedule = process.parameterization, process.schedule
    return (
        parameterization.clock(schedule, at),
        parameterization.input_scale(schedule, at),
        parameterization.to_prediction(schedule, at, x, output).x0,
        schedule.sigma(at),
    )


def _sampled(process, trajectory):
    # The plan's times are what tells one evaluation from another, so that every weight of a solver shows.
    denoise = lambda x, t: Prediction(2 * np.cos(9 * t) + 0.1 * x, 0.5 * x + np.sin(7 * t))
    if flow_maps.FlowMap in trajectory.sampler.takes:
        denoise = flow_maps.from_denoiser(denoise, process.schedule)
    state = trajectory.sampler.init(np.full((1, 1), 1.3), process.schedule, trajectory.plan)
    for i in range(len(trajectory.plan.t)):
        noise = np.full((trajectory.sampler.draws, 1, 1), 0.4)
        state = trajectory.sampler.step(state, denoise, process.schedule, trajectory.plan, i, noise)
    return state.x


@functools.cache
def _default(name, beside=()):
    return _made(CLASSES[name] | dict(beside))


def _others(name, field):
    value = CLASSES[name][field]
    if isinstance(value, bool):
        return [not value]
    return [choice for choice in CHOICES.get(field, (OTHER.get(field),)) if choice != value]


def _outcome(name, field):
    """What becomes of other values: {"used"}, {"refused"}, {"idle"}, or several of them."""
    found = set()
    beside = {key: value for key, value in ASIDE.get(field, {}).items() if key in CLASSES[name]}
    for value in _others(name, field):
        try:
            changed = _made(CLASSES[name] | beside | {field: value})
        except Refusal as error:
            named = any(key in str(error) for key in (field, *beside))
            assert named, f"{name}: {field} = {value!r} is refused without its name: {error}"
            found.add("refused")
            continue
        kept = {} if field == "use_flow_sigmas" else beside  # which by itself is refused
        same = zip(_default(name, tuple(kept.items())), changed)
        used = any(np.shape(a) != np.shape(b) or not np.array_equal(a, b) for a, b in same)
        found.add("used" if used else "idle")
    return found


def test_every_field_has_another_value_to_try():
    new = [(name, field) for name, field in FIELDS if not _others(name, field) or None in _others(name, field)]
    assert not new, "what do these fields do?"


@pytest.mark.extended
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", slow_but([("FlowMatchEulerDiscrete",)], [(name,) for name in CLASSES]))
def test_every_field_is_used_refused_or_known_to_be_harmless(name):
    with jax.disable_jit():
        idle = [field for of, field in FIELDS if of == name and _outcome(name, field) == {"idle"}]
    unknown = [field for field in idle if field not in schedulers.WITHOUT_EFFECT and (name, field) not in IDLE]
    assert not unknown, f"{name} ignores without a word: {', '.join(unknown)}"


@pytest.mark.extended
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_s_facts_are_the_defaults_of_its_class(name):
    solver = SOLVERS[name]
    kind = solver.scheduler.removesuffix("Scheduler")
    config = {field: value for field, value in CLASSES[kind].items() if (kind, field) not in IDLE}
    assert solver.betas == (config["beta_schedule"], config["beta_start"], config["beta_end"])
    assert solver.levels == ("use_karras_sigmas" in config) and solver.clips == config.get("clip_sample")
    assert solver.own_spacing == ("timestep_spacing" not in config)
    assert solver.own_spacing or solver.spacing == config["timestep_spacing"]
    assert solver.ends == next((field for field in ("set_alpha_to_one", "final_sigmas_type") if field in config), "")
    assert not solver.ends or solver.to_zero == (config[solver.ends] in (True, "zero"))


@pytest.mark.parametrize("name", CLASSES)
def test_a_field_that_a_config_lacks_has_the_default_of_its_class(name):
    """Where it is None, a solver's facts say what the class does."""
    silent, full = schedulers.read({"_class_name": CLASSES[name]["_class_name"]}), schedulers.read(CLASSES[name])
    known = {field: value for field, value in silent.fields.items() if value is not None}
    assert known == {field: full.fields[field] for field in known}
    assert (silent.sampler, silent.prediction, silent.T) == (full.sampler, full.prediction, full.T)


@pytest.mark.parametrize("kind, spaced", [
    ("karras", lambda level: level ** (1 / 7)), ("exponential", np.log),
    ("beta", lambda level: scipy.special.betainc(0.6, 0.6, (level - 0.5) / 3.5)),
])  # fmt: skip
def test_levels_are_even_in_the_scale_of_their_kind(kind, spaced):
    levels = levels_between(kind, 6, 4.0, 0.5)
    np.testing.assert_allclose(spaced(levels), np.linspace(spaced(4.0), spaced(0.5), 6), atol=1e-12)


@pytest.mark.parametrize("kind, times", [
    ("UniPC", [1.0, 0.75025, 0.5005, 0.25075, 0.0]), ("DPMSolver", [0.999, 0.74925, 0.4995, 0.24975, 0.0]),
])  # fmt: skip
def test_a_flow_of_a_scheduler_for_tables_has_shifted_times(kind, times):
    """As diffusers lays four steps: from 1 to 1/T and then 0, at most 1 - 1e-6; or 1 less alphas from 1/T to 1."""
    fields = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    process = schedulers.read({"_class_name": f"{kind}MultistepScheduler"} | fields)
    expected = np.minimum([3 * t / (1 + 2 * t) for t in times], 1 - 1e-6)
    trajectory = schedulers.trajectory(process, "", 4)
    np.testing.assert_allclose(trajectory.plan.grid, expected, rtol=1e-12)
    received = np.stack([expected, (1000 * expected).astype(np.int64) / 1000], axis=1)  # as whole steps there
    assert trajectory.network_times is not None
    np.testing.assert_allclose(trajectory.network_times, received, rtol=1e-12)


KARRAS = {"use_karras_sigmas": True}
TRAILING = {"timestep_spacing": "trailing"}
OF_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
ONE_STEP = [  # (class, fields, read's arguments, the step's ends)
    ("DDIM", {}, {}, (0.001, 0)), ("DDIM", TRAILING, {}, (1, 0)), ("PNDM", {"steps_offset": 1}, {}, (0.002, 0.001)),
    ("EulerDiscrete", {}, {}, (0.001, 0)), ("EulerDiscrete", TRAILING | KARRAS, {}, (1, 0)),
    ("DPMSolverMultistep", {}, {}, (1, 0)), ("DPMSolverMultistep", {"timestep_spacing": "leading"}, {}, (0.501, 0)),
    ("DPMSolverMultistep", KARRAS, {}, (1, 0)), ("DEISMultistep", {}, {}, (1, 0.001)), ("LCM", {}, {}, (1, 0)),
    ("UniPCMultistep", OF_FLOW, {}, (1 - 1e-6, 0)), ("DPMSolverMultistep", OF_FLOW, {}, (0.999, 0)),
    ("SCM", {}, {}, (1, 0)), ("FlowMatchEulerDiscrete", {"shift": 3.0, "shift_terminal": 0.1}, {}, (1, 0)),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}, {"bent": True}, (1, 0)), ("EDMEuler", {}, {}, (1, 0)),
    ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, {"by_steps": True, "even": True}, (1, 0)),
    *(("FlowMatchEulerDiscrete", {level: True}, {}, (1, 0))
      for level in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")),
]  # fmt: skip


@pytest.mark.extended
@pytest.mark.parametrize("kind, fields, how, ends", ONE_STEP)
def test_one_step_goes_from_the_first_time_of_its_class_to_its_end(kind, fields, how, ends):
    """As in diffusers: at index 0 by "leading" or "linspace", at 999 by "trailing", or at the first of two indices."""
    process = schedulers.read({"_class_name": f"{kind}Scheduler"} | fields, **how)
    np.testing.assert_allclose(schedulers.trajectory(process, "", 1, tokens=300).plan.grid, ends, rtol=1e-6)


def _built(entry):
    """The schedule of a config's entry."""
    rest = {name: value for name, value in entry.items() if name != "name"}
    if "schedule" in rest:
        rest["schedule"] = _built(rest["schedule"])
    return getattr(schedules, entry["name"])(**rest)


LINE, ROOTS = np.linspace(1e-3, 0.02, 1000), np.linspace(1e-3**0.5, 0.02**0.5, 1000) ** 2


@pytest.mark.extended
@pytest.mark.parametrize("kind, fields, betas", [
    ("DDIM", {"beta_schedule": "linear"}, LINE), ("DDIM", {"beta_schedule": "scaled_linear"}, ROOTS),
    ("DDIM", {"trained_betas": ROOTS.tolist()}, ROOTS),
    ("DDIM", {"beta_schedule": "linear", "rescale_betas_zero_snr": True}, LINE), ("CogVideoXDDIM", {}, ROOTS),
])  # fmt: skip
def test_the_schedule_that_is_named_is_that_of_the_betas(kind, fields, betas):
    config = {"_class_name": f"{kind}Scheduler", "beta_start": 1e-3, "beta_end": 0.02} | fields
    named = _built(schedulers.read(config).named)
    bar = np.cumprod(1 - betas)
    if kind == "CogVideoXDDIM":
        bar = bar / (3 - 2 * bar)  # a third of bar / (1 - bar)
    if "rescale_betas_zero_snr" in fields:  # Lin et al. 2024, algorithm 1
        root = np.sqrt(bar)
        bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    np.testing.assert_allclose(named.alpha(np.arange(1, 1001) / 1000) ** 2, bar, rtol=1e-4, atol=1e-7)


def test_the_cosine_table_is_that_of_its_formula():
    process = schedulers.read({"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2"})
    times = np.array([1, 500, 900]) / 1000
    bar = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(process.schedule.alpha(times) ** 2, bar(times) / bar(0), rtol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("kind, sampler, ratios, times", [
    ("DPMSolverMultistep", "dpmpp_2m", [829.2452, 104.33446, 5.417022, 0.029167535], [999, 996, 978, 750, 0]),
    ("EulerDiscrete", "euler", [1027.5206, 183.07112, 18.461006, 0.59475178], [999, 996.78, 986.99, 900.483, 199]),
])  # fmt: skip
def test_karras_steps_of_a_process_without_signal_at_its_end_are_diffusers(kind, sampler, ratios, times):
    """As diffusers 0.42.1 has them: its sigma / alpha there is that of alpha^2 = 2^-24."""
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    config |= {"use_karras_sigmas": True, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config |= {"_class_name": f"{kind}Scheduler"}
    process = schedulers.read(config)
    trajectory = schedulers.trajectory(process, sampler, 5)
    np.testing.assert_allclose(np.exp(-process.schedule.log_snr(trajectory.plan.t[1:]) / 2), ratios, rtol=1e-3)
    received = trajectory.plan.t if trajectory.network_times is None else trajectory.network_times[:, 1]
    np.testing.assert_allclose(1000 * received - 1, times, atol=0.1)


def test_trailing_steps_are_rounded_as_by_diffusers():
    """937.5 - 1 is 936 by the errors of its range; diffusers 0.42.1, DDIMScheduler of 48 steps."""
    process = schedulers.read({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"})
    times = schedulers.trajectory(process, "ddim", 48).plan.t[:5]
    np.testing.assert_allclose(1000 * times - 1, [999, 978, 957, 936, 916], atol=1e-3)


def test_later_steps_are_those_of_the_list_of_times_that_is_left():
    """Of PNDM for "plms" the list is t_0, t_1, t_1, t_2, .., so that its part from t_2 on begins with a pair there."""
    grid = timesteps.plan(np.linspace(1, 0, 7))
    np.testing.assert_array_equal(schedulers.later_steps(grid, "ddim", 3).t, grid.t[3:])
    np.testing.assert_array_equal(schedulers.later_steps(grid, "plms", 3).t, grid.t[[2, 4, 5]])


@pytest.mark.parametrize("steps, angles", [(2, [np.pi / 2, 1.3, 0]), (3, np.pi / 6 * np.array([3, 2, 1, 0]))])
def test_the_angles_of_a_trigonometric_process_fall_evenly_but_for_two_steps(steps, angles):
    process = schedulers.read({"_class_name": "SCMScheduler"})
    expected = np.sin(angles) / (np.sin(angles) + np.cos(angles))
    np.testing.assert_allclose(schedulers.trajectory(process, "", steps).plan.grid, expected, atol=1e-12)


@pytest.mark.parametrize("name, draws", [("dpmpp_2m", 0), ("dpmpp_2m_sde", 1)])
def test_of_first_order_the_stochastic_solver_alone_draws(name, draws):
    assert SOLVERS[name].make({"solver_order": 1}, 4).draws == draws


LOWER, HIGHER = {"lower_order_final": True}, {"lower_order_final": False}
TO_SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
MADE = [  # (solver, options, steps, its sampler), as diffusers lowers the order of the last steps and names the solvers
    ("dpmpp_2m", {}, 14, samplers.dpmpp_2m(True)), ("dpmpp_2m", {}, 15, samplers.dpmpp_2m()),
    ("dpmpp_2m", HIGHER, 14, samplers.dpmpp_2m()), ("dpmpp_2m", {"euler_at_final": True}, 15, samplers.dpmpp_2m(True)),
    ("dpmpp_2m", {"solver_type": "heun"}, 15, samplers.dpmpp_2m_sde(0.0, solver="heun")),
    ("dpmpp_2m_sde", {}, 15, samplers.dpmpp_2m_sde()),
    ("dpmpp_2m_sde", {"solver_type": "heun"}, 14, samplers.dpmpp_2m_sde(solver="heun", lower_order_final=True)),
    ("dpmpp_3m", {}, 14, samplers.dpmpp_3m(True)), ("dpmpp_3m", {}, 15, samplers.dpmpp_3m()),
    ("deis", {"solver_order": 3}, 14, samplers.deis(3, "log-SNR", True)),
    ("deis", {}, 15, samplers.deis(2, "log-SNR")),
    ("dpmpp_2s", {}, 4, samplers.dpmpp_2s("grid", True)),
    ("dpmpp_2s", HIGHER | TO_SIGMA_MIN, 4, samplers.dpmpp_2s("grid")),
    ("dpmpp_2s", HIGHER | TO_SIGMA_MIN, 5, samplers.dpmpp_2s("grid", True)),
    ("dpmpp_2s", LOWER | TO_SIGMA_MIN, 4, samplers.dpmpp_2s("grid", True)),
    ("unipc", {}, 4, samplers.unipc(2, "bh2", True)), ("unipc", HIGHER, 4, samplers.unipc()),
    ("unipc", {"solver_type": "bh1", "solver_order": 3}, 4, samplers.unipc(3, "bh1", True)),
]  # fmt: skip


@pytest.mark.extended
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name, options, steps, expected", MADE)
def test_the_options_of_a_solver_are_the_arguments_of_its_sampler(name, options, steps, expected):
    silent = dict.fromkeys(("solver_order", "solver_type", "lower_order_final", "final_sigmas_type"))
    made = SOLVERS[name].make({**silent, "euler_at_final": False, **options}, steps)
    cosine = types.SimpleNamespace(schedule=schedules.cosine())
    plan = timesteps.plan(np.linspace(0.9, 0.1, 7))
    with jax.disable_jit():
        ours, theirs = (_sampled(cosine, Trajectory(sampler, plan, 1.0)) for sampler in (made, expected))
    assert made.draws == expected.draws and (ours == theirs).all()


@pytest.mark.parametrize("kind, clip, clips", [
    ("DDIM", None, True), ("DDIM", True, True), ("DDIM", False, False), ("LCM", None, False), ("LCM", True, True),
    ("EulerDiscrete", True, False),
])  # fmt: skip
def test_the_data_are_clipped_where_the_class_has_the_option_and_the_config_sets_it(kind, clip, clips):
    config = {"_class_name": f"{kind}Scheduler", "timestep_spacing": "trailing"}
    config |= {} if clip is None else {"clip_sample": clip, "clip_sample_range": 1.0}
    process = schedulers.read(config)
    sampler, plan, *_ = schedulers.trajectory(process, "", 1)
    x = np.zeros((1, 1), np.float32)
    denoise = lambda x, *times: Prediction(np.full((1, 1), 5.0, np.float32), np.zeros((1, 1), np.float32))
    if flow_maps.FlowMap in sampler.takes:
        denoise = flow_maps.from_denoiser(denoise, process.schedule)
    state = sampler.step(sampler.init(x, process.schedule, plan), denoise, process.schedule, plan, 0, x[None])
    np.testing.assert_allclose(state.x, 1.0 if clips else 5.0, rtol=1e-6)  # alpha = 1 at the end


def test_two_spreads_of_the_levels_are_refused():
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_beta_sigmas": True, "use_karras_sigmas": True}
    with pytest.raises(Refusal, match=r"only one of use_karras_sigmas, .* may be set"):
        schedulers.read(config)


def test_the_harmless_fields_are_those_of_the_classes():
    known = {field for _, field in FIELDS}
    assert set(schedulers.WITHOUT_EFFECT) <= known
    assert {field for _, field in IDLE} <= known
    assert set(schedulers.ONLY) | set(schedulers.OPTIONS) <= known

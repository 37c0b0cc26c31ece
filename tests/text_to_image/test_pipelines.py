"""Folders of pipelines: the config of a scheduler as a process and a plan, and what is refused."""

import functools
import json
import pathlib
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion import parameterizations, text_to_image
from diffusion.flows import flow_maps
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.interchange import schedulers
from diffusion.models.interchange.family import Refusal
from diffusion.published.flux.network import Flux
from diffusion.published.flux2.network import Flux2
from diffusion.published.lumina2.network import Lumina2
from diffusion.published.pixart.network import PixArt
from diffusion.published.qwen_image.network import QwenImage
from diffusion.published.sana.network import Sana
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.wan.network import Wan
from diffusion.published.z_image.network import ZImage
from diffusion.text_to_image import denoiser_checks, model_index, pipelines
from tests.text_to_image import made_pipelines

SD_1 = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
FLOW_LCM = {"_class_name": "FlowMatchLCMScheduler", "scale_factors": None, "upscale_mode": "bicubic"}


def indices(trajectory):
    return trajectory.plan.grid * 1000 - 1


def test_the_published_scheduler_of_sd_is_its_process_its_sampler_and_its_steps():
    process = schedulers.read(SD_1)
    assert (process.prediction, process.sampler, process.T) == ("epsilon", "plms", 1000)
    trajectory = schedulers.trajectory(process, "", 50)
    # The times of the original repository, and an end at the first time of the process.
    np.testing.assert_allclose(indices(trajectory), [*range(981, 0, -20), 0], atol=1e-9)
    assert float(process.schedule.alpha(1.0)) ** 2 == pytest.approx(0.0047, abs=1e-4)  # as published for SD
    assert float(process.parameterization.clock(process.schedule, np.float64(1.0))) == pytest.approx(999)


@pytest.mark.parametrize("sampler, settings, first, last", [
    ("ddim", {"set_alpha_to_one": True}, [981, 961], [1, -1]),
    ("ddim", {"timestep_spacing": "trailing"}, [999, 979], [19, 0]),
    ("ddim", {"steps_offset": 0}, [980, 960], [20, 0]),  # a step from the first time to itself is left out
    pytest.param("euler", {}, [999, 999 * 48 / 49], [0, -1], marks=pytest.mark.slow),  # times between
    ("dpmpp_2m", {}, [999, 979], [20, -1]),
    ("dpmpp_2m", {"timestep_spacing": "leading"}, [951, 932], [20, -1]),
    ("unipc", {"final_sigmas_type": "sigma_min"}, [999, 979], [20, 0]),
])  # fmt: skip
def test_a_solver_steps_where_the_scheduler_of_its_name_would(sampler, settings, first, last):
    trajectory = schedulers.trajectory(schedulers.read(SD_1 | settings), sampler, 50)
    found = indices(trajectory)
    np.testing.assert_allclose(found[:2], first, atol=0.01)
    np.testing.assert_allclose(found[-2:], last, atol=1e-6)


@pytest.mark.slow
def test_sampling_of_x_over_alpha_starts_at_the_noise_of_the_process():
    process = schedulers.read(SD_1)
    assert schedulers.trajectory(process, "euler", 50).start == pytest.approx(float(process.schedule.sigma(1.0)))
    assert schedulers.trajectory(process, "dpmpp_2m", 50).start == 1
    leading = schedulers.read(SD_1 | {"timestep_spacing": "leading"})
    assert schedulers.trajectory(leading, "euler", 50).start == 1


def by_the_list_of_pndm(bar, first, steps, x, eps):
    """x after diffusers' steps from the list's `first` entry on, by the counter of PNDMScheduler, in float64.

    The list of 1000 / steps = h is t_0, t_1, t_1, t_2, ...; the second call ends the step of the first, from its sample
    and by the mean of both; each other call steps from the time of its entry to the one before by h.
    """
    h = 1000 // steps
    times = [1 + h * i for i in reversed(range(steps))]
    times.insert(1, times[1])
    history, sample = [], x
    for counter, time in enumerate(times[first:]):
        before, after = (time + h, time) if counter == 1 else (time, time - h)
        found = eps(x, time)
        if counter == 1:
            e, x = (history[0] + found) / 2, sample
        else:
            history = [*history[-3:], found]
            weights = {1: [1], 2: [-1, 3], 3: [5, -16, 23], 4: [-9, 37, -59, 55]}[len(history)]
            e = np.dot(weights, history) / sum(weights)
        a, b = bar[before], bar[max(after, 0)]  # phi of the paper's eq. 11, with its differences as they are
        x = np.sqrt(b / a) * x + (np.sqrt(1 - b) - np.sqrt(b * (1 - a) / a)) * e
    return x


@pytest.mark.extended
@pytest.mark.parametrize("first", [2, 4, 9])
def test_plms_begins_at_a_picture_where_diffusers_list_of_times_does(first, x64):
    """On data N(0.3, 0.2^2), whose noise is known; of ten steps."""
    process = schedulers.read(SD_1)
    bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    noise_of = lambda x, bar: (x - np.sqrt(bar) * 0.3) * np.sqrt(1 - bar) / (0.04 * bar + 1 - bar)
    start = np.array([-1.3, 0.4, 2.1])
    expected = by_the_list_of_pndm(bar, first, 10, start, lambda x, time: noise_of(x, bar[time]))

    def denoise(x, t):
        alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
        eps = noise_of(x, alpha**2)
        return parameterizations.Prediction((x - sigma * eps) / alpha, eps)

    trajectory = schedulers.trajectory(process, "plms", 10)
    plan = schedulers.later_steps(trajectory.plan, "plms", first)
    with jax.disable_jit():
        state = trajectory.sampler.init(start, process.schedule, plan)
        for i in range(len(plan.t)):
            state = trajectory.sampler.step(state, denoise, process.schedule, plan, i, ())
    np.testing.assert_allclose(state.x, expected, rtol=1e-6)


def test_a_picture_is_changed_by_the_last_steps_of_a_trajectory():
    """Times as diffusers lists them, where a step of PNDM has two entries; of all others the last steps."""
    process = schedulers.read(SD_1)
    later = lambda name, first: schedulers.later_steps(schedulers.trajectory(process, name, 10).plan, name, first)
    at = lambda times: np.rint(times * 1000 - 1).tolist()
    plan = later("plms", 6)
    assert (at(plan.t), at(plan.s)) == ([401, 201, 101, 1], [301, 101, 1, 0])
    plan = later("plms", 9)
    assert (at(plan.t), at(plan.s)) == ([101], [1])
    for name in ("pndm", "ddim"):
        plan = later(name, 6)
        assert (at(plan.t), at(plan.s)) == ([301, 201, 101, 1], [201, 101, 1, 0]), name
    assert at(later("plms", 1).t)[:2] == [801, 701] and at(later("plms", 0).t)[:2] == [901, 801]
    with pytest.raises(ValueError, match="did you mean 'plms'"):
        schedulers.later_steps(plan, "plm", 2)


def test_a_flow_is_shifted_once_for_its_last_time_and_once_for_all():
    """SD 3's published sigmas: 1 at first, 0.00893 before the end, for a shift of 3."""
    process = schedulers.read(FLOW)
    trajectory = schedulers.trajectory(process, "", 28)
    assert process.sampler == "euler" and process.prediction == "flow_prediction"
    assert trajectory.plan.t[0] == 1 and trajectory.plan.s[-1] == 0 and len(trajectory.plan.t) == 28
    assert trajectory.plan.t[-1] == pytest.approx(0.00893, abs=1e-5)
    assert float(process.parameterization.clock(process.schedule, np.float64(0.5))) == 500
    config = FLOW | {"shift": 3.0, "use_dynamic_shifting": True, "max_shift": 1.15}
    dynamic = schedulers.read(config, even=True)  # as Flux's pipeline
    few, many = (schedulers.trajectory(dynamic, "", 4, tokens).plan.t[1] for tokens in (256, 4096))
    assert few == pytest.approx(np.exp(0.5) / (np.exp(0.5) + 1 / 3), abs=1e-6)
    assert many == pytest.approx(np.exp(1.15) / (np.exp(1.15) + 1 / 3), abs=1e-6)


@pytest.mark.parametrize("level, settings, steps, sigmas", [
    ("karras", {}, 5, [1, 0.400322, 0.139599, 0.040373, 0.008929, 0]),
    ("exponential", {}, 5, [1, 0.307394, 0.094491, 0.029046, 0.008929, 0]),
    ("beta", {}, 5, [1, 0.825888, 0.504464, 0.18304, 0.008929, 0]),
    ("karras", {"shift_terminal": 0.1}, 4, [1, 0.503248, 0.235016, 0.1, 0]),
    ("exponential", {"shift_terminal": 0.1}, 4, [1, 0.464159, 0.215443, 0.1, 0]),
    ("beta", {"shift_terminal": 0.1}, 4, [1, 0.752128, 0.347872, 0.1, 0]),
])  # fmt: skip
def test_a_flow_has_other_levels_between_its_first_and_its_last(level, settings, steps, sigmas):
    """As `set_timesteps` of FlowMatchEulerDiscreteScheduler in diffusers 0.42.1 lays them."""
    process = schedulers.read(FLOW | settings | {f"use_{level}_sigmas": True})
    plan = schedulers.trajectory(process, "", steps).plan
    np.testing.assert_allclose([*plan.t, plan.s[-1]], sigmas, atol=1e-6)


@pytest.mark.parametrize("level, sigmas", [
    ("karras", [1, 0.784002, 0.609296, 0.469081, 0.357486, 0]),
    ("exponential", [1, 0.773241, 0.597901, 0.462321, 0.357486, 0]),
    ("beta", [1, 0.887123, 0.678743, 0.470363, 0.357486, 0]),
])  # fmt: skip
def test_a_flow_with_a_dynamic_shift_has_them_too(level, sigmas):
    """The same scheduler with mu = 0.8, by a pipeline that lays the steps evenly, as Flux's does."""
    config = {"use_dynamic_shifting": True, f"use_{level}_sigmas": True, "base_shift": 0.8, "max_shift": 0.8}
    process = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler"} | config, even=True)
    plan = schedulers.trajectory(process, "", 5, tokens=1024).plan
    np.testing.assert_allclose([*plan.t, plan.s[-1]], sigmas, atol=1e-6)


@pytest.mark.parametrize("steps, sigmas", [
    # `set_timesteps` of diffusers 0.42.1 with mu = 0.8
    (5, [1, 0.761905, 0.545455, 0.347826, 0.166667, 0]),
    (2, [1, 0.444444, 0]),
])  # fmt: skip
def test_a_flow_with_a_linear_shift_moves_its_times_by_mu_itself(steps, sigmas):
    """mu / (mu + 1 / t - 1), as CogView 4 is published; where nothing is dynamic the field has no effect."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "time_shift_type": "linear", "shift": 3.0}
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.8, "max_shift": 0.8}
    plan = schedulers.trajectory(schedulers.read(config | dynamic, even=True), "", steps, tokens=1024).plan
    np.testing.assert_allclose([*plan.t, plan.s[-1]], sigmas, atol=1e-6)
    fixed, usual = (schedulers.trajectory(schedulers.read(one), "", steps).plan for one in (config, FLOW))
    np.testing.assert_array_equal(fixed.t, usual.t)


@pytest.mark.extended
@pytest.mark.parametrize("config", [{"stochastic_sampling": True}, FLOW_LCM])
def test_a_stochastic_flow_draws_new_noise_after_each_step(config):
    """(1 - s) x0 + s z of each step, as LTX-Video 0.9.6 distilled and HiDream-I1-Dev are published.

    A request may name another sampler.
    """
    process = schedulers.read(FLOW | config)
    trajectory = schedulers.trajectory(process, "", 4)
    usual = schedulers.trajectory(schedulers.read(FLOW), "", 4)
    assert (process.sampler, process.parameterization.name, trajectory.sampler.draws) == ("lcm", "velocity", 1)
    np.testing.assert_array_equal(trajectory.plan.grid, usual.plan.grid)
    assert schedulers.trajectory(process, "euler", 4).sampler.draws == 0
    denoise = lambda x, t: parameterizations.Prediction(jnp.full_like(x, 0.25), x)
    jump = flow_maps.from_denoiser(denoise, process.schedule)
    state = trajectory.sampler.init(jnp.ones((1, 2)), process.schedule, trajectory.plan)
    noise = jnp.array([[[2.0, -1.0]]])
    for i, s in enumerate(trajectory.plan.s):
        state = trajectory.sampler.step(state, jump, process.schedule, trajectory.plan, jnp.asarray(i), noise)
        np.testing.assert_allclose(state.x, (1 - s) * 0.25 + s * noise[0], rtol=1e-6)


DPM_FLOW = {
    "_class_name": "DPMSolverMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "beta_schedule": "linear",
    "variance_type": None,
}


@pytest.mark.parametrize(
    "shift, sigmas",
    [  # of diffusers 0.42 with 4 steps
        (1.0, [0.9990000128746033, 0.7492499947547913, 0.49950000643730164, 0.24975000321865082, 0.0]),
        (3.0, [0.9996664524078369, 0.8996397852897644, 0.7496247887611389, 0.4996665418148041, 0.0]),
    ],
)
@pytest.mark.parametrize("predicts, name", [("flow_prediction", "velocity"), ("sample", "x0")])
def test_a_flow_by_dpm_solver_steps_where_its_scheduler_would(predicts, name, shift, sigmas):
    process = schedulers.read(DPM_FLOW | {"flow_shift": shift, "prediction_type": predicts})
    assert (process.prediction, process.sampler) == (predicts, "dpmpp_2m")
    assert process.parameterization.name == name
    trajectory = schedulers.trajectory(process, "", 4)
    np.testing.assert_allclose([*trajectory.plan.t, trajectory.plan.s[-1]], sigmas, atol=1e-7)
    assert trajectory.start == 1
    assert float(process.parameterization.clock(process.schedule, np.float64(0.5))) == 500


UNIPC_FLOW = DPM_FLOW | {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2"}
KARRAS = SD_1 | {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}


def received(process, trajectory):
    """The numbers that the network receives at the steps of a trajectory."""
    clocked = trajectory.clocked(process.parameterization)
    return np.asarray(clocked.clock(process.schedule, trajectory.plan.t))


@pytest.mark.extended
@pytest.mark.parametrize("config, sampler, steps, times", [
    # `timesteps` of diffusers 0.42.1; some that are whole before rounding are cut below it, in float64 as here
    (UNIPC_FLOW | {"flow_shift": 3.0}, "", 10, [999, 964, 923, 875, 818, 750, 667, 563, 429, 251]),
    (UNIPC_FLOW, "", 9, [999, 889, 778, 667, 556, 444, 333, 222, 111]),
    (DPM_FLOW, "", 27, [999, 962, 924, 887, 851, 814, 776, 740, 703, 665, 629, 592, 554, 518, 481, 443, 407, 370, 332,
                        296, 259, 221, 185, 148, 110, 73, 37]),
    (DPM_FLOW | {"solver_order": 1}, "", 4, [999, 749, 499, 249]),
    (KARRAS, "", 8, [999, 890, 746, 549, 299, 90, 12, 0]),
    (KARRAS, "deis", 8, [999, 890, 746, 549, 299, 90, 12, 0]),
    (KARRAS | {"use_karras_sigmas": False, "use_lu_lambdas": True}, "", 8, [999, 835, 622, 359, 133, 31, 5, 0]),
])  # fmt: skip
def test_a_network_receives_whole_times_where_its_scheduler_has_no_others(config, sampler, steps, times):
    process = schedulers.read(config)
    trajectory = schedulers.trajectory(process, sampler, steps)
    np.testing.assert_allclose(received(process, trajectory), times, atol=1e-4)
    if "use_flow_sigmas" in config:  # the noise is that of the times before they are cut
        assert np.abs(trajectory.plan.t[1:] * 1000 - times[1:]).max() < 1 + 1e-9
    frames = np.array([[0.0, trajectory.plan.t[1]]])  # of a clip, whose first frame is known
    of_frames = trajectory.clocked(process.parameterization).clock(process.schedule, frames)
    if "use_flow_sigmas" in config:
        np.testing.assert_allclose(of_frames, [[0, times[1]]], atol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("config, sampler", [
    (UNIPC_FLOW, "euler"), (FLOW, "euler"), (KARRAS, "heun"), (SD_1, "dpmpp_2m"), (SD_1, "euler"),
])  # fmt: skip
def test_a_network_receives_the_times_of_the_noise_elsewhere(config, sampler):
    process = schedulers.read(config)
    trajectory = schedulers.trajectory(process, sampler, 7)
    clock = process.parameterization.clock(process.schedule, trajectory.plan.t)
    np.testing.assert_array_equal(received(process, trajectory), clock)


def test_the_first_order_of_dpm_solver_on_a_flow_is_eulers_method():
    process = schedulers.read(DPM_FLOW | {"solver_order": 1, "flow_shift": 3.0})
    assert process.sampler == "ddim"
    second = schedulers.read(DPM_FLOW | {"solver_order": 2, "flow_shift": 3.0})
    for ours, theirs in zip(schedulers.trajectory(process, "", 4).plan, schedulers.trajectory(second, "", 4).plan):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "steps, times",
    [  # of diffusers 0.42: LCMScheduler.set_timesteps
        (1, [999]),
        (2, [999, 499]),
        (4, [999, 759, 499, 259]),
        (7, [999, 859, 719, 579, 439, 299, 159]),
        (8, [999, 879, 759, 639, 499, 379, 259, 139]),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"timestep_spacing": "trailing", "set_alpha_to_one": True}])
def test_lcm_steps_from_where_it_learned_to_the_data(steps, times, settings):
    process = schedulers.read(SD_1 | {"_class_name": "LCMScheduler", "timestep_scaling": 10.0} | settings)
    assert process.sampler == "lcm"
    np.testing.assert_allclose(indices(schedulers.trajectory(process, "", steps)), [*times, -1], atol=1e-9)
    with pytest.raises(ValueError, match=r"steps = 51 must be in 1 \.\. 50, the number of steps in the distillation"):
        schedulers.trajectory(process, "", 51)
    other = schedulers.read(SD_1 | {"_class_name": "LCMScheduler", "original_inference_steps": 100})
    assert indices(schedulers.trajectory(other, "", 4)).tolist() == pytest.approx([999, 749, 499, 249, -1])


def test_the_steps_of_a_students_training_matter_to_the_solvers_that_read_them_alone():
    """A process of fewer than LCM's 50 steps was refused, whatever its class."""
    short = SD_1 | {"num_train_timesteps": 20}
    process = schedulers.read(short)
    at = lambda trajectory: np.rint(trajectory.plan.t * 20 - 1).tolist()
    assert at(schedulers.trajectory(process, "ddim", 10)) == [*range(19, 0, -2)]
    message = "original_inference_steps = 50 must be in 1 .. 20, the steps of the process"
    with pytest.raises(ValueError, match=message):
        schedulers.trajectory(process, "lcm", 4)
    for name in ("LCMScheduler", "TCDScheduler"):
        with pytest.raises(Refusal, match=f"{name}: {message}"):
            schedulers.read(short | {"_class_name": name})
        own = schedulers.read(short | {"_class_name": name, "original_inference_steps": 10})
        assert at(schedulers.trajectory(own, "", 5)) == [19, 15, 11, 7, 3]


OURS = {"_class_name": schedulers.OURS, "use_flow_sigmas": True, "prediction_type": "sample", "flow_shift": 3.0}


def test_a_student_of_a_flow_steps_from_its_noise_to_the_data():
    process = schedulers.read(OURS)
    trajectory = schedulers.trajectory(process, "", 4)
    assert (process.sampler, process.parameterization.name, trajectory.start) == ("lcm", "x0", 1)
    np.testing.assert_allclose([*trajectory.plan.t, trajectory.plan.s[-1]], [1, 0.9, 0.75, 0.5, 0])  # 3 t / (1 + 2 t)
    x_t = np.ones((1, 2))
    output = np.zeros((1, 2))
    bounded = schedulers.read(OURS | {"boundary_scaling": 0.01}).parameterization
    x0 = bounded.to_prediction(process.schedule, np.full(1, 0.1), x_t, output).x0
    np.testing.assert_allclose(x0, 0.25 / (1 + 0.25))  # n = 0.01 * 1000 * 0.1 = 1


@pytest.mark.parametrize("content, usual", [(None, (28, 3.5)), ({"steps": 4}, (4, 3.5)), ({"guidance": 1}, (28, 1))])
def test_a_folder_may_say_how_its_model_is_sampled(content, usual, tmp_path):
    if content is not None:
        (tmp_path / "sampling.json").write_text(json.dumps(content))
    assert model_index.read_usual(tmp_path, pipelines.Usual(28, 3.5)) == usual


UNET = ConditionalUNet((32,), (1,), (2,), 8)
STUDENT = UNET.clone(strength_width=8)
DEV = Flux(strength=True)
SCHNELL = Flux()
TURBO = SD_1 | {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
LCM = SD_1 | {"_class_name": "LCMScheduler"}


@pytest.mark.parametrize("name, scheduler, denoiser, usual", [
    ("StableDiffusionPipeline", SD_1, UNET, (50, 7.5)),
    ("StableDiffusionXLPipeline", SD_1, UNET, (50, 5.0)),
    ("StableDiffusionXLInpaintPipeline", SD_1, UNET, (50, 7.5)),
    ("StableDiffusion3Pipeline", FLOW, UNET, (28, 7.0)),
    ("FluxPipeline", FLOW, DEV, (28, 3.5)),
    ("FluxPipeline", FLOW, SCHNELL, (4, 1.0)),
    ("QwenImagePipeline", FLOW, QwenImage(), (50, 4.0)),
    ("Flux2KleinPipeline", FLOW, Flux2(), (50, 4.0)),
    ("Flux2Pipeline", FLOW, Flux2(strength=True), (50, 4.0)),
    ("Lumina2Pipeline", FLOW, Lumina2(), (30, 4.0)),
    ("SanaPipeline", FLOW, Sana(), (20, 4.5)),
    ("SanaSprintPipeline", {"_class_name": "SCMScheduler"}, Sana(strength=True), (2, 4.5)),
    ("ZImagePipeline", FLOW | {"shift": 6.0}, ZImage(), (50, 6.0)),
    ("ZImagePipeline", FLOW | {"shift": 3.0}, ZImage(), (8, 1.0)),
    ("PixArtAlphaPipeline", SD_1, UNET, (20, 4.5)),
    ("PixArtSigmaPipeline", SD_1, UNET, (20, 4.5)),
    ("WanPipeline", FLOW, Wan(), (50, 5.0)),
    ("LatentConsistencyModelPipeline", LCM, STUDENT, (4, 8.5)),
    ("StableDiffusionXLPipeline", LCM, STUDENT, (4, 8.5)),
    ("PixArtAlphaPipeline", LCM, UNET, (4, 1.0)),
    ("StableDiffusionXLPipeline", TURBO, UNET, (1, 1.0)),
    ("StableDiffusionPipeline", TURBO | {"_class_name": "EulerDiscreteScheduler"}, UNET, (1, 1.0)),
    ("StableDiffusionPipeline", TURBO | {"timestep_spacing": "leading"}, UNET, (50, 7.5)),
    # Zero-terminal networks of v are sampled from the last time too, and are no students.
    ("StableDiffusionXLPipeline", TURBO | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, UNET,
     (50, 5.0)),
])  # fmt: skip
def test_a_model_is_sampled_as_it_was_published(name, scheduler, denoiser, usual, tmp_path):
    """The figures are those of the classes' `__call__` in diffusers 0.42, and of the models' cards."""
    kind = pipelines.kind_of(name, tmp_path)
    assert pipelines.published(kind, schedulers.read(scheduler), denoiser) == usual


@pytest.mark.parametrize("name, denoiser, message", [
    ("FluxPipeline", Flux(channels=32), "must take 16 channels, but this one takes 32"),
    ("FluxFillPipeline", DEV, "must take 96 channels, but this one takes 16"),
    ("FluxControlPipeline", DEV, "must take 32 channels, but this one takes 16"),
    ("FluxControlPipeline", Flux(channels=32), "must have guidance_embeds, but this one has none"),
    ("FluxControlPipeline", Flux(channels=32, strength=True), ""),
    ("FluxKontextPipeline", SCHNELL, "must have guidance_embeds, but this one has none"),
    ("ChromaPipeline", SCHNELL, "must have an approximator, but this one has none"),
    ("FluxPipeline", Flux(pooled_width=0, approximator=(64, 8, 2)), "must have no approximator, as Chroma's"),
    ("FluxPipeline", SCHNELL, ""),
    ("FluxFillPipeline", Flux(channels=96, strength=True), ""),
    ("FluxKontextPipeline", DEV, ""),
    ("ChromaPipeline", Flux(pooled_width=0, approximator=(64, 8, 2)), ""),
    ("QwenImagePipeline", QwenImage(), ""),
    ("Flux2Pipeline", Flux2(channels=16), "must have guidance_embeds, but this one has none"),
    ("Flux2KleinPipeline", SCHNELL, "must be a Flux2, but this one is a Flux"),
    ("ZImagePipeline", ZImage(), ""),
    ("ZImagePipeline", SCHNELL, "must be a ZImage, but this one is a Flux"),
    ("SanaSprintPipeline", Sana(channels=16), "must have guidance_embeds, but this one has none"),
    ("PixArtAlphaPipeline", PixArt(), ""),
    ("StableDiffusionInpaintPipeline", UNET, ""),
])  # fmt: skip
def test_a_denoiser_receives_what_its_pipeline_gives(name, denoiser, message, tmp_path):
    autoencoder = AutoencoderKL(latent_channels=16)
    check = functools.partial(
        denoiser_checks.check_denoiser, tmp_path, name, pipelines.KINDS[name], denoiser, autoencoder
    )
    if not message:
        return check()
    with pytest.raises(Refusal, match=f"the denoiser of a {name} {message}"):
        check()


def test_a_distilled_klein_takes_few_steps(tmp_path):
    kind = pipelines.kind_of("Flux2KleinPipeline", tmp_path)
    assert pipelines.published(kind, schedulers.read(FLOW), Flux2(), student=True) == (4, 1.0)


def test_every_pipeline_that_loads_is_on_the_page_of_families():
    page = (
        (pathlib.Path(__file__).parents[2] / "docs" / "families.md")
        .read_text()
        .partition("## What is supported in part")[0]
    )
    assert set(re.findall(r"`(\w+Pipeline)`", page)) == set(pipelines.KINDS)


def test_relatives_of_an_unknown_pipeline_are_named_and_strangers_are_not(tmp_path):
    refused = functools.partial(pytest.raises, Refusal)
    relatives = r"PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtSigmaPAGPipeline\.$"
    with refused(match=rf"PixArtAlphaPAGPipeline.*Its family has {relatives}"):
        pipelines.kind_of("PixArtAlphaPAGPipeline", tmp_path)
    with refused(
        match=r"Its family has StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, "
        r"StableDiffusionXLInpaintPipeline, StableDiffusionXLInstructPix2PixPipeline, StableDiffusionXLC[^.]*\.$"
    ):
        pipelines.kind_of("StableDiffusionXLControlNetXSPipeline", tmp_path)
    for stranger in ("AudioLDMPipeline", "StableVideoDiffusionPipeline", "None"):
        with refused(match=r"supported: .*PixArtSigmaPipeline, [^.]*\.$"):
            pipelines.kind_of(stranger, tmp_path)


@pytest.mark.parametrize("content, message", [
    ({"step": 4}, r"sampling\.json holds .*'?step.* Valid fields: steps, guidance"),
    ([4, 1.0], "Valid fields: steps, guidance"),
    ({"steps": 0}, "steps = 0. Valid: a whole number, at least 1"),
    ({"steps": 4.0}, r"steps = 4\.0. Valid"),
    ({"guidance": "2"}, "guidance = '2'. Valid: a number"),
    ({"guidance": float("inf")}, "guidance = inf. Valid"),
])  # fmt: skip
def test_what_a_folder_says_wrongly_of_its_sampling_is_refused(content, message, tmp_path):
    (tmp_path / "sampling.json").write_text(json.dumps(content))
    with pytest.raises(Refusal, match=message):
        model_index.read_usual(tmp_path, pipelines.Usual())


@pytest.mark.parametrize("config, how, message", [
    (DPM_FLOW | {"prediction_type": "epsilon"}, {}, "prediction_type = 'epsilon' is not supported"),
    (DPM_FLOW | {"use_karras_sigmas": True}, {}, "use_karras_sigmas = True"),
    (SD_1, {"prediction": "v_prediction"}, "'v_prediction' contradicts the config .* says 'epsilon'"),
    (SD_1 | {"prediction_type": "v_prediction"}, {"prediction": "epsilon"}, "contradicts"),
    (SD_1 | {"prediction_type": "score"}, {}, "prediction_type = 'score' is not supported"),
    (SD_1 | {"beta_schedule": "sigmoid"}, {}, "beta_schedule = 'sigmoid'"),
    (SD_1 | {"trained_betas": [0.1, 0.2]}, {}, "2 trained_betas and num_train_timesteps = 1000 contradict"),
    (SD_1 | {"thresholding": True}, {}, "thresholding = True"),
    (SD_1 | {"something_new": 3}, {}, "sets something_new = 3"),
    (FLOW, {"prediction": "epsilon"}, "contradicts"),
    (SD_1 | {"_class_name": "LCMScheduler", "original_inference_steps": 0}, {}, "original_inference_steps = 0 must be"),
    (SD_1 | {"_class_name": "LCMScheduler", "original_inference_steps": 2000}, {}, "= 2000 must be in 1 .. 1000"),
    (OURS | {"boundary_scaling": -1.0}, {}, r"boundary_scaling = -1\.0 must be a positive number"),
    (OURS | {"prediction_type": "epsilon"}, {}, "prediction_type = 'epsilon' is not supported"),
    (FLOW | {"_class_name": "FlowMatchHeunDiscreteScheduler", "use_karras_sigmas": True}, {}, "use_karras_sigmas"),
    (FLOW | {"use_karras_sigmas": True, "use_beta_sigmas": True}, {}, "only one of use_karras_sigmas"),
    (FLOW | {"time_shift_type": "cosine"}, {}, "time_shift_type = 'cosine' .*; supported: 'exponential', 'linear'"),
    (FLOW | {"stochastic_sampling": 1.5}, {}, "stochastic_sampling = 1.5 is not supported; supported: False, True"),
    (FLOW | {"_class_name": "FlowMatchHeunDiscreteScheduler", "stochastic_sampling": True}, {},
     "stochastic_sampling = True is not supported; supported: False"),
    (FLOW | FLOW_LCM | {"scale_factors": [0.5]}, {}, r"scale_factors = \[0\.5\] is not supported; supported: None"),
    (FLOW | {"invert_sigmas": True}, {}, "invert_sigmas = True is not supported; supported: False"),
    (FLOW | {"use_lu_lambdas": True}, {}, "use_lu_lambdas = True"),
])  # fmt: skip
def test_a_config_that_asks_for_what_is_not_had_or_contradicts_itself_is_refused(config, how, message):
    with pytest.raises(Refusal, match=message):
        schedulers.read(config, **how)


def test_what_every_scheduler_says_by_default_is_known():
    """All fields that diffusers writes, none of them set."""
    configs = json.loads((made_pipelines.FIXTURES / "schedulers.json").read_text())
    assert len(configs) == 21
    own = {name: schedulers.read(config).sampler for name, config in configs.items()}
    assert own["DDIM"] == "ddim" and own["UniPCMultistep"] == "unipc" and own["PNDM"] == "pndm"
    assert own["EDMEuler"] == "euler" and own["EDMDPMSolverMultistep"] == "dpmpp_2m" and own["TCD"] == "tcd"
    assert own["DEISMultistep"] == "deis" and own["FlowMatchHeunDiscrete"] == "heun"
    assert own["FlowMatchLCM"] == "lcm"


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'PNDMScheduler'"):
        schedulers.read(SD_1 | {"_class_name": "PNDScheduler"})
    with pytest.raises(ValueError, match="did you mean 'epsilon'"):
        schedulers.read(SD_1, prediction="epsilo")
    with pytest.raises(ValueError, match="did you mean 'unipc'"):
        schedulers.trajectory(schedulers.read(SD_1), "unip", 30)


@pytest.mark.slow
def test_epsilon_prediction_is_refused_where_alpha_is_zero():
    process = schedulers.read(SD_1 | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    with pytest.raises(ValueError, match=r"epsilon prediction is not defined at t = 1"):
        parameterizations.check(process.parameterization, process.schedule, 1.0)


def test_folders_that_are_no_known_pipeline_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model_index\.json does not exist"):
        text_to_image.load(tmp_path)
    (tmp_path / "one.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"is a single file; diffusion convert"):
        text_to_image.load(tmp_path / "one.safetensors")
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDifusion3Pipeline"}))
    with pytest.raises(Refusal, match=r"is a StableDifusion3Pipeline.* supported: .*StableDiffusion3Pipeline"):
        text_to_image.load(tmp_path)
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "text_encoder": [None, None]}))
    with pytest.raises(Refusal, match="has no text_encoder"):
        text_to_image.load(tmp_path)
    index.write_text("[1]")
    with pytest.raises(ValueError, match="holds list"):
        text_to_image.load(tmp_path)


def test_the_fingerprint_is_of_names_and_content(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    first = model_index.fingerprint(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"1")  # nothing of the model
    assert model_index.fingerprint(tmp_path) == first
    (tmp_path / "unet" / "config.json").write_text("{ }")
    second = model_index.fingerprint(tmp_path)
    (tmp_path / "unet").rename(tmp_path / "vae")
    assert len({first, second, model_index.fingerprint(tmp_path)}) == 3


@pytest.mark.extended
def test_text_encoders_that_are_dropped_are_read_for_each_request(tmp_path):
    """The same pictures, with a word and a LoRA of the text encoder; while the trajectory runs, the rest is held."""
    folder = made_pipelines.folder("sd", tmp_path / "sd")
    kept = text_to_image.load(folder)
    module, width = kept.modules["text_encoder"], kept.modules["text_encoder"].width
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    factors = {"lora_A": drawn_like((2, width), 1), "lora_B": drawn_like((width, 2), 2)}
    save_file({f"{layer}.{name}.weight": array for name, array in factors.items()}, tmp_path / "lora.safetensors")
    save_file({"<toy>": drawn_like((1, width), 3)}, tmp_path / "word.safetensors")
    files = {"loras": {tmp_path / "lora.safetensors": 1.0}, "embeddings": {tmp_path / "word.safetensors": ""}}
    kept = text_to_image.load(folder, **files)
    dropping = text_to_image.load(folder, **files, drop_text=True)
    assert set(kept.params) - set(dropping.params) == {"text_encoder"}
    encoders = dropping.encoders
    held = weakref.ref(jax.tree.leaves(encoders[0].network.args[0])[0])
    del encoders
    assert held() is None  # nothing else holds what a request has read
    for prompt in ("a <toy> cat", "a dog"):
        both = [text_to_image.conditions(model, [prompt], "bad", 2.0, 16, 16) for model in (kept, dropping)]
        jax.tree.map(np.testing.assert_array_equal, *both)
    plain = text_to_image.conditions(text_to_image.load(folder), ["a dog"], "bad", 2.0, 16, 16)
    assert np.abs(plain[0]["text"] - both[0][0]["text"]).max() > 1e-3
    assert module.vocabulary + 1 == dropping.modules["text_encoder"].vocabulary
    with pytest.raises(ValueError, match=r"frees its text encoders,.*\. Valid: load"):
        text_to_image.with_loras(dropping, files["loras"])


def drawn_like(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_redux_is_refused_as_a_model_with_how_it_is_attached(tmp_path):
    with pytest.raises(Refusal, match=r"is FLUX\.1 Redux, which is attached to a FLUX\.1: .*--attach=look=FOLDER"):
        pipelines.kind_of("FluxPriorReduxPipeline", tmp_path)


@pytest.mark.parametrize("name", ["DDPMPipeline", "DDIMPipeline", "ConsistencyModelPipeline", "DiTPipeline"])
def test_a_pipeline_of_classes_names_the_command_that_takes_it(name, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    message = rf"{tmp_path} is a {name}, which has no prompt\. .*diffusion sample --model={tmp_path}; in Python, "
    with pytest.raises(Refusal, match=message + rf"diffusion\.experiments\.sampling\.trained_run\.load\('{tmp_path}'"):
        text_to_image.load(tmp_path)


def test_the_pipelines_that_are_sampled_as_runs_are_those_of_the_command():
    from diffusion.experiments.sampling import class_models  # reads networks

    assert set(pipelines.OF_CLASSES) == set(class_models.KINDS)

"""Runs that train flow maps and students, from their configs: the step, the teacher that the run keeps, the samples."""

import jax
import numpy as np
import pytest

from configs import digits, digits_improved_mean_flow, digits_mean_flow
from diffusion.experiments import train
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.recipe import ConfigError, Recipe, checks
from diffusion.training.checkpointing import checkpoints
from diffusion.training.step import HEADS

pytestmark = pytest.mark.usefixtures("compilation_cache")
BOUNDARY = {"name": "consistency_boundary"}
OBJECTIVES = {  # the objective, and what its network predicts
    "mean_flow": ({"name": "mean_flow", "density": {"name": "uniform_density"}}, {"name": "velocity"}),
    "shortcut": ({"name": "shortcut", "M": 8}, {"name": "velocity"}),
    "ct": ({"name": "ct"}, BOUNDARY),
    "ict": ({"name": "ict"}, BOUNDARY),
    "ect": ({"name": "ect", "stage": 2}, {"name": "edm"}),
    "continuous_consistency": (
        {"name": "continuous_consistency", "density": {"name": "log_normal", "mean": -1.0, "std": 1.4}},
        {"name": "edm"},
    ),
}


def config_of(name):
    config = digits_mean_flow.get_config("tiny")
    config.objective, config.parameterization = OBJECTIVES[name]
    config.objective.wrappers = ({"name": "condition_dropout", "rate": 0.1},)
    if config.parameterization["name"] != "velocity":
        config.schedule = {"name": "edm"}
    config.train.steps, config.checkpoint.every, config.optimizer.warmup = 2, 2, 1
    config.model.unroll = 1
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_flow_map_trains_and_samples_in_one_evaluation(name, tmp_path):
    config = config_of(name)
    checks.validate(config)
    assert train.run(config, tmp_path) == 0
    params, _ = checkpoints.load_ema(tmp_path)
    make = generate.generator(Recipe.from_config(config, (8, 8, 1)))
    images = make.images(params, generate.balanced_labels(20, 10), generate.seeds(config, 20))
    assert make.nfe == 1 and images.shape == (20, 8, 8, 1) and np.ptp(images) > 0  # hardly trained, nearly grey


@pytest.mark.slow
def test_a_student_keeps_its_teacher(tmp_path):
    """It learns from the run's moving average, and goes on when the teacher's own folder is gone."""
    teacher = digits.get_config("tiny")
    teacher.objective = {
        "name": "denoising",
        "density": {"name": "uniform_density"},
        "weighting": {"name": "truncated_snr"},
        "wrappers": (
            {"name": "uncertainty", "network": {"name": "uncertainty", "channels": 8}},
            {"name": "condition_dropout", "rate": 0.1},
        ),
    }
    teacher.schedule, teacher.parameterization = {"name": "cosine"}, {"name": "v"}
    teacher.train.steps, teacher.checkpoint.every, teacher.optimizer.warmup = 2, 2, 1
    teacher.sample.sampler, teacher.sample.steps = {"name": "ddim"}, 4
    assert train.run(teacher, tmp_path / "teacher") == 0
    student = teacher.copy_and_resolve_references()
    student.objective = {"name": "progressive_distillation", "N": 2}
    student.teacher.path = str(tmp_path / "teacher")
    student.teacher.parameterization = {"name": "v"}
    student.init_from.path = str(tmp_path / "teacher")
    student.sample.steps, student.sample.guidance.scale = 2, 1.0
    checks.validate(student)
    assert train.run(student, tmp_path / "student") == 0
    ema, _ = checkpoints.load_ema(tmp_path / "teacher")
    assert ema.pop(HEADS).keys() == {"uncertainty"}  # it trained beside the teacher, and teaches nothing
    kept, _ = checkpoints._load("frozen", tmp_path / "student", 2)
    jax.tree.map(np.testing.assert_array_equal, kept["teacher"], ema)
    (tmp_path / "teacher").rename(tmp_path / "moved")  # nothing of it is read again
    student.train.steps = 4
    assert train.run(student, tmp_path / "student") == 0
    assert checkpoints.steps(tmp_path / "student") == [2, 4]


@pytest.mark.slow
def test_a_teacher_of_another_kind_is_refused(tmp_path):
    config = digits.get_config("tiny")
    config.train.steps = config.checkpoint.every = 1
    assert train.run(config, tmp_path / "teacher") == 0
    student = config.copy_and_resolve_references()
    student.schedule, student.parameterization = {"name": "cosine"}, {"name": "v"}
    student.objective = {"name": "progressive_distillation", "N": 2}
    student.teacher.path = str(tmp_path / "teacher")
    student.teacher.parameterization = {"name": "v"}
    student.sample.guidance.scale = 1.0
    with pytest.raises(ConfigError, match=r"the teacher's config.schedule is .*rectified_flow.* this run has .*cosine"):
        train.run(student, tmp_path / "student")
    student.schedule = config.schedule
    with pytest.raises(
        ConfigError, match=r"the teacher's config.parameterization is .*, but config.teacher.parameterization is .*'v'"
    ):
        train.run(student, tmp_path / "another")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sample.sampler": {"name": "heun"}}, r"trains a flow map,.*\. Valid: flow_map, consistency or tcd"),
        ({"sample.guidance.scale": 2.0}, "a flow map is guided during its training"),
        ({"sample.guidance.interval": (0.2, 0.5)}, "guidance.interval = .*this network does not receive the interval"),
        ({"parameterization": {"name": "v"}}, "trains a network that predicts 'velocity'"),
        (
            {"objective": {"name": "progressive_distillation", "N": 2}},
            "config.teacher.path = '', .* learns from a teacher. Valid: the folder of a run",
        ),
        ({"teacher.path": "/"}, "the objective uses no teacher"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    config = digits_mean_flow.get_config("tiny")
    config.update_from_flattened_dict(change)
    with pytest.raises(ConfigError, match=words):
        checks.validate(config)


def test_a_flow_map_that_receives_its_guidance_is_sampled_within_its_range():
    config = digits_improved_mean_flow.get_config("tiny")
    config.sample.guidance.update({"scale": 2.0, "interval": (0.2, 0.5)})
    checks.validate(config)
    assert Recipe.from_config(config, (8, 8, 1)).network.interval
    config.sample.guidance.scale = 2.5
    with pytest.raises(ConfigError, match="for scales from 1 to 2"):
        checks.validate(config)
    config.sample.guidance.scale = 1.0
    config.model = {"name": "mit", "patch": 2, "width": 8, "depth": 1, "heads": 1, "num_classes": 10}
    checks.validate(config)


def test_a_flow_map_has_no_denoiser():
    with pytest.raises(ConfigError, match="trains a flow map, but this needs a denoiser"):
        run_denoiser.denoiser(Recipe.from_config(digits_mean_flow.get_config("tiny"), (8, 8, 1)))

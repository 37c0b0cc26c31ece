"""A run from Python objects alone: one's own module, records and objective train, go on, are sampled and measured."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion.experiments.reproduce
import diffusion.experiments.train
from diffusion import objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.experiments.evaluate import evaluate
from diffusion.experiments.evaluation.sample_metrics import Effort
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling.run_samples import sample
from diffusion.experiments.train import train
from diffusion.objectives.inputs import mean_square, noised
from diffusion.recipe import ConfigError
from diffusion.recipe.companions import SecondPlayer, Teacher
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.sections import sectioned
from diffusion.training import optimizers
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import preemption
from tests import commands, shared_programs

LINE = schedules.rectified_flow()
DENSITY = timesteps.uniform_density(LINE)
VELOCITY = parameterizations.velocity()
SETTINGS = {
    "train.steps": 2, "train.batch_size": 4, "train.log_every": 1, "checkpoint.every": 2, "data.threads": 0,
    "sample.steps": 2, "sample.number": 6, "sample.batch_size": 6, "train.accumulate": 1,
}  # fmt: skip


class Perceptron(nn.Module):
    """The user's own network, of points or of pictures."""

    width: int = 8

    @nn.compact
    def __call__(self, x, t, condition=None):
        rows = x.reshape(len(x), -1)
        hidden = nn.silu(nn.Dense(self.width)(jnp.concatenate([rows, t[:, None]], axis=1)))
        return nn.Dense(rows.shape[1])(hidden).reshape(x.shape)


def own_objective(scale=1.0):
    """Flow matching, written out."""

    def loss(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, DENSITY, keys, batch)
        return scale * importance * mean_square(networks["model"](x_t, t, None) - (eps - x_0)), {"t": t}

    return objectives.Objective(loss, density=DENSITY)


OWN = own_objective()


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """Runs of equal parts differ in their data, and in where they stop."""
    with shared_programs.traced_once("data", "train.steps"):
        yield


def points(number=16, first=0):
    return [{"x": np.float32([np.cos(i), np.sin(i)])} for i in range(first, first + number)]


def pictures(number=16, shift=0):
    return [{"image": np.full((2, 2, 1), 10 * i + shift, np.uint8), "label": 0} for i in range(number)]


def recipe(data=None, settings=None, **parts):
    parts = {"schedule": LINE, "objective": OWN, "network": Perceptron(), "parameterization": VELOCITY} | parts
    data = points() if data is None else data
    return Recipe(**sectioned({"data": data, "config": SETTINGS | (settings or {})} | parts))


@pytest.mark.extended
def test_points_train_go_on_and_are_sampled(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    run = tmp_path / "run"
    assert train(recipe(), run) == 0
    said = capsys.readouterr().out
    assert (
        f"finished 2 steps: {run}. Next: diffusion.experiments.sampling.run_samples.sample(recipe, {str(run)!r})"
        in said
    )
    assert train(recipe(), run) == 0
    said = capsys.readouterr().out
    assert f"sample(recipe, {str(run)!r}), or train on with config={{'train.steps': 4}}." in said
    with pytest.raises(workdir.WorkdirError, match=rf"Make it by: diffusion\..*\.sample\(recipe, {str(run)!r}\)"):
        evaluate(recipe(held_out=points(first=16)), run)
    assert train(recipe(settings={"train.steps": 4}), run) == 0
    straight = tmp_path / "straight"
    assert train(recipe(settings={"train.steps": 4}), straight) == 0
    jax.tree.map(np.testing.assert_array_equal, *(checkpoints.load_ema(folder, 4)[0] for folder in (run, straight)))
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    made = sample(recipe(settings={"train.steps": 4}), run)
    assert made.shape == (6, 2) and made.dtype == np.float32 and np.ptp(made) > 0
    np.testing.assert_array_equal(np.load(run / "samples.npz")["images"], made)

    params, _ = checkpoints.load_ema(run)
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(np.arange(6, dtype=np.uint32))
    denoise = parameterizations.denoiser(lambda *inputs: Perceptron().apply(params, *inputs), LINE, VELOCITY)
    plan = timesteps.plan(timesteps.uniform(LINE, steps=2))
    by_hand = samplers.sample(samplers.heun(), denoise, LINE, samplers.prior(LINE, keys[0], (2,)), plan, keys[1])
    np.testing.assert_allclose(made, by_hand, rtol=1e-4, atol=1e-5)
    figures = evaluate(recipe(held_out=points(first=16)), run)["figures"]
    assert figures["distances"]["energy_distance"]["value"] > 0 and figures["count"] == 6
    assert (run / "beside.png").is_file()


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_repeated_by_the_call_that_the_run_prints(tmp_path, monkeypatch, capsys):
    """A run that Python built has no command: each message names a call, which works."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    failing = recipe(objective=own_objective(np.inf))
    assert train(failing, tmp_path / "run") == 1
    said = capsys.readouterr().out
    call = f"diffusion.experiments.reproduce.repeat(recipe, {str(tmp_path / 'run')!r})"
    assert said.rstrip().endswith(f"\n  {call}")
    assert "--" not in said and "The same call fails in the same way." in said
    assert not eval(call, {"diffusion": diffusion, "recipe": failing}).finite


@pytest.mark.extended
def test_a_run_that_was_stopped_goes_on_by_the_call_that_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(preemption.StopRequest, "received", lambda self: 15)
        assert train(recipe(), tmp_path / "run") == 128 + 15
    said = capsys.readouterr().out
    call = f"diffusion.experiments.train.train(recipe, {str(tmp_path / 'run')!r})"
    assert f"To go on:\n  {call}\n" in said
    assert eval(call, {"diffusion": diffusion, "recipe": recipe()}) == 0


@pytest.mark.extended
def test_pictures_are_sampled_and_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    own = recipe(pictures(), held_out=pictures(shift=3))
    assert train(own, tmp_path) == 0
    images = sample(own, tmp_path)
    assert images.dtype == np.uint8 and images.shape == (6, 2, 2, 1)
    report = evaluate(own, tmp_path, Effort(0, 2))
    assert report["figures"]["frechet"]["pixels"]["distance"] > 0
    assert report["protocol"]["dataset"]["train_size"] == 16


@pytest.mark.parametrize(
    "parts, field",
    [
        ({"network": Perceptron(9)}, "model.width: 8 -> 9"),
        ({"schedule": schedules.cosine()}, "schedule.alpha.name: .*rectified_flow.* -> .*cosine"),
        ({"objective": objectives.flow_matching(DENSITY)}, "objective.loss.name: .*own_objective.* -> .*flow_matching"),
    ],
)
def test_a_run_does_not_go_on_with_other_parts(tmp_path, parts, field):
    workdir.settle_config(tmp_path, recipe().config)
    assert workdir.settle_config(tmp_path, recipe().config)
    with pytest.raises(ConfigError, match=field):
        workdir.settle_config(tmp_path, recipe(**parts).config)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"parameterization": None}, ValueError, r"Recipe\(parameterization=\.\.\.\) is missing"),
        ({"settings": {"train.stpes": 3}}, ConfigError, "stpes"),
        ({"settings": {"train.steps": 0}}, ConfigError, r"config\.train\.steps = 0"),
        ({"settings": {"schedule": {"name": "cosine"}}}, ConfigError, "names a part that Recipe takes as an argument"),
        ({"settings": {"sample.guidance.scale": 2.0}}, ValueError, "has no classes.*or num_classes above 0"),
        ({"settings": {"sample.guidance.scale": 2.0}, "null": 1}, ValueError, "never sees the null condition in"),
        ({"sampler": samplers.flow_map()}, ValueError, "takes a flow map, which this objective does not train"),
        ({"objective": objectives.mean_flow(DENSITY), "sampler": samplers.heun()}, ValueError, "trains a flow map"),
        ({"objective": objectives.distribution_matching(VELOCITY, VELOCITY, VELOCITY, DENSITY)}, ValueError,
         "learns from a teacher"),
        ({"teacher": Teacher("runs/teacher", VELOCITY)}, ValueError, "the objective uses no teacher"),
        ({"data": []}, ValueError, "no records"),
        ({"data": [{"picture": 1}]}, ValueError, 'holds picture. Valid: "image" or "x"'),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused_by_their_values(change, error, words):
    with pytest.raises(error, match=words):
        recipe(**change)


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """The folder of a run on points that was built in Python."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    assert train(recipe(), tmp_path / "teacher") == 0
    return tmp_path / "teacher"


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.extended
def test_a_student_learns_from_the_pairs_of_its_teacher(teacher, tmp_path):
    student = recipe(
        objective=objectives.reflow(DENSITY), teacher=Teacher(str(teacher), VELOCITY, pairs=4, pair_steps=2)
    )
    assert train(student, tmp_path / "student") == 0
    assert all(np.isfinite(line["loss"]) for line in metrics(tmp_path / "student"))
    (file,) = (tmp_path / "student" / "pairs").glob("*.npy")
    x, noise = np.moveaxis(np.load(file), 1, 0)
    params, _ = checkpoints.load_ema(teacher)
    denoise = parameterizations.denoiser(lambda *inputs: Perceptron().apply(params, *inputs), LINE, VELOCITY)
    plan = timesteps.plan(timesteps.uniform(LINE, steps=2))
    by_hand = samplers.sample(samplers.heun(), denoise, LINE, noise, plan, jax.random.split(jax.random.key(0), 4))
    np.testing.assert_allclose(x, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_student_trains_beside_a_second_player(teacher, tmp_path):
    """Distribution matching of points: teacher, student and second player begin as the earlier run ended."""
    score = objectives.fake_score(VELOCITY, VELOCITY, weightings.constant(VELOCITY), DENSITY)
    student = recipe(
        objective=objectives.distribution_matching(VELOCITY, VELOCITY, VELOCITY, DENSITY),
        parameterization=None,
        teacher=Teacher(str(teacher), VELOCITY),
        second=SecondPlayer(score, optimizers.adamw(steps=2)),
        settings={"sample.steps": 1},
    )
    assert train(student, tmp_path / "student") == 0
    assert all(np.isfinite([line["loss"], line["fake/loss"]]).all() for line in metrics(tmp_path / "student"))
    assert sample(student, tmp_path / "student").shape == (6, 2)


@pytest.mark.extended
def test_a_teacher_of_another_network_is_refused(teacher, tmp_path):
    student = recipe(
        network=Perceptron(9), objective=objectives.reflow(DENSITY), teacher=Teacher(str(teacher), VELOCITY, pairs=4)
    )
    with pytest.raises(ConfigError, match=r"the teacher's config\.model is .*'width': 8.* this run has .*'width': 9"):
        train(student, tmp_path / "student")


def test_a_step_that_cannot_be_built_keeps_its_own_words(tmp_path):
    def loss(networks, schedule, keys, batch, step):
        raise ValueError("c = -1 is below 0")

    with pytest.raises(ValueError, match=r"^c = -1 is below 0"):
        train(recipe(objective=objectives.Objective(loss, density=DENSITY)), tmp_path)


def test_a_command_on_the_folder_says_what_to_do(tmp_path):
    workdir.settle_config(tmp_path, recipe().config)
    with pytest.raises(ConfigError, match=r"built in Python from.*, sample\(recipe, folder"):
        workdir.read_config(tmp_path)
    done = commands.run("-m", "experiments.sample", f"--workdir={tmp_path}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "this run was built in Python" in done.stderr

"""Students of a trained teacher, each one command: players, stages, pairs and built-in guidance in the usual loop."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits
from diffusion import guidance, parameterizations, samplers, timesteps
from diffusion.data import pipeline
from diffusion.experiments import few_steps, reproduce, train
from diffusion.experiments.evaluation import real_images, sample_metrics
from diffusion.experiments.run import examples, noise_pairs, players, program as programs
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.recipe import ConfigError, Recipe, checks, recipes
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import to_json
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from tests import commands

pytestmark = pytest.mark.usefixtures("compilation_cache")
ROOT = pathlib.Path(__file__).parents[2]
OF_TWO_PLAYERS = ("dmd", "dmd2", "f_distill", "sid", "sida", "rcm", "turbo", "lightning", "ladd")
STUDENTS = ("progressive", "guided", "consistency", "tcm", "lcm", *OF_TWO_PLAYERS, "reflow")
STEPS, BROKEN = 6, 4  # of a training, and after how many it is interrupted: within a stage, while DMD's model rests
TINY = {
    "train.steps": STEPS,
    "train.batch_size": 8,
    "train.log_every": 5,
    "checkpoint.every": 20,
    "train.accumulate": 1,
    "optimizer.warmup": 0,
    "optimizer.decay": "constant",
    "data.threads": 1,
    "sample.number": 4,
}
OF_ONE = {
    "progressive": {"objective.N": 2, "objective.stage": 3},
    "lightning": {
        "objective.N": 2,
        "objective.stage": 3,
        "second_player.objective.N": 2,
        "second_player.objective.stage": 3,
    },
    "guided": {"objective.density.strata": 8},
    "tcm": {"objective.density.strata": 8},
    "dmd": {"objective.density.strata": 8, "second_player.objective.density.strata": 8},
    "dmd2": {"objective.density.strata": 8, "second_player.objective.density.strata": 8},
    "f_distill": {"objective.density.strata": 8, "second_player.objective.density.strata": 8},
    "sid": {"objective.density.strata": 8, "second_player.objective.density.strata": 8},
    "sida": {"objective.density.strata": 8, "second_player.objective.density.strata": 8},
    "rcm": {
        "objective.density.strata": 8,
        "objective.student_density.strata": 8,
        "second_player.objective.density.strata": 8,
    },
    "turbo": {
        "objective.density.strata": 8,
        "objective.student_density.strata": 8,
        "second_player.objective.student_density.strata": 8,
    },
    "ladd": {
        "train.log_every": 6,
        "objective.noise_density.strata": 8,
        "objective.student_density.strata": 8,
        "second_player.objective.noise_density.strata": 8,
        "second_player.objective.student_density.strata": 8,
    },
    "reflow": {"objective.density.strata": 8, "teacher.pairs.number": 600, "teacher.pairs.steps": 2},
}


def of_teacher():
    config = digits.get_config("tiny")
    config.update_from_flattened_dict(
        {
            "model.width": 16,
            "model.depth": 1,
            "model.unroll": 1,
            "train.batch_size": 8,
            "train.accumulate": 1,
            "train.steps": 2,
            "checkpoint.every": 2,
            "objective.density.strata": 8,
            "sample.guidance.scale": 1.5,
            "optimizer.warmup": 0,
        }
    )
    return config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    assert train.run(of_teacher(), folder) == 0
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A teacher's config alone, for what reads no weights."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "config.json").write_text(to_json(of_teacher()))
    return folder


def student(name, teacher, **changes):
    config = recipes.load(f"{ROOT}/configs/students/{name}.py:{teacher},tiny")
    config.update_from_flattened_dict(TINY | OF_ONE.get(name, {}) | changes)
    checks.validate(config)
    return config


def test_a_guided_student_may_receive_the_scale(written, monkeypatch):
    """Its network has an input for it, and its denoiser is that network at the scale of the config, in one call."""
    changes = {"teacher.scale": 1.0, "objective.guidance": (0.0, 2.0), "sample.guidance.scale": 2.5}
    recipe = Recipe.from_config(student("guided", written, **changes), (8, 8, 1))
    assert recipe.network.strength and recipe.objective.condition.strength == (1.0, 3.0)
    inputs = []
    network = lambda params, x, clock, condition: inputs.append(condition) or 0 * x
    monkeypatch.setattr(type(recipe.network), "apply", lambda self, *inputs: network(*inputs))
    run_denoiser.denoiser(recipe)(None, jnp.array([3, 1]))(jnp.ones((2, 8, 8, 1)), 0.5)
    (condition,) = inputs
    np.testing.assert_array_equal(condition["label"], [3, 1])
    np.testing.assert_array_equal(condition["strength"], [2.5, 2.5])
    for wrong in ({"sample.guidance.scale": 3.5}, {"sample.guidance.interval": (0.2, 0.5)}):
        with pytest.raises(ConfigError, match=r"from 1 to 3|does not receive the interval"):
            student("guided", written, **changes | wrong)


def test_a_student_of_rcm_begins_with_the_weights_of_a_teacher_that_says_a_velocity(written):
    config = student("rcm", written)
    assert config.init_from.path == str(written) and config.parameterization == config.teacher.parameterization
    assert checks.validate(config).objective.reads.parameterization.name == "velocity"


@pytest.mark.extended
def test_every_recipe_serves_a_teacher_of_x0(tmp_path):
    config = of_teacher()
    velocity = config.parameterization.to_dict()
    config.parameterization.name = "x0"
    config.objective = {
        "name": "denoising",
        "density": config.objective.density.to_dict(),
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
        "weighting": {"name": "constant", "parameterization": velocity},
    }
    config.sample.shift = 3.0
    (tmp_path / "config.json").write_text(to_json(config))
    for name in STUDENTS:
        made = student(name, tmp_path)
        network = made.parameterization.name
        bounded = name in ("consistency", "lcm")
        assert network == ("latent_consistency" if bounded else "edm" if name == "rcm" else "x0"), name
        assert not bounded or made.parameterization.scaling == 0.01, name  # a boundary that a network of x0 needs
        assert made.sample.shift == (1 if name in ("progressive", "lightning") else 3), name


@pytest.mark.extended
def test_a_student_says_who_its_teacher_is(teacher, tmp_path, capsys):
    assert train.run(student("guided", teacher, **{"train.steps": 1}), tmp_path / "run") == 0
    assert f"the teacher is the run {teacher}" in capsys.readouterr().out.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_one_command_that_goes_on_bit_for_bit(name, teacher, tmp_path, monkeypatch):
    """Interrupted and gone on with: the same leaves of every network and optimizer, and the same lines of metrics."""
    config = student(name, teacher)
    assert train.run(config, tmp_path / "straight") == 0
    with monkeypatch.context() as patch:
        interrupt(patch, BROKEN)
        assert train.run(config, tmp_path / "broken") == 128 + signal.SIGINT
    assert checkpoints.latest(tmp_path / "broken") < STEPS
    assert train.run(config, tmp_path / "broken") == 0
    folders = [tmp_path / folder for folder in ("straight", "broken")]
    leaves, lines = ([read(folder) for folder in folders] for read in (of_checkpoint, of_metrics))
    assert leaves[0] == leaves[1]
    assert lines[0] == lines[1]
    items = {leaf.partition("/")[0] for leaf in leaves[0]}
    assert ("rivals" in items) == (name in OF_TWO_PLAYERS) and ("frozen" in items) == (name != "reflow")
    second_players = {name for line in lines[0] for name in line if "/" in name}
    assert bool(second_players) == (name in OF_TWO_PLAYERS) and all(np.isfinite(line["loss"]) for line in lines[0])

    params, _ = checkpoints.load_ema(tmp_path / "broken")
    make = generate.generator(Recipe.from_config(config, (8, 8, 1)))
    images = make.images(params, generate.balanced_labels(4, 10), generate.seeds(config, 4))
    assert images.shape == (4, 8, 8, 1) and make.nfe == config.sample.steps


def interrupt(monkeypatch, number):
    """Ctrl-C at the request of the batch of step `number` (counted from 0)."""
    batches = pipeline.batches

    def watched(*args, **options):
        for step, batch in enumerate(batches(*args, **options)):
            if step == number:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(pipeline, "batches", watched)


def of_checkpoint(folder):
    return checkpoints.read_about(folder, STEPS)["leaves"]


def of_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_step_of_players_is_repeated_alone(teacher, tmp_path):
    """What experiments.reproduce computes from a checkpoint is the gradient of that run's next step."""
    config = student("dmd", teacher, **{"train.steps": 5, "second_player.updates": 5})
    assert train.run(config, tmp_path) == 0
    repeated = reproduce.repeat(Recipe.from_config(config), tmp_path, step=5)
    assert repeated.finite and len(repeated.losses) == 8 and set(repeated.gradient.values()) == {0}


ON_TWO = """
import json, sys
from diffusion.experiments import train
from diffusion.recipe.values import from_json
config = from_json(open(sys.argv[1]).read())
config.mesh.update(json.loads(sys.argv[3]))
assert train.run(config, sys.argv[2]) == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, mesh",
    [
        ("dmd", {"fsdp": 2, "data": 1}),
        ("turbo", {}),
        ("ladd", {"fsdp": 2, "data": 1}),
        ("reflow", {}),
        ("progressive", {"fsdp": 2, "data": 1}),
        ("lcm", {"kind": "pmap"}),
    ],
)
def test_two_devices_train_the_same_student(name, mesh, teacher, tmp_path):
    config = student(name, teacher)
    assert train.run(config, tmp_path / "one") == 0
    (tmp_path / "config.json").write_text(to_json(config))
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    words = (str(tmp_path / "config.json"), str(tmp_path / "two"), json.dumps(mesh))
    subprocess.run([sys.executable, "-c", ON_TWO, *words], env=environment, cwd=ROOT, check=True, timeout=300)
    for ours, theirs in zip(*(of_metrics(tmp_path / folder) for folder in ("one", "two")), strict=True):
        assert ours.keys() == theirs.keys()
        for name in [name for name in ours if name.endswith(("loss", "grad_norm"))]:  # sums in another order
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, err_msg=name)


@pytest.mark.slow
def test_pairs_are_the_teachers_flow_and_go_on_where_they_were_interrupted(teacher, tmp_path):
    config = student("reflow", teacher)
    opened = examples.open_examples(Recipe.from_config(config))
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    noise_pairs.paired(Recipe.from_config(config, (8, 8, 1)), tmp_path, opened, mesh)
    files = sorted((tmp_path / "pairs").glob("*.npy"))
    content = {file.name: file.read_bytes() for file in files}
    assert list(content) == ["00000000.npy", "00000512.npy"]

    files[0].write_bytes(content[files[0].name][:1000])  # a torn file, and one that was not yet there
    files[1].unlink()
    made = noise_pairs.paired(Recipe.from_config(config, (8, 8, 1)), tmp_path, opened, mesh)
    assert {file.name: file.read_bytes() for file in files} == content

    # As experiments.sample would: the guided teacher, from the same noise.
    assert len(made.stored.source) == 600
    batch = next(made.batches(config, 0, np.arange(8), 0))
    sampling = of_teacher()
    params, _ = checkpoints.load_ema(teacher)
    schedule = Resolver(sampling).schedule
    plan = timesteps.plan(timesteps.uniform(schedule, steps=2))
    denoise = run_denoiser.denoiser(Recipe.from_config(sampling, (8, 8, 1)))(params, jnp.asarray(batch["label"]))
    keys = jax.random.split(jax.random.key(0), 8)
    x = samplers.sample(samplers.dpmpp_2m(), denoise, schedule, batch["noise"], plan, keys)
    np.testing.assert_allclose(batch["x"], x, rtol=1e-4, atol=1e-5)
    assert np.ptp(batch["x"] - batch["noise"]) > 0.01
    np.testing.assert_allclose(batch["noise"].std(), 1, atol=0.1)

    (tmp_path / "pairs" / "00000512.npy").unlink()
    other = of_teacher()
    other.seed, other.train.steps = 5, 2
    assert train.run(other, tmp_path / "other") == 0
    config.teacher.path = str(tmp_path / "other")
    with pytest.raises(ConfigError, match="holds another run than the teacher that made the first pairs"):
        noise_pairs.paired(Recipe.from_config(config, (8, 8, 1)), tmp_path, opened, mesh)


@pytest.mark.slow
def test_a_guided_teacher_teaches_what_guidance_of_its_prediction_says(written):
    """Guiding the raw output is guiding x0 and eps, for every parameterization that is affine in it."""
    config = student("consistency", written)
    assert config.teacher.scale == 1.5
    cast = players.build_players(Recipe.from_config(config, (8, 8, 1)))
    schedule = Resolver(config).schedule
    module = cast.modules["teacher"]
    labels = jnp.arange(4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.zeros(1, int))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32), shapes)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    t = jnp.array([0.1, 0.4, 0.8, 1.0])
    read = Resolver(config).teacher.parameterization
    network = lambda x, clock, condition: module.apply(params, x, clock, condition)
    branches = guidance.together(network, schedule, read, (labels, jnp.full(4, 10)))
    wanted = guidance.classifier_free(branches, scale=1.5)(x, t)
    taught = lambda *inputs: cast.apply["teacher"](params, *inputs)
    found = parameterizations.predict(taught, schedule, read, x, t, labels)
    np.testing.assert_allclose(found.x0, wanted.x0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.eps, wanted.eps, rtol=1e-4, atol=1e-5)
    assert np.abs(found.x0 - parameterizations.predict(network, schedule, read, x, t, labels).x0).max() > 1e-3


@pytest.mark.parametrize("name, changes, words", [
    ("dmd", {"second_player.objective": {"name": ""}}, r"'fake', but this one trains None\. .* e\.g\. fake_score\.$"),
    ("dmd2", {"second_player.objective.samples": {"name": "one_step"}},
     r"judges examples made with \('one_step',\), but the objective makes them with \('backward_simulation', 1\.0, "),
    ("dmd2", {"objective.samples": {"name": "backwards"}},
     "config.objective.samples.name: .*'backwards'.* Valid: .*one_step"),
    ("f_distill", {"objective.block": 2, "second_player.objective.block": 2},
     "reads the features of layer 2, but the network offers only 1 layers"),
    ("f_distill", {"second_player.objective.block": 2},
     r"judges examples made with \('one_step', 'a discriminator in block 2'\), but the objective .* in block 1'"),
    ("f_distill", {"objective.f": {"name": "kl"}}, "config.objective.f.name: .*'kl'.* Valid: .*jensen_shannon"),
    ("dmd", {"train.log_every": 7}, r"config\.train\.log_every = 7,.*: the model is.*at every 5-th step"),
    ("consistency", {"second_player.updates": 2}, "config.second_player.updates = 2, but there is no second player"),
    ("progressive", {"train.steps": 7}, "7 training steps are more than the stages allow: 2 stages of 3 steps have 6"),
    ("progressive", {"objective.N": 6}, "power of 2, such as 8, and stage at least one step"),
    ("lcm", {"teacher.scale": 2.0}, "config.teacher.scale = 2.0.* guides its teacher itself. Valid: 1"),
    ("lcm", {"sample.guidance.scale": 7.0}, "trains the network for scales from 1 to 3"),
    ("lcm", {"model": {"name": "unet", "num_classes": 10, "widths": (8,), "blocks": 1, "groups": 4}},
     "strength of guidance, but the network does not receive it"),
    ("reflow", {"teacher.pairs.number": 0}, "learns from pairs. Valid: e.g. 10000"),
    ("consistency", {"teacher.pairs.number": 5}, "learns from none. Valid: 0"),
    ("reflow", {"teacher.pairs.sampler": {"name": "ddpm"}}, "this sampler cannot make pairs"),
    ("turbo", {"teacher.path": ""}, "learns from a teacher"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(name, changes, words, written):
    with pytest.raises(ConfigError, match=words):
        student(name, written, **changes)


def test_a_student_is_compared_at_the_steps_that_it_was_trained_for(written, tmp_path):
    """A progressive student of K steps is the checkpoint at the end of its stage; DMD takes one step."""
    for name, of_checkpoints in (("progressive", (3, 6)), ("dmd", (6,))):
        config = student(name, written)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(to_json(config))
        for step in of_checkpoints:
            (tmp_path / name / "checkpoints" / str(step)).mkdir(parents=True)
    rows = lambda name: few_steps.rows_of(tmp_path / name, name, (1, 2, 4), 20, "")
    assert [(row.steps, row.step) for row in rows("progressive")] == [(1, 6), (2, 3)]
    assert [(row.steps, row.step) for row in rows("dmd")] == [(1, 6)]
    assert all(row.config.sample.number == 20 for row in rows("dmd"))
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        few_steps.rows_of(written, "teacher", (8,), 20, "")


def row(folder, **changes):
    config = digits.get_config("tiny")
    config.update_from_flattened_dict(changes)
    return few_steps.Row(folder, pathlib.Path(folder), 1, config)


@pytest.mark.parametrize("changes, said", [
    ({"data.shape": (32, 32, 3)}, r"runs/b \(examples of \(32, 32, 3\).*\) cannot be compared with .*\(8, 8, 1\)"),
    ({"model.num_classes": 3}, r"runs/b \(.*, 3 classes\) cannot be compared with .*runs/t \(.*, 10 classes\)"),
])  # fmt: skip
def test_a_student_of_other_examples_than_its_teachers_is_refused(changes, said):
    with pytest.raises(ConfigError, match=f"^--students={said}"):
        few_steps.require_comparable([row("runs/a"), row("runs/b", **changes), row("runs/t")])


def test_a_student_that_names_other_real_pictures_is_named():
    with pytest.warns(
        UserWarning, match=r"runs/b and runs/t are compared with different real examples: .*config\.evaluate\.split"
    ):
        few_steps.require_comparable([row("runs/b", **{"evaluate.split": "validation"}), row("runs/t")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few_steps.require_comparable([row("runs/a", **{"train.steps": 3}), row("runs/t")])


@pytest.mark.parametrize("folders", [
    ["a/lcm", "b/lcm", "t"], ["a/seed=0,student=lcm", "lcm", "t"], ["a/teacher", "t"],
    ["t", "b/t", "t"],
])  # fmt: skip
def test_two_runs_do_not_share_a_row_as_if_they_were_seeds_of_one(folders):
    named = [row(folder)._replace(name=few_steps.name_of(folder)) for folder in folders[:-1]]
    teacher = row(folders[-1])._replace(name="teacher")
    with pytest.raises(ConfigError, match=f"^({'|'.join(folders)}) and .* would share the rows of '(lcm|teacher|t)'"):
        few_steps.require_comparable([*named, named[0]._replace(step=2), teacher])


def test_runs_that_share_a_row_and_differ_in_more_than_the_seed_are_named():
    seeds = [row(f"a/seed={seed},student=lcm", seed=seed)._replace(name="lcm") for seed in (0, 1)]
    other = row("b/seed=2,student=lcm", seed=2, **{"train.steps": 3})._replace(name="lcm")
    with pytest.warns(UserWarning, match=r"'lcm' are over a/.* and b/.*more than the seed: config\.train\.steps$"):
        few_steps.require_comparable([*seeds, other, row("t")._replace(name="teacher")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few_steps.require_comparable([*seeds, row("t")._replace(name="teacher")])


@pytest.mark.parametrize("words", [["2", "4", "2"], ["2", "02"]])
def test_a_number_of_steps_that_is_named_twice_is_refused(words, monkeypatch):
    values = {"steps": types.SimpleNamespace(value=words)}
    monkeypatch.setattr(few_steps, "flags", types.SimpleNamespace(FLAGS=values))
    with pytest.raises(ConfigError, match=f"^--steps={','.join(words)} names a number twice\\. Valid: different"):
        few_steps.counts_of("steps")
    values["steps"].value = ["1", "4"]
    assert few_steps.counts_of("steps") == [1, 4]


@pytest.mark.parametrize("preset", ["", ",tiny"])
def test_the_student_at_the_end_of_every_stage_is_kept(preset, written):
    config = recipes.load(f"{ROOT}/configs/students/progressive.py:{written}{preset}")
    stage, kept = config.objective.stage, config.checkpoint
    assert stage % kept.every == stage % kept.keep_every == 0
    assert config.train.steps == stage * config.objective.N.bit_length()


def test_a_pattern_matches_the_runs_of_a_sweep_and_not_the_files_beside_them(tmp_path):
    for name in ("student=turbo", "student=lcm", "not_a_run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("config.json" if "=" in name else "notes.txt")).touch()
    (tmp_path / "report.html").touch()
    assert few_steps.runs_of(f"{tmp_path}/*") == [f"{tmp_path}/student=lcm", f"{tmp_path}/student=turbo"]
    assert few_steps.runs_of(f"{tmp_path}/none") == [f"{tmp_path}/none"]
    with pytest.raises(ConfigError, match=r"--students=.*/n\* matches no run folder"):
        few_steps.runs_of(f"{tmp_path}/n*")


@pytest.mark.parametrize(
    "folder, name",
    [
        ("runs/lcm", "lcm"),
        ("runs/student=lcm", "lcm"),
        ("runs/student=lcm,seed=1", "lcm"),
        ("runs/seed=2,student=lcm,steps=800", "lcm,800"),
        ("runs/seed=2", "seed=2"),
    ],
)
def test_runs_of_several_seeds_have_one_name(folder, name):
    assert few_steps.name_of(folder) == name


def test_a_row_is_the_mean_over_the_seeds_with_its_standard_deviation():
    row = {"name": "lcm", "steps": 2, "nfe": 2, "asked_class": 0.9, "coverage": 0.5, "fd_pixels": 3.0, "count": 20}
    others = [row | {"fd_pixels": 5.0, "seed": 1}, row | {"steps": 4, "nfe": 4, "fd_pixels": 2.0}]
    teacher = row | {"name": "teacher", "nfe": 20, "steps": 20, "fd_pixels": 2.0, "asked_class": None}
    means = few_steps.over_seeds([row, *others, teacher])
    assert [(mean["name"], mean["nfe"], mean["seeds"], mean["fd_pixels"]) for mean in means] == [
        ("lcm", 2, 2, 4.0),
        ("lcm", 4, 1, 2.0),
        ("teacher", 20, 1, 2.0),
    ]
    assert means[0]["spread"]["fd_pixels"] == pytest.approx(2**0.5)
    assert few_steps.table(means, ["pixels"], means[-1]).splitlines()[2:] == [
        "| lcm | 2 | 2 | 4 ± 1.4 (2.00) | 50.0 ± 0 % | 90.0 ± 0 % |",
        "| lcm | 4 | 1 | 2 (1.00) | 50.0 % | 90.0 % |",
        "| teacher | 20 | 1 | 2 (1.00) | 50.0 % | — |",
    ]


def test_an_overview_has_a_row_for_each_model_and_a_column_for_each_number_of_evaluations():
    row = {"name": "lcm", "steps": 2, "nfe": 2, "fd_pixels": 3.0, "fd_classifier": 1.0, "minutes": 2.0}
    rows = [row, row | {"fd_pixels": 5.0, "minutes": 4.0}, row | {"nfe": 4, "steps": 4, "fd_pixels": 2.0}]
    teacher = row | {"name": "teacher", "nfe": 20, "steps": 20, "fd_pixels": 2.0, "minutes": 9.0}
    means = few_steps.over_seeds([*rows, teacher])
    assert few_steps.overview(means, ["pixels", "classifier"], means[-1]).splitlines() == [
        "| model | minutes | 2 | 4 | 20 |",
        "| --- | --- | --- | --- | --- |",
        "| lcm | 3.0 | 2.00 ± 0.71; 1.00 ± 0.00 | 1.00; 1.00 |  |",
        "| teacher | 9.0 |  |  | 1.00; 1.00 |",
    ]


def test_the_samples_that_the_picture_shows_are_stored_alone(tmp_path, monkeypatch):
    """A row stored ten, of which the picture had five; a file with ten is still read."""
    monkeypatch.setattr(few_steps.checkpoints, "read_about", lambda folder, step: {"leaves": {}})
    monkeypatch.setattr(few_steps.plots, "mosaic", lambda blocks, *others: shown.append(np.shape(blocks[0][0])[0]))
    row, shown = few_steps.Row("teacher", tmp_path / "run", 7, recipes.load("digits:tiny")), []
    images, labels = np.zeros((12, 8, 8, 1), np.uint8), np.arange(12)
    measured = few_steps.measured_once(row, tmp_path, lambda: ({"nfe": 1, "fd_pixels": 1.0}, images, labels))
    rows = [measured | {"name": name, "spread": {}} for name in ("dmd", "teacher")]
    teacher = few_steps._file(tmp_path, "teacher", row.seed, row.steps).with_suffix(".npz")
    stored = np.load(teacher, allow_pickle=False)["images"]
    for name, number in (("dmd", 10), ("teacher", len(stored))):
        file = few_steps._file(tmp_path, name, row.seed, row.steps).with_suffix(".npz")
        np.savez(file, images=images[:number], labels=labels[:number])
    few_steps.picture(rows, rows[1], tmp_path, tmp_path / "samples.png")
    assert shown == [len(stored)]


def test_a_picture_has_a_block_for_each_number_of_evaluations_above_the_teacher(tmp_path, monkeypatch):
    rows = []
    for grey, (name, steps) in enumerate([("dmd", 1), ("lcm", 1), ("lcm", 2), ("teacher", 8), ("teacher", 20)]):
        rows.append({"name": name, "steps": steps, "nfe": steps, "seed": 0, "fd_pixels": 1.0 + grey, "spread": {}})
        place = few_steps._file(tmp_path, name, 0, steps).with_suffix(".npz")
        place.parent.mkdir(exist_ok=True)
        np.savez(place, images=np.full((few_steps.SHOWN, 8, 8, 1), grey, np.uint8), labels=np.arange(few_steps.SHOWN))
    drawn = []
    monkeypatch.setattr(few_steps.plots, "mosaic", lambda *arguments: drawn.append(arguments))
    few_steps.picture(rows, rows[3], tmp_path, tmp_path / "samples.png")
    blocks, names, columns, _, titles = drawn[0]
    greys = [[np.unique(row).tolist() for row in block] for block in blocks]
    assert greys == [[[0], [1], [3]], [[], [2], [3]]]
    assert names == ["dmd", "lcm", "teacher, 8"] and titles == ["1 evaluation", "2 evaluations"]
    assert columns == [["0", "1", "2", "3", "4"]] * 2


@pytest.mark.extended
def test_a_plot_has_a_panel_for_each_model(tmp_path):
    row = {"seed": 0, "fd_pixels": 2.0, "spread": {}}
    rows = [row | {"name": f"method {k}", "steps": n, "nfe": n} for k in range(8) for n in (1, 2)]
    few_steps.draw(rows, ["pixels"], None, tmp_path / "absolute.png")
    few_steps.draw(rows, ["pixels"], rows[-1], tmp_path / "relative.png")
    one_row = rows[:2]
    few_steps.draw(one_row, ["pixels"], rows[-1], tmp_path / "one.png")
    sizes = [Image.open(tmp_path / f"{name}.png").size for name in ("absolute", "relative", "one")]
    assert sizes[0] == sizes[1] and sizes[0][0] > 5 * sizes[2][0] and sizes[0][1] > 1.5 * sizes[2][1]


def test_coverage_is_the_share_of_real_rows_near_a_sample():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(40, 3))
    assert few_steps.coverage(real, real) == 1
    assert few_steps.coverage(real + 100, real) == 0
    assert few_steps.coverage(real[:1] + np.zeros((40, 1)), real) < 0.5


def test_the_features_of_the_real_images_are_computed_once_for_all_rows(monkeypatch):
    settings = to_json({"data": {"name": "digits"}, "evaluate": {"split": "validation"}})
    real = types.SimpleNamespace(images=np.zeros((3, 8, 8, 1), np.uint8), labels=np.zeros(3, int))
    calls = []
    extract = lambda images: (calls.append(len(images)), images.reshape(len(images), -1) / 255)[1]
    monkeypatch.setattr(real_images, "splits_of", lambda config: {"validation": (real, real)}[config.evaluate.split])
    monkeypatch.setattr(sample_metrics, "extractor_of", lambda *_: types.SimpleNamespace(extract=extract))
    few_steps.real_rows.cache_clear()
    for _ in range(2):
        assert few_steps.real_rows(settings)[1].shape == (3, 64)
    few_steps.real_rows.cache_clear()
    assert calls == [3]


@pytest.fixture(scope="module")
def of_clips(tmp_path_factory):
    """A folder with the config of a teacher of clips, and its student by self-forcing."""
    folder = tmp_path_factory.mktemp("of_clips")
    config = recipes.module("video/drawings").get_config("tiny")
    (folder / "config.json").write_text(to_json(config))
    more = {"train.steps": 5, "objective.density.strata": 8, "second_player.objective.density.strata": 8}
    return config, student("self_forcing", folder, **more)


def test_self_forcing_is_sampled_as_it_is_trained(of_clips):
    """Chunk after chunk on the grid of config.sample, by both players and the sampler; it is no one-step student."""
    _, config = of_clips
    made = Resolver(config)
    grid = made.grid
    assert made.objective.shares == made.second.objective.shares == ("self_forcing", *grid[:-1], 4)
    np.testing.assert_array_equal(made.plan.t, timesteps.staggered(grid, 8, 4, chunk=4).t)
    assert made.sampler.frames and len(made.plan.t) == 8 and not made.objective.reads.one_step


def test_a_causal_student_of_clips_has_a_teacher_that_sees_them_whole(of_clips, tmp_path):
    """The start by the teacher's trajectories, and from it the generator, which knows the start's teacher."""
    clips, _ = of_clips
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "config.json").write_text(to_json(clips))
    start = student("causvid_ode", tmp_path / "clips")
    (tmp_path / "ode").mkdir()
    (tmp_path / "ode" / "config.json").write_text(to_json(start))
    strata = {"objective.density.strata": 8, "second_player.objective.density.strata": 8, "train.log_every": 5}
    generator = student("causvid", tmp_path / "ode", **strata)
    assert start.teacher.path == generator.teacher.path == start.init_from.path == str(tmp_path / "clips")
    assert generator.init_from.path == str(tmp_path / "ode") and generator.teacher.scale == start.teacher.scale
    made = Resolver(generator)
    assert made.objective.shares == made.second.objective.shares == ("noised_chunks", *made.grid[:-1], 4)
    for config in (start, generator):
        recipe = Recipe.from_config(config, (8, 32, 32, 3))
        modules = players.build_players(recipe).modules
        assert recipe.network.causal == 4 and modules["teacher"].causal == 0
        np.testing.assert_array_equal(recipe.sampling.plan.t, timesteps.staggered(made.grid, 8, 4, chunk=4).t)
    assert modules["fake"].causal == 0


@pytest.mark.slow
def test_causvid_by_commands(of_clips, tmp_path):
    clips, _ = of_clips
    assert train.run(clips, tmp_path / "clips") == 0
    assert train.run(student("causvid_ode", tmp_path / "clips"), tmp_path / "ode") == 0
    strata = {"objective.density.strata": 8, "second_player.objective.density.strata": 8, "train.steps": 5}
    assert train.run(student("causvid", tmp_path / "ode", **strata), tmp_path / "causvid") == 0
    commands.run("-m", "experiments.sample", f"--workdir={tmp_path}/causvid", "--config.sample.number=4")
    with np.load(next((tmp_path / "causvid").rglob("samples.npz"))) as file:
        assert file["images"].shape == (4, 8, 32, 32, 3)


@pytest.mark.slow
def test_self_forcing_by_commands(of_clips, tmp_path):
    teacher, config = of_clips
    assert train.run(teacher, tmp_path / "clips") == 0
    config = config.copy_and_resolve_references()
    config.teacher.path = config.init_from.path = str(tmp_path / "clips")
    assert train.run(config, tmp_path / "forced") == 0
    commands.run("-m", "experiments.sample", f"--workdir={tmp_path}/forced", "--config.sample.number=4")
    with np.load(next((tmp_path / "forced").rglob("samples.npz"))) as file:
        assert file["images"].shape == (4, 8, 32, 32, 3)


@pytest.mark.slow
def test_one_command_compares(teacher, tmp_path):
    """The table, the plot and the picture; what was measured is not measured again, and not redrawn to other bytes."""
    assert train.run(student("lcm", teacher), tmp_path / "lcm") == 0
    words = ("-m", "experiments.few_steps", f"--teacher={teacher}", f"--students={tmp_path}/lcm", "--steps=1,2",
             "--teacher_steps=4", "--number=20", f"--out={tmp_path}/out")  # fmt: skip
    first = commands.run(*words, timeout=600)
    assert first.returncode == 0, first.stderr
    table = (tmp_path / "out" / "table.md").read_text()
    rows = [line.split(" | ")[:3] for line in table.split("\n\n")[0].splitlines()[2:]]
    assert rows == [["| lcm", "1", "1"], ["| lcm", "2", "1"], ["| teacher", "4", "1"]]
    assert table in first.stdout and "| teacher | 4 | " in table and "(1.00)" in table and "coverage" in table
    content = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in content if path.parent.name == "rows"}
    assert commands.run(*words, timeout=600).returncode == 0
    assert {path: path.read_bytes() for path in content} == content
    assert {path: path.stat().st_mtime_ns for path in times} == times and len(times) == 6


def test_a_recipe_without_a_teacher_says_so():
    with pytest.raises(ConfigError, match=r"'no/such' holds no run .* students/turbo:runs/digits"):
        recipes.load(f"{ROOT}/configs/students/turbo.py:no/such")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_every_recipe_is_a_program_of_its_players(name, written):
    """Shapes alone: the step takes the state and the batch that the config says."""
    config = student(name, written)
    program = programs.build(Recipe.from_config(config, (8, 8, 1)), sharding.make_mesh({"data": 1}, jax.devices()[:1]))
    names = set(program.networks(program.target))
    assert names == {"model", "target"} | {
        "reflow": set(),
        "dmd": {"teacher", "fake"},
        "dmd2": {"teacher", "fake"},
        "f_distill": {"teacher", "fake"},
        "sid": {"teacher", "fake"},
        "sida": {"teacher", "fake"},
        "rcm": {"teacher", "fake"},
        "turbo": {"teacher", "discriminator"},
        "lightning": {"teacher", "judge"},
        "ladd": {"teacher", "discriminator"},
    }.get(name, {"teacher"})


def test_a_row_is_measured_under_the_conditions_of_its_run(monkeypatch):
    """Of records with a class among several entries: the network receives all entries, and the figures the classes."""
    conditions = {"label": np.array([2, 0, 1]), "mask": np.zeros((3, 8, 8))}
    monkeypatch.setattr(generate, "conditions_of", lambda recipe, number: conditions)
    monkeypatch.setattr(generate, "classes_of", lambda recipe, conditions: conditions["label"])
    monkeypatch.setattr(checkpoints, "load_ema", lambda folder, step: ({}, None))
    seen = []
    work = lambda: np.zeros(3, np.int64)
    images = lambda params, conditions, seeds: seen.append(conditions) or np.zeros((3, 8, 8, 1), np.uint8)
    monkeypatch.setattr(generate, "trained", lambda recipe, params: recipe)
    monkeypatch.setattr(generate, "generator", lambda recipe: types.SimpleNamespace(images=images, nfe=4, work=work))
    figures = {"asked_class": None, "frechet": {}, "count": 3}
    monkeypatch.setattr(sample_metrics, "measure", lambda images, labels, *rest: seen.append(labels) or figures)
    config = digits.get_config("tiny")
    config.sample.number = 3
    config.evaluate.features = ("pixels",)
    row = few_steps.Row("a", pathlib.Path("a"), 1, config)
    assert few_steps.measured(row)[2] is conditions["label"]
    assert seen[0] is conditions and seen[1] is conditions["label"]


def test_a_row_of_which_no_sample_is_finite_is_refused(monkeypatch):
    """Its pictures are black, and their distance from the data would stand in the table."""
    made = []
    images = lambda params, conditions, seeds: made.append(seeds) or np.zeros((3, 8, 8, 1), np.uint8)
    work = lambda: np.array([0, 0, 3 * len(made)])
    monkeypatch.setattr(checkpoints, "load_ema", lambda folder, step: ({}, None))
    monkeypatch.setattr(generate, "trained", lambda recipe, params: recipe)
    monkeypatch.setattr(generate, "generator", lambda recipe: generate.Generator(images, None, 4, work))
    config = digits.get_config("tiny")
    config.sample.number = 3
    with pytest.raises(ConfigError, match=r"3 of 3 samples are not finite.*config\.sample\.steps ="):
        few_steps.measured(few_steps.Row("a", pathlib.Path("a"), 1, config))

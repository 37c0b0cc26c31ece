"""Few-step students of a text-to-image run: their recipe, their prompts, and their figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from configs.students import lcm, reflow
from configs.text import shapes
from diffusion import samplers
from diffusion.data import shapes as data
from diffusion.experiments import few_steps, train
from diffusion.experiments.run import examples, noise_pairs
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.metrics import attribute_reader
from diffusion.recipe import ConfigError, Recipe
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import config_hash
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from examples.text import demo as text_demo, few_steps as text_few_steps, judge


def test_other_runs_are_sent_to_the_other_command():
    with pytest.raises(ConfigError, match=r"the judge reads only pictures of shapes.*diffusion few_steps"):
        text_few_steps.prompts(digits.get_config("tiny"), 4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder of a tiny text model's denoiser, of its student's)."""
    folder = tmp_path_factory.mktemp("text")
    assert text_demo.run(shapes.get_config("tiny"), folder) == 0
    student = lcm.get_config(f"{folder / 'denoiser'},tiny")
    student.train.steps, student.checkpoint.every, student.train.log_every = 2, 2, 2
    student.train.batch_size = 8
    assert train.run(student, folder / "lcm") == 0
    return folder / "denoiser", folder / "lcm"


@pytest.mark.slow
def test_a_picture_depends_on_its_own_caption_and_seed_alone(runs, compilation_cache):
    config = workdir.read_config(runs[0])
    config.sample.update({"number": 4, "batch_size": 4, "steps": 2})
    prompts = text_few_steps.prompts(config, 4)
    assert prompts.texts == [data.example("train", row)[1] for row in range(4)]
    rng = np.random.default_rng(0)  # weights that make every layer matter, which a few steps of training do not
    params = jax.tree.map(
        lambda leaf: leaf + rng.normal(0, 0.2, leaf.shape).astype(np.float32), checkpoints.load_ema(runs[0])[0]
    )
    seeds = generate.seeds(config, 4)
    of = lambda number, rows: _made(
        config, params, number, {k: v[rows] for k, v in prompts.conditions.items()}, seeds[rows]
    )
    together = of(4, [0, 1, 2, 3])
    reversed_ = of(4, [3, 2, 1, 0])
    alone = of(1, [2])
    np.testing.assert_array_equal(together, reversed_[::-1])
    assert np.abs(together[2:3].astype(int) - alone).max() <= 1
    other = _made(config, params, 4, {name: rows[[1, 0, 2, 3]] for name, rows in prompts.conditions.items()}, seeds)
    assert (other != together).any(axis=(1, 2, 3)).tolist() == [True, True, False, False]


def _made(config, params, batch_size, condition, seeds):
    config = config.copy_and_resolve_references()
    config.sample.batch_size = batch_size
    return generate.build_generator(Recipe.from_config(config, workdir.example_shape(config))).images(
        params, condition, seeds
    )


@pytest.mark.slow
def test_pairs_of_latents_are_those_of_the_guided_teacher_at_its_own_times(runs, tmp_path, compilation_cache):
    config = reflow.get_config(f"{runs[0]},tiny")
    config.teacher.pairs.update({"number": 4, "steps": 3})
    config.train.batch_size = 4
    shape = workdir.example_shape(config)
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    recipe = Recipe.from_config(config, workdir.example_shape(config))
    made = noise_pairs.paired(recipe, tmp_path, examples.open_examples(recipe), mesh)
    batch = next(made.batches(config, 0, np.arange(4), 0))
    assert batch["x"].shape == batch["noise"].shape == (4, *shape)
    # As experiments.sample would: the guided teacher at its shifted times.
    sampling = workdir.read_config(runs[0])
    sampling.sample.update({"steps": 3, "guidance": {"name": "classifier_free", "scale": config.teacher.scale}})
    assert sampling.sample.shift == 3 and config.teacher.scale > 1
    condition = jax.tree.map(jnp.asarray, batch["condition"])
    denoise = run_denoiser.denoiser(Recipe.from_config(sampling, shape))(checkpoints.load_ema(runs[0])[0], condition)
    schedule = Resolver(sampling).schedule
    plan = Resolver(sampling).plan
    keys = jax.random.split(jax.random.key(0), 4)
    x = samplers.sample(samplers.dpmpp_2m(), denoise, schedule, batch["noise"], plan, keys)
    np.testing.assert_allclose(batch["x"], x, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_teacher_and_student_are_measured_on_the_same_captions(runs, tmp_path, compilation_cache):
    images, shown = judge.pictures(seed=1, number={"one": 40, "several": 8, "pair": 8, "word": 8})
    reader = attribute_reader.train(images, judge.labels(shown), steps=3, batch_size=16)
    teacher = few_steps.rows_of(runs[0], "teacher", (3,), 16, "")
    students = few_steps.rows_of(runs[1], "lcm", (1, 2), 16, "")
    own = lambda row: text_few_steps.measured(row, lambda: reader)
    measured = lambda row: few_steps.measured_once(row, tmp_path, lambda: own(row), "one")
    found = [measured(row) for row in (*students, *teacher)]
    assert [(row["name"], row["nfe"]) for row in found] == [("lcm", 1), ("lcm", 2), ("teacher", 3)]
    assert all(0 <= row["attributes"] <= 1 for row in found)
    assert all(row[f"fd_{space}"] > row[f"floor_{space}"] > 0 for row in found for space in ("judge", "pixels"))
    texts = [
        np.load(tmp_path / "rows" / f"{name}.npz", allow_pickle=False)["labels"].tolist()
        for name in (f"lcm-{students[0].seed}-1", f"teacher-{teacher[0].seed}-3")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == few_steps.SHOWN
    assert few_steps.measured_once(students[0], tmp_path, None, "one") == found[0], (
        "kept, and read with no judge at all"
    )
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        few_steps.measured_once(students[0], tmp_path, None, "another judge")
    assert config_hash(students[0].config) != config_hash(students[1].config)
    means = few_steps.over_seeds(found)
    table = few_steps.table(means, ("judge", "pixels"), means[-1], text_few_steps.SHARES)
    assert "attributes right" in table and "coverage" in table and "(1.00)" in table.splitlines()[-1]

"""docs/pytrees.md: its ten lines run, and its polygons train from a config."""

import json
import pathlib
import re
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import points
from diffusion import parameterizations, pytrees, samplers, schedules, timesteps
from diffusion.data import pipeline
from diffusion.recipe import ConfigError, checks, extensions, names
from tests import commands

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "pytrees.md").read_text()
TABLES = (names.SOURCES, names.MODELS, names.SCHEDULES)


@pytest.fixture(scope="module")
def polygons(tmp_path_factory):
    """The page as a file of a user; afterwards the tables are again what they were."""
    before = [dict(table) for table in TABLES]
    path = tmp_path_factory.mktemp("pytrees") / "polygons.py"
    path.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    extensions.extend(str(path))
    yield sys.modules["extension_polygons"]
    for table, old in zip(TABLES, before):
        table.clear()
        table.update(old)


@pytest.mark.extended
def test_the_ten_lines_train_and_sample_what_is_real(polygons):
    assert polygons.losses.shape == (2,) and (polygons.losses > 0).all()
    for molecule, atoms in enumerate((3, 5)):
        for leaf in polygons.molecules.values():
            assert (leaf[molecule, atoms:] == 0).all() and (leaf[molecule, :atoms] != 0).all()


@pytest.mark.extended
def test_the_polygons_are_regular_and_a_mask_that_leaves_nothing_is_refused(polygons):
    source = polygons.polygons(number=20)
    for record in (source[row] for row in range(20)):
        real = record["condition"]["real"]
        corners = record["x"]["positions"][real]
        bonds = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
        np.testing.assert_allclose(bonds, bonds.mean(), rtol=1e-5)
        assert (record["x"]["types"][real].argmax(1) + 3 == len(corners)).all()
    empty = [source[0], {**source[1], "condition": {"real": np.zeros(6, bool)}}]
    with pytest.raises(ValueError, match='the mask "real" of record 1 of a batch is empty'):
        pipeline.stacked_conditions(empty)
    of_leaves = [{"condition": {"real": {"frames": np.ones(2, bool), "sound": np.zeros(3, bool)}}}]
    pipeline.stacked_conditions(of_leaves)  # of a video without sound something is real


def test_an_objective_that_takes_no_mask_is_refused_before_anything_is_compiled(polygons):
    config = points.get_config()
    config.data.source = {"name": "polygons", "number": 20}
    config.model = {"name": "polygon_net"}
    config.objective.wrappers = ()
    assert checks.on_its_data(checks.validate(config)).objective.examples.real
    config.objective.coupling = {"name": "optimal_transport", "block": 2}
    with pytest.raises(ConfigError, match=r"objective.coupling = .*a mask of padding, which this objective does not"):
        checks.on_its_data(checks.validate(config))


@pytest.mark.parametrize("name", ["mlp", "dit", "set_transformer"])
def test_a_network_of_arrays_is_refused_for_records_that_are_pytrees(polygons, name):
    config = points.get_config()
    config.data.source = {"name": "polygons", "number": 20}
    sizes = {"patch": 2, "width": 8, "depth": 1, "heads": 1, "num_classes": 0} if name == "dit" else {}
    config.model = {"name": name, **sizes}
    config.objective.wrappers = ()
    with pytest.raises(ConfigError, match=rf"config\.model\.name = '{name}', but .* are pytrees .*docs/pytrees\.md"):
        checks.with_data(checks.validate(config), polygons.polygons(number=20).spec)


@pytest.mark.slow
def test_the_exact_denoiser_of_polygons_has_their_sizes(polygons):
    """E[x_0 | x_t] by a sum over radii and angles, under the schedule of each leaf, in the 20 steps of the page."""
    schedule = polygons.polygon_schedule()
    corners = np.random.default_rng(0).integers(3, 7, 100)
    atoms = np.arange(6) < corners[:, None]
    real = pytrees.mask(jnp.asarray(atoms), polygons.SHAPE)
    radii, turns = (a.ravel() for a in np.meshgrid(np.linspace(0.8, 1.2, 41), np.linspace(0, 2 * np.pi, 120)))

    def every(number):
        angles = turns[:, None] + 2 * np.pi * np.arange(6) / number
        positions = radii[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        types = np.broadcast_to(2 * np.eye(4)[np.full(6, number - 3)] - 1, (len(radii), 6, 4))
        return pytrees.pack(
            {"positions": jnp.asarray(positions, jnp.float32), "types": jnp.asarray(types, jnp.float32)}
        )

    all_of = jnp.stack([every(number) for number in range(3, 7)])

    def denoise(x, t):
        at = schedules.at_each(schedule, jnp.broadcast_to(t, (len(x), *jnp.shape(t)[1:])), x)
        alpha, sigma = schedule.alpha(at), jnp.maximum(schedule.sigma(at), 1e-4)

        def mean(example):
            x, alpha, sigma, number, real = example
            errors = jnp.where(real, (x - alpha * all_of[number - 3]) / sigma, 0)
            return jax.nn.softmax(-jnp.square(errors).sum(-1) / 2) @ all_of[number - 3]

        x0 = jax.lax.map(mean, (x, alpha, sigma, jnp.asarray(corners), real), batch_size=50)
        return parameterizations.Prediction(x0, (x - alpha * x0) / sigma)

    first, rest = jax.random.split(jax.random.key(0), (2, 100))
    plan = timesteps.plan(timesteps.uniform(schedule, steps=20))
    x = samplers.prior(schedule, first, pytrees.packed_shape(polygons.SHAPE))
    sampler = samplers.padded(samplers.dpmpp_2m(), real)
    made = jax.jit(lambda x: samplers.sample(sampler, denoise, schedule, x, plan, rest))(x)
    found = np.linalg.norm(pytrees.unpack(made, polygons.SHAPE)["positions"], axis=-1)[atoms]
    assert ((found > 0.79) & (found < 1.21)).all()
    np.testing.assert_allclose(np.mean(found), 1.0, atol=0.03)


@pytest.mark.slow
def test_the_commands_of_the_page_train_and_sample(polygons, tmp_path):
    code, folder = polygons.__file__, str(tmp_path / "run")
    tiny = ["--config.train.steps=2", "--config.train.batch_size=8", "--config.sample.number=6",
            "--config.sample.batch_size=6", "--config.sample.steps=2", "--config.model.width=8"]  # fmt: skip
    block = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)[1].replace("\\\n", " ")
    for line, more in zip(block.strip().splitlines(), (tiny, tiny[2:4])):
        line = line.replace("runs/polygons", folder).replace("polygons.py", code)
        done = commands.run(*shlex.split(line), *more, timeout=600)
        assert done.returncode == 0, done.stderr
    kept = np.load(tmp_path / "run" / "samples.npz")
    real = kept["condition/real"]
    assert real.shape == (6, 6) and not real.all() and real.any(axis=1).all()
    for leaf in ("positions", "types"):
        made = kept[f"images/{leaf}"]
        assert (made[~real] == 0).all() and (made[real] != 0).all()
    of_run = ["--workdir", folder, "--extend", code]
    edit = ["--out", str(tmp_path / "edits"), "--editor", '{"name": "sdedit"}', "--pictures=test"]
    for command in (["edit", *of_run, *edit], ["evaluate", *of_run, "--metrics=bpd", "--config.evaluate.number=4"]):
        done = commands.run("diffusion", *command, timeout=600)
        assert done.returncode == 0, done.stderr
    edited = np.load(tmp_path / "edits" / "edited.npz")
    real = edited["labels/real"]
    for leaf in ("positions", "types"):
        assert (edited[f"images/{leaf}"][~real] == 0).all() and (edited[f"images/{leaf}"][real] != 0).all()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["model"]["bits_per_dim"]["protocol"]["dimensions"] == "of what is real"

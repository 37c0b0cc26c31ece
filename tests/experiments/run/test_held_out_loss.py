"""The loss on held-out records in the training loop: what it is the mean of, and what it does not depend on."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.data import identities, latent_cache, latent_writer, pipeline, sources
from diffusion.data.sources import python_objects, sequences
from diffusion.data.stream_batches import StreamBatches
from diffusion.experiments import train
from diffusion.experiments.evaluation import figures, held_out, loss_report
from diffusion.experiments.run import examples, held_out_loss, program as programs
from diffusion.experiments.run.tracking import flat
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.recipe import Recipe
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from tests.training.test_meshes import run

LINE = schedules.rectified_flow()
SETTINGS = {
    "train.steps": 4, "train.batch_size": 4, "train.log_every": 2, "checkpoint.every": 2, "data.threads": 0,
    "train.accumulate": 1, "evaluate.loss.every": 2, "evaluate.loss.number": 100,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("compilation_cache")


class Constant:
    """A network that returns one trained number everywhere: its loss is a polynomial in that number."""

    def init(self, key, x, t, condition=None):
        return {"b": jnp.float32(0.5)}

    def apply(self, params, x, t, condition=None):
        return jnp.full_like(x, params["b"])


def seen(loss=None):
    """An objective whose loss of an example is (b - x)^2, at the time that its key draws."""
    density = timesteps.uniform_density(LINE)

    def squares(networks, schedule, keys, batch, step):
        t, _ = density.sample((), keys, batch["index"])
        b = networks["model"](batch["x"], t, None)
        return jnp.square(b - batch["x"]).mean(-1), {"t": t}

    return objectives.Objective(loss or squares, density=density)


def records(first, number):
    return [{"x": np.float32([np.sin(i), np.cos(i)])} for i in range(first, first + number)]


def recipe(settings=None, **parts):
    parts = {"objective": seen(), "data": records(0, 16), "held_out": records(16, 32)} | parts
    return Recipe(LINE, network=Constant(), parameterization=parameterizations.velocity(), **parts,
                  config=SETTINGS | (settings or {}))  # fmt: skip


def rows_of(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}


@pytest.mark.extended
def test_it_is_the_mean_over_the_records_for_the_trained_weights_and_the_average(tmp_path):
    """100 draws of 32 records: three passes over all of them, and the first four of the fourth."""
    own = recipe()
    assert train.train(own, tmp_path) == 0
    rows = rows_of(tmp_path)
    assert list(rows) == [2, 4]
    x = np.float64([record["x"] for record in own.held_out])
    drawn = np.concatenate([np.tile(np.arange(32), 3), pipeline.records_at(np.arange(96, 100), 32, held_out_loss.SEED)])
    state, _ = checkpoints.restore(tmp_path, 4, programs.build(own, programs.mesh_of(own.config)).target)
    for name, params in (("trained", state.params), ("average", state.ema)):
        losses = np.square(float(params["b"]) - x).mean(-1)
        np.testing.assert_allclose(rows[4][name]["loss"], losses[drawn].mean(), rtol=1e-6)
        by_record = np.bincount(drawn, losses[drawn] - losses[drawn].mean())
        error = np.sqrt(32 / 31) * np.linalg.norm(by_record) / 100
        np.testing.assert_allclose(rows[4][name]["standard_error"], error, rtol=1e-5)
        counts = np.array(rows[4]["count_by_t"])
        means = np.array([0.0 if mean is None else mean for mean in rows[4][name]["by_t"]])
        np.testing.assert_allclose((counts * means).sum() / 100, rows[4][name]["loss"], rtol=1e-6)
    assert counts.sum() == 100 and rows[4]["draws"] == 100
    assert rows[4]["records"] == {"split": "held out", "count": 32, "trained_on": 0}
    assert rows[4]["trained"]["loss"] != rows[4]["average"]["loss"] != rows[2]["average"]["loss"]


@pytest.mark.extended
def test_it_measures_once_what_an_independent_sum_over_times_and_noises_gives():
    """Of a linear network: E over t of |b x_t - (eps - x0)|^2, integrated exactly for x0 = 0 in one dimension.

    x_t = t eps, so the loss is (b t - 1)^2 eps^2, whose mean is the integral of (b t - 1)^2 = b^2 / 3 - b + 1.
    """

    class Scaled(Constant):
        def apply(self, params, x, t, condition=None):
            return params["b"] * x

    objective = objectives.flow_matching(timesteps.uniform_density(LINE))
    zeros = [{"x": np.zeros(1, np.float32)} for _ in range(20_000)]
    own = Recipe(LINE, objective, Scaled(), [{"x": np.ones(1, np.float32)}] * 8, held_out=zeros,
                 parameterization=parameterizations.velocity(),
                 config=SETTINGS | {"evaluate.loss.number": 20_000})  # fmt: skip
    row = measured(own)
    exact = 0.5**2 / 3 - 0.5 + 1
    assert abs(row["trained"]["loss"] - exact) < 4 * row["trained"]["standard_error"]
    # Within a bin [a, b] of t: the integral of (t / 2 - 1)^2 over it, divided by its width.
    edges = np.linspace(0, 1, 11)
    primitive = 2 / 3 * (edges / 2 - 1) ** 3
    np.testing.assert_allclose(row["trained"]["by_t"], np.diff(primitive) * 10, rtol=0.15)


def measured(own, mesh=None, params=None):
    """The measurement of a recipe's first state."""
    mesh = mesh or programs.mesh_of(own.config)
    data = examples.open_examples(own)
    own = checks.with_data(own, data.spec)
    program = programs.build(own, mesh)
    state = sharding.create(program.init, program.target, program.seed)
    if params is not None:
        state = state._replace(params=params, ema=params)
    return held_out_loss.build(own, program, mesh, data.source).measure(state)


def digits_config(**changes):
    config = digits.get_config("tiny")
    config.update_from_flattened_dict({"model.width": 16, "model.depth": 1, "evaluate.loss.every": 5, **changes})
    return config


def digits_recipe(**changes):
    return Recipe.from_config(digits_config(**changes), (8, 8, 1))


def test_it_is_the_objectives_loss_at_the_last_step_of_the_run():
    """An objective may change with the step: the losses of all lines are those of steps - 1, and thus comparable."""
    stepped = lambda networks, schedule, keys, batch, step: (
        jnp.full(len(batch["x"]), step, jnp.float32),
        {"t": jnp.full(len(batch["x"]), 0.5)},
    )
    row = measured(recipe({"train.steps": 7}, objective=seen(stepped)))
    assert row["trained"]["loss"] == row["average"]["loss"] == 6


def test_each_batch_has_draws_of_its_own():
    """If the second batch of 64 had the times of the first, each bin of t would count an even number of the 128."""
    row = measured(recipe({"evaluate.loss.number": 128}))
    assert sum(row["count_by_t"]) == 128 and any(count % 2 for count in row["count_by_t"])


@pytest.mark.extended
def test_neither_seed_nor_batch_size_nor_accumulation_nor_length_changes_the_draws():
    """The same weights have the same loss in runs that differ in everything that a run may choose."""
    others = {"seed": 3, "train.batch_size": 96, "train.accumulate": 3, "train.steps": 7, "data.threads": 2}
    flow = objectives.flow_matching(timesteps.uniform_density(LINE, strata=8))
    rows = [measured(recipe(changes, objective=flow)) for changes in ({}, others)]
    assert rows[0] == rows[1]


@pytest.mark.extended
def test_a_config_names_its_validation_split():
    row = measured(digits_recipe())
    assert row["records"] == {"split": "validation", "count": 180, "trained_on": 0}
    assert row["draws"] == 1024 == sum(row["count_by_t"]) and row["trained"] == row["average"]


SEVERAL = """
import json, sys
import jax
from diffusion.experiments.run import program as programs
from diffusion.training import sharding
from tests.experiments.run.test_held_out_loss import digits_recipe, measured

def row(count, axes):
    fields = {"mesh.data": 1, "model.heads": 2, "evaluate.loss.number": 100, "train.batch_size": 48}
    recipe = digits_recipe(**fields | {f"mesh.{axis}": size for axis, size in axes.items()})
    return measured(recipe, programs.mesh_of(recipe.config, jax.devices()[:count]))

sharding.initialize_distributed()
print(json.dumps([row(*layout) for layout in json.loads(sys.argv[1])]))
"""
LAYOUTS = [(1, {}), (3, {"data": 3, "fsdp": 1}), (4, {"fsdp": 4}), (4, {"data": 2, "tensor": 2}),
           (8, {"data": 8, "kind": "pmap"})]  # fmt: skip


@pytest.mark.slow
def test_no_mesh_changes_it():
    """Up to the order of float sums: on 8 devices as on one, whatever is split."""
    alone, *others = json.loads(run(SEVERAL, 1, 8, json.dumps(LAYOUTS)).splitlines()[-1])
    others += json.loads(run(SEVERAL, 2, 4, json.dumps(LAYOUTS[-1:])).splitlines()[-1])  # after lines of gloo
    for row in others:
        assert row["count_by_t"] == alone["count_by_t"] and row["records"] == alone["records"]
        for weights in held_out_loss.WEIGHTS:
            by_t = [np.array(one[weights]["by_t"], float) for one in (row, alone)]  # NaN in a bin without draws
            np.testing.assert_allclose(*by_t, rtol=1e-5)
            np.testing.assert_allclose(row[weights]["loss"], alone[weights]["loss"], rtol=1e-6)


def test_the_draws_of_training_differ_and_the_loss_of_a_batch_is_another(tmp_path):
    """Held-out keys are none of the run's: a training on seed 0 shares no draw with the measurement of seed 0."""
    from diffusion.training.step import example_keys, training_key

    theirs = example_keys(training_key(np.uint32(held_out_loss.SEED)), 0, jnp.arange(64))
    ours = example_keys(jax.random.key(held_out_loss.SEED), 0, jnp.arange(64))
    both = jax.random.key_data(jnp.concatenate([theirs, ours])).tolist()
    assert len({tuple(key) for key in both}) == 128


@pytest.mark.extended
def test_records_that_were_trained_on_are_refused_or_counted():
    twice = recipe(held_out=records(10, 22))
    with pytest.raises(held_out.Overlap, match=r"^6 of the 22 records of 'held out'"):
        measured(twice)
    row = measured(recipe({"evaluate.overlap": "accept"}, held_out=records(10, 22)))
    assert row["records"] == {"split": "held out", "count": 22, "trained_on": 6}
    with pytest.raises(ConfigError, match="629 of the 1,258"):
        measured(digits_recipe(**{"data.split": "train[:50%]+validation", "evaluate.split": "train"}))


def test_sets_too_large_to_compare_by_content_are_not_called_held_out(monkeypatch):
    monkeypatch.setattr(held_out, "COMPARED", 20)
    assert measured(recipe())["records"]["trained_on"] is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"base.path": "/nowhere"}, "config.base.path"),
        ({"data.text.dir": "/nowhere"}, "config"),
        ({"data.buckets.area": 256 * 256}, "config.evaluate.loss.every = 5, but pictures of several sizes"),
        ({"evaluate.loss.latents": "/x"}, "config.evaluate.loss.latents = '/x', but config.data.latents.dir = ''"),
        ({"evaluate.loss.latents": "/x", "evaluate.loss.every": 0}, "no loss is measured"),
        ({"data.latents.dir": "/x"}, "config"),
        ({"checkpoint.best": "held_out_loss", "evaluate.loss.every": 0}, "this figure is not measured during training"),
        ({"evaluate.loss.number": 0}, "config.evaluate.loss.number = 0"),
    ],
)
def test_what_has_no_held_out_records_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        checks.validate(digits_config(**changes))


def test_a_recipe_of_python_needs_records_of_its_own():
    with pytest.raises(ConfigError, match=r"evaluate.loss.every = 2, but no records are held out. Valid: 0, or Rec"):
        recipe(held_out=None)


@pytest.mark.extended
def test_a_run_that_was_stopped_writes_the_same_lines(tmp_path):
    """Stopped between a checkpoint and its measurement, which it then makes when it goes on."""
    straight, stopped = tmp_path / "a", tmp_path / "b"
    assert train.train(recipe(), straight) == 0
    assert train.train(recipe({"train.steps": 2}), stopped) == 0
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(line for line in lines if "held_out_loss" not in line))
    assert train.train(recipe(), stopped) == 0
    assert (stopped / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


def passing(settings):
    """A recipe whose b rises by 0.1 a step from 0.5 without end, past held-out records at 0.9, where step 4 is."""

    def away(networks, schedule, keys, batch, step):
        b = networks["model"](batch["x"], jnp.zeros(len(keys)), None)
        return jnp.where(batch["x"] > 10, -b, jnp.square(b - batch["x"])).mean(-1), {"t": jnp.zeros(len(keys))}

    optimizer = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.0}
    settings = {"checkpoint.best": "held_out_loss", "checkpoint.keep": 1, "optimizer": optimizer, "ema.decay": 0.0,
                **settings}  # fmt: skip
    return recipe(settings, objective=dataclasses.replace(seen(away)), data=[{"x": np.full(2, 11, np.float32)}] * 4,
                  held_out=[{"x": np.full(2, 0.9, np.float32)}] * 4)  # fmt: skip


@pytest.mark.extended
def test_the_checkpoint_of_the_least_held_out_loss_is_kept(tmp_path, capsys):
    assert train.train(passing({"checkpoint.every": 6, "train.steps": 6}), tmp_path) == 0
    losses = {step: row["average"]["loss"] for step, row in rows_of(tmp_path).items()}
    assert min(losses, key=losses.get) == 4 and list(losses) == [2, 4, 6]  # b = 0.7, 0.9, 1.1
    assert checkpoints.steps(tmp_path) == [4, 6]
    assert "the least held_out_loss so far" in capsys.readouterr().out


@pytest.mark.extended
@pytest.mark.parametrize("changes, least", [
    ({"evaluate.loss.number": 50}, 6),  # of steps 6 and 8, since the loss of step 4 is of other draws
    ({"evaluate.loss.every": 4, "evaluate.number": 9, "sample.steps": 3}, 4),  # changes no draw of the loss
])  # fmt: skip
def test_the_least_loss_is_the_least_of_one_measurement(tmp_path, capsys, changes, least):
    assert train.train(passing({}), tmp_path) == 0
    assert train.train(passing({"train.steps": 8} | changes), tmp_path) == 0
    assert checkpoints.steps(tmp_path) == [least, 8]
    assert ("has changed since step 4 had the least held_out_loss" in capsys.readouterr().out) == (least == 6)


def test_numbers_of_a_tracker_leave_out_the_bins_without_records():
    bins = [0.1, None, *[0.2] * 8]
    row = {"trained": {"loss": 0.3, "by_t": bins}, "average": {"loss": 0.4, "by_t": [None] * 10}}
    tags = held_out_loss.numbers(row)
    later = {f"held_out_loss/trained/{i / 10:.1f}-{(i + 1) / 10:.1f}": 0.2 for i in range(2, 10)}
    first = {"held_out_loss/trained": 0.3, "held_out_loss/average": 0.4, "held_out_loss/trained/0.0-0.1": 0.1}
    assert tags == first | later


@pytest.mark.extended
def test_trackers_tables_and_curves_have_it(tmp_path):
    assert train.train(recipe(), tmp_path) == 0
    row = rows_of(tmp_path)[4]
    measured_run = figures.read_run(tmp_path)
    assert measured_run.figures["held_out_loss"].value == row["average"]["loss"]
    assert measured_run.figures["held_out_loss_trained"].value == row["trained"]["loss"]
    low, high = measured_run.figures["held_out_loss"][1:3]
    np.testing.assert_allclose((high - low) / 2, 1.96 * row["average"]["standard_error"], rtol=1e-6)
    assert [step for step, _ in measured_run.curves["held_out_loss"]] == [2, 4]
    assert measured_run.figures["held_out_loss"].n == 100
    tags = held_out_loss.numbers(row)
    assert tags["held_out_loss/average"] == row["average"]["loss"]
    assert tags["held_out_loss/trained/0.0-0.1"] == row["trained"]["by_t"][0]
    assert not [name for name in flat({"step": 4, "held_out_loss": row}) if "records" in name]


def test_a_stream_gives_its_first_records_and_must_give_them_again():
    again = lambda: iter(records(16, 100))
    row = measured(recipe(held_out=again))
    losses = [np.square(0.5 - np.float64(record["x"])).mean() for record in records(16, 100)]
    np.testing.assert_allclose(row["trained"]["loss"], np.mean(losses), rtol=1e-6)
    assert row["records"]["trained_on"] is None  # a stream of one's own has no numbers
    with pytest.raises(ConfigError, match=r"config.evaluate.loss: .*once"):
        measured(recipe(held_out=again()))


@pytest.mark.slow
def test_latents_are_of_a_cache_of_held_out_pictures(tmp_path):
    """Their pictures are there: they say how many were trained on."""
    for split in ("train", "validation"):
        source, spec = sources.open_source("digits", split)
        about = {"name": "digits", "version": spec.version, "split": split, "size": 8, "num_classes": 10,
                 "shape": [8, 8, 1]}  # fmt: skip
        encoder = {"family": "AutoencoderKL", "config": {"scaling_factor": 1.0}, "sha256": "ab"}
        made = latent_cache.Description(about, encoder, (4, 4, 4), "mean", ("plain",), "float32", 1.0, 0.0)
        some = [source[i] for i in range(8)]
        encode = lambda x: np.full((len(x), 1, 4, 4, 4), 2.0, np.float32)
        latent_writer.write(tmp_path / split, some, spec._replace(size=8), made, encode, threads=0)
    config = digits_config(**{"data.latents.dir": str(tmp_path / "train"), "data.shape": (4, 4, 4)})
    with pytest.raises(ConfigError, match=r"config.evaluate.loss.latents = '', but the run trains on latents"):
        checks.validate(config)
    config.evaluate.loss.latents = str(tmp_path / "validation")
    row = measured(Recipe.from_config(config, (4, 4, 4)))
    assert row["records"] == {"split": "validation", "count": 8, "trained_on": 0}
    config.evaluate.loss.latents = str(tmp_path / "train")
    with pytest.raises(held_out.Overlap, match="are among those of 'train'"):
        measured(Recipe.from_config(config, (4, 4, 4)))


@dataclasses.dataclass
class OfConfig:
    """What `open_held_out` reads of a recipe."""

    config: object
    data: object = None


def test_held_out_latents_are_read_at_the_split_of_their_own_cache(monkeypatch):
    """The split of pictures is that of the evaluation; latents have the one that they were made from."""
    monkeypatch.setattr(examples, "open_examples", lambda recipe: recipe.config)
    described = {"split": "test[:50%]"}
    monkeypatch.setattr(examples.latent_cache, "describe", lambda folder: types.SimpleNamespace(dataset=described))
    config = digits_config(**{"data.latents.dir": "/train", "evaluate.loss.latents": "/held", "seed": 5})
    opened, returned = examples.open_held_out(OfConfig(config), 3, 64)
    assert (opened.data.latents.dir, opened.data.split) == ("/held", "test[:50%]")
    assert (returned.seed, returned.train.batch_size) == (3, 64) and config.seed == 5
    opened, _ = examples.open_held_out(OfConfig(digits_config()), 3, 64)
    assert (opened.data.latents.dir, opened.data.split) == ("", "validation")


def test_the_standard_error_is_that_of_a_mean_of_independent_records():
    """s / sqrt(n) of the losses 1, 2, 4, s^2 = sum (x - mean)^2 / 2 = 7/3; draws of one record count together."""
    losses, t = np.float64([1, 2, 4]), np.float64([0.1, 0.5, 0.9])
    row = held_out_loss.summary(losses, t, np.arange(3))
    assert row["standard_error"] == pytest.approx(np.sqrt(7 / 3 / 3), rel=1e-7)
    twice = held_out_loss.summary(np.tile(losses, 2), np.tile(t, 2), np.tile(np.arange(3), 2))
    assert twice["standard_error"] == pytest.approx(np.sqrt(7 / 3 / 3), rel=1e-7)


def repeated(source, number):
    """Which draws are of one record: a table of booleans, which does not depend on how records are numbered."""
    records = held_out_loss._records(types.SimpleNamespace(source=source), number, 4)
    return np.equal.outer(records, records)


def test_draws_of_a_short_stream_are_of_few_records():
    """Draw i of a stream of 5 records is its record i mod 5; two of them are equal, which are one record."""
    values = [0.0, 1.0, 2.0, 3.0, 1.0]
    source = python_objects.source_of(lambda: iter([{"x": np.float32([value])} for value in values]))
    drawn = np.array([values[i % 5] for i in range(12)])
    np.testing.assert_array_equal(repeated(source, 12), np.equal.outer(drawn, drawn))


@pytest.mark.filterwarnings("ignore:left out")
def test_draws_in_place_of_a_damaged_record_are_of_the_record_that_takes_its_place():
    """The batches themselves show which record a draw is: with 5 records of which the third is damaged."""
    values = [[0.0], [1.0], [2.0, 2.0], [3.0], [4.0]]
    source = python_objects.source_of(lambda: iter([{"x": np.float32(value)} for value in values]))
    batches = StreamBatches(source, seed=0, batch_size=4, damaged="skip", threads=0)
    drawn = np.concatenate([next(batches)["x"][:, 0] for _ in range(3)])
    np.testing.assert_array_equal(drawn[:4], [0, 1, 3, 3])
    np.testing.assert_array_equal(repeated(source, 11), np.equal.outer(drawn[:11], drawn[:11]))


def test_records_that_a_mixture_repeats_are_one():
    """An epoch of two sources of equal weights, of 4 and 2 records, has the last 2 twice."""

    class Known(list):
        def identities(self):
            return identities.numbered("set", "part", np.array([record["number"] for record in self]))

    parts = [[{"x": np.float32([i]), "number": i} for i in numbers] for numbers in (range(4), range(4, 6))]
    mixture = sources.mixture([sequences.Records(Known(part)) for part in parts], (1, 1))
    assert len(mixture) == 8
    drawn = np.array([mixture[row]["number"] for row in pipeline.records_at(np.arange(20), 8, held_out_loss.SEED)])
    np.testing.assert_array_equal(repeated(mixture, 20), np.equal.outer(drawn, drawn))


def test_a_single_record_says_nothing_of_the_error():
    """Nine draws of one record, whose loss would have had an error of 0: its figure has no interval."""
    row = held_out_loss.summary(np.arange(9.0), np.linspace(0, 1, 9), np.zeros(9, int))
    assert row["loss"] == 4 and row["standard_error"] is None
    found = figures.loss_figures({"average": row, "trained": row, "draws": 9})
    assert found["held_out_loss"] == figures.Figure(4, None, None, 9)


def test_the_report_has_it():
    part = lambda value: {"loss": value, "standard_error": 0.01, "by_t": [None, value]}
    records = {"split": "validation", "count": 180, "trained_on": 3}
    row = {"average": part(0.25), "trained": part(0.5), "count_by_t": [0, 64], "draws": 64, "records": records}
    measured = figures.last_loss([{"step": 2, "loss": 0.3}, {"step": 2, "held_out_loss": row}])
    assert loss_report.row(measured) == (
        "held-out loss",
        "0.25 (0.23 to 0.27)",
        "0.5 (0.48 to 0.52) of the trained weights",
        "the objective's loss, moving average of step 2; 64 draws of a record, a time and a noise, the same for every "
        "checkpoint",
        "validation: 180, trained on: 3",
    )
    assert loss_report.by_t(measured)[1].splitlines()[2:] == [
        "| 0.0 to 0.5 | — | — | 0 |",
        "| 0.5 to 1.0 | 0.25 | 0.5 | 64 |",
    ]
    assert loss_report.row({}) is None and loss_report.by_t({}) == []

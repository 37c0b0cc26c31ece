"""A sweep to which seeds or values are added: what ran stays, under its name and index, and the new runs follow."""

import pytest

from diffusion.experiments.sweeps import definition, sweep_folder
from diffusion.experiments.sweeps.combinators import each, product
from diffusion.experiments.sweeps.commands import evaluate, sample, train
from diffusion.experiments.sweeps.definition import Sweep
from diffusion.recipe import ConfigError

pytestmark = pytest.mark.extended
TINY = "digits:tiny"
USUAL = (train(TINY), sample(), evaluate())
RATES = each("optimizer.learning_rate", (1e-3, 2e-3))


def settled(folder, runs, commands=USUAL, **rest):
    """(the number of runs that are new, the record), as a start of the sweep has them."""
    record = definition.record(Sweep(runs, commands, **rest), "s.py", folder)
    return definition.settle(folder, record), record


def names(folder):
    return [plan.name for plan in sweep_folder.read(folder).runs]


def test_seeds_are_added_behind_the_runs_of_before(tmp_path):
    """Where the seed varies fastest, the product has them between: an index of --run would be another run."""
    _, before = settled(tmp_path, product(RATES, each("seed", (0, 1))))
    added, after = settled(tmp_path, product(RATES, each("seed", (0, 1, 2))))
    assert added == 2 and after.runs[:4] == before.runs
    assert names(tmp_path)[4:] == ["learning_rate=0.001,seed=2", "learning_rate=0.002,seed=2"]
    assert settled(tmp_path, product(RATES, each("seed", (0, 1, 2)))) == (0, after)


def test_other_seeds_of_the_same_runs_are_averaged_over(tmp_path):
    """The folder kept those of its first start, so that a table went on with a line for each value."""
    runs = product(RATES, each("train.steps", (4, 8)))
    settled(tmp_path, runs)
    assert sweep_folder.read(tmp_path).seeds == []
    added, _ = settled(tmp_path, runs, seeds=("train.steps",))
    assert added == 0 and sweep_folder.read(tmp_path).seeds == ["train.steps"]
    written = (tmp_path / "sweep.json").stat().st_ino
    settled(tmp_path, runs, seeds=("train.steps",))
    assert (tmp_path / "sweep.json").stat().st_ino == written  # nothing has changed


def test_a_field_that_varies_now_leaves_the_names_of_before(tmp_path):
    _, before = settled(tmp_path, product(RATES, each("seed", (0,))))
    assert names(tmp_path) == ["learning_rate=0.001", "learning_rate=0.002"]
    added, after = settled(tmp_path, product(RATES, each("seed", (0, 1))))
    assert added == 2 and after.runs[:2] == before.runs and after.seeds == ["seed"]
    assert names(tmp_path)[2:] == ["learning_rate=0.001,seed=1", "learning_rate=0.002,seed=1"]


def test_a_run_without_a_seed_is_the_run_of_the_seed_of_its_config(tmp_path):
    """Its commands, which have run, stay; tables read its seed."""
    _, before = settled(tmp_path, RATES)
    seeded = product(RATES, each("seed", (0, 1, 2)))
    added, after = settled(tmp_path, seeded)
    assert added == 4 and names(tmp_path)[:2] == [plan.name for plan in before.runs]
    assert [plan.commands for plan in after.runs[:2]] == [plan.commands for plan in before.runs]
    assert [plan.overrides["seed"] for plan in after.runs] == [0, 0, 1, 2, 1, 2]
    assert settled(tmp_path, seeded) == (0, after)


def test_a_new_run_gets_a_name_that_no_run_of_before_has(tmp_path):
    settled(tmp_path, [{"method": "a", "seed": 3}, {"method": "b", "seed": 4}], titles=("method",))
    renamed = [{"method": "c", "seed": 3}, {"method": "b", "seed": 4}, {"method": "A", "seed": 5}]
    added, after = settled(tmp_path, renamed, titles=("method",))
    assert added == 1 and names(tmp_path)[:2] == ["method=a", "method=b"]
    assert after.runs[2].name.startswith("method=A-") and [run.overrides["method"] for run in after.runs] == [
        "c",
        "b",
        "A",
    ]


def test_what_a_sweep_loses_or_changes_is_refused_though_runs_are_added(tmp_path):
    settled(tmp_path, product(RATES, each("seed", (0, 1))))
    with pytest.raises(ConfigError, match=r"no longer a run: learning_rate=0.001,seed=1\n(.*\n)*  a new run: .*seed=2"):
        settled(tmp_path, product(RATES, each("seed", (0, 2))))
    with pytest.raises(ConfigError, match=r"other commands of .*: - -> --number=9\n(.*\n)*.*Runs may be added"):
        settled(tmp_path, product(RATES, each("seed", (0, 1, 2))), (train(TINY), sample("--number=9"), evaluate()))
    longer = product(RATES, each("seed", (0, 1)), [{"train.steps": 50}])
    with pytest.raises(ConfigError, match=r"commands of learning_rate=0.001,seed=0: - -> --config.train.steps=50"):
        settled(tmp_path, longer)
    record = definition.record(Sweep(product(RATES, each("seed", (0, 1, 2))), USUAL), "s.py", tmp_path)
    base = {TINY: {**record.bases[TINY], "seed": 5}}
    with pytest.raises(ConfigError, match="seed: 0 -> 5"):
        definition.settle(tmp_path, record._replace(bases=base))
    assert len(names(tmp_path)) == 4

"""Run folders of earlier commits: their config.json is read, and the run goes on, samples and evaluates as it did.

tests/fixtures/run_folders holds two runs at step 2 as commit 2d372fd wrote them, without a version, and what that
commit made of them: metrics.jsonl after two more steps, and samples.npz at step 4.

    digits.tar.gz   configs/digits.py, of width 8 and depth 1
    dmd.tar.gz      configs/students/dmd.py of that run, with a second player updated twice as often
"""

import importlib
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

from diffusion.data.sources import python_objects
from diffusion.experiments import evaluate, train
from diffusion.experiments.evaluation.sample_metrics import Effort
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate
from diffusion.recipe import ConfigError, Recipe, checks, versions
from diffusion.recipe.defaults import defaults
from diffusion.recipe.values import plain
from diffusion.training.checkpointing import checkpoints

ROOT = pathlib.Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "run_folders"

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture
def before(request, tmp_path):
    shutil.unpack_archive(FIXTURES / f"{request.param}.tar.gz", tmp_path)
    return tmp_path


def written(folder):
    return json.loads((folder / "config.json").read_text())


def dropped(rate):
    return ({"name": "condition_dropout", "rate": rate},) if rate else ()


@pytest.mark.parametrize("before", ["digits", "dmd"], indirect=True)
def test_the_config_of_an_earlier_commit_is_complete(before):
    old = written(before)
    config = workdir.read_config(before)
    here = config.copy_and_resolve_references()
    for part in ("init_from", "teacher"):  # a folder of the machine that wrote it
        here[part].path = str(before) if config[part].path else ""
    checks.validate(here)
    assert "version" not in old and "version" not in config
    assert plain(config)["second_player"] == {**plain(old)["rival"], "network": {"name": ""}}
    rest = plain(config)
    assert rest["data"].pop("source") == {"name": "tfds"} and rest["data"].pop("processes") == 0
    assert rest["data"].pop("viewed") is False
    assert [rest["sample"].pop(name) for name in ("plan", "driver")] == [{"name": "plan"}, {"name": "sample"}]
    assert rest["sample"].pop("guides") == () and rest["sample"].pop("measurement")["operator"] == {"name": ""}
    assert rest.pop("encoder") == {"network": {"name": ""}, "path": "", "size": 0}
    assert rest.pop("autoencoder") == {"network": {"name": ""}, "path": ""}
    assert rest.pop("perceptual") == {"network": {"name": ""}, "path": ""}
    assert rest["train"].pop("products") == "dtype"
    assert rest["sample"].pop("cache") == {"name": ""} and rest["sample"].pop("merge") == 0.0
    assert rest.pop("base") == {"path": "", "dtype": "float32"} and rest.pop("tuning") == {"name": ""}
    assert rest["objective"].pop("wrappers", ()) == dropped(old["objective"].pop("condition_dropout", 0.0))
    assert rest["ema"].pop("name") == "moving_average"
    assert rest["data"]["text"].pop("prompt") == "" and rest["evaluate"].pop("overlap") == "stop"
    assert rest["evaluate"].pop("loss")["every"] == 0
    del rest["second_player"], old["rival"]
    assert rest == plain(old)


def test_each_field_that_came_later_gets_the_value_that_changes_nothing():
    """A folder that lacks all of them is the oldest of version 0."""
    config = defaults()
    oldest = plain(config)
    del oldest["encoder"], oldest["second_player"], oldest["ema"]["sigma_rel"], oldest["evaluate"]["failed"]
    del oldest["teacher"]["scale"], oldest["teacher"]["pairs"], oldest["evaluate"]["overlap"]
    for name in ("latents", "changed", "buckets", "text", "source"):
        del oldest["data"][name]
    for name in ("plan", "driver", "guides", "measurement"):
        del oldest["sample"][name]
    del oldest["train"]["products"], oldest["ema"]["name"]
    assert plain(versions.read(json.dumps(oldest))) == plain(config)


def test_parts_that_a_python_run_names_are_found_where_they_are_now():
    part = {"name": "diffusion.experiments.config.packed.PackedNetwork", "network": {"name": "mine.experiments.config"}}
    assert plain(versions.read(json.dumps({"version": 29, "model": [part]})).model[0]) == {
        "name": "diffusion.recipe.packed.PackedNetwork",
        "network": {"name": "mine.experiments.config"},
    }
    assert versions.read(json.dumps({"version": 30, "model": part})).model.name == part["name"]


def test_parts_whose_modules_moved_into_packages_are_found_there():
    part = {"name": "diffusion.samplers.sample.Sampler", "takes": [{"name": "diffusion.flow_maps.FlowMap"}]}
    coupled = {"name": "diffusion.couplings.transport.Coupling", "cache": {"name": "mine.diffusion.caching.f"}}
    read = plain(versions.read(json.dumps({"version": 31, "model": part, "objective": coupled})))
    assert read["model"]["takes"][0]["name"] == "diffusion.flows.flow_maps.FlowMap"
    assert read["objective"] == {
        "name": "diffusion.objectives.couplings.transport.Coupling",
        "cache": {"name": "mine.diffusion.caching.f"},
    }


def test_a_config_is_written_with_its_version_and_read_back():
    config = defaults()
    config.second_player.updates = 5
    text = versions.write(config)
    assert json.loads(text)["version"] == len(versions.MIGRATIONS)
    assert plain(versions.read(text)) == plain(config)


def test_migrations_before_a_folders_version_are_left_out(monkeypatch):
    """A field of an old name that a later version uses anew stays."""
    text = json.dumps({"version": len(versions.MIGRATIONS), "rival": 1})
    assert plain(versions.read(text)) == {"rival": 1}
    assert plain(versions.read(json.dumps({"rival": 1}))) == {"second_player": 1}


def test_a_migration_replaces_nothing_that_was_written():
    """Not even what is no scale, which the checks of the config then refuse by its name."""
    assert versions.read('{"teacher": {"scale": [1]}}').teacher.scale == (1,)


def test_series_of_before_keep_their_streams():
    config = {"version": 21, "data": {"source": {"name": "gaussian_series"}}}
    assert versions.read(json.dumps(config)).data.source.apart is False
    assert "apart" not in versions.read(json.dumps({**config, "version": 22})).data.source


@pytest.mark.parametrize(
    "objective, coupling",
    [
        ({"coupling": {"name": "sinkhorn", "reg": 0.5, "block": 8}}, {"name": "sinkhorn", "reg": 0.5, "block": 8}),
        ({"name": "schroedinger_bridge", "sigma": 0.5}, {"name": "schroedinger_bridge", "sigma": 0.5}),
    ],
)
def test_transport_of_before_still_ignores_the_condition(objective, coupling):
    config = {"version": 22, "objective": objective, "model": {"num_classes": 2}, "data": {"source": {"name": "tfds"}}}
    across = {"name": "across_conditions", "coupling": coupling}
    assert plain(versions.read(json.dumps(config)).objective.coupling) == across
    points = {**config, "model": {}, "data": {"source": {"name": "points"}}}  # which may have a condition
    assert plain(versions.read(json.dumps(points)).objective.coupling) == across
    assert plain(versions.read(json.dumps({**config, "model": {}})).objective) == objective  # it has none
    assert plain(versions.read(json.dumps({**config, "version": 23})).objective) == objective


@pytest.mark.parametrize("coupling", [None, {"name": "independent"}, {"name": "aligned"}, "sinkhorn", [1]])
def test_couplings_of_before_that_transport_nothing_stay(coupling):
    objective = {"name": "flow_matching", "coupling": coupling}
    config = {"version": 22, "objective": objective, "model": {"num_classes": 2}, "data": {"source": 1}}
    assert plain(versions.read(json.dumps(config)).objective) == plain(objective)


@pytest.mark.parametrize("version", [-1, len(versions.MIGRATIONS) + 1, "1", True, None, 1.0])
def test_a_version_that_none_can_be_is_refused(version):
    with pytest.raises(ConfigError, match=f"version {version!r}. Valid here: 0 to {len(versions.MIGRATIONS)}"):
        versions.read(json.dumps({"version": version}))


@pytest.mark.slow
@pytest.mark.parametrize("before", ["digits", "dmd"], indirect=True)
def test_a_run_of_an_earlier_commit_goes_on_samples_and_evaluates_as_it_did(before, tmp_path_factory):
    digits = tmp_path_factory.mktemp("digits")
    shutil.unpack_archive(FIXTURES / "digits.tar.gz", digits)
    text = (before / "config.json").read_text()  # the run that it is a student of lies elsewhere on this machine
    (before / "config.json").write_text(text.replace("/tmp/before/digits_at_2", str(digits)))
    config = workdir.read_config(before)
    config.train.steps = 4
    assert train.run(config, before) == 0
    assert written(before)["version"] == len(versions.MIGRATIONS)
    rows, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (before, before / "expected")
    )
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, old in zip(rows, expected, strict=True):
        assert row.keys() == old.keys()
        for name in row:
            if name.rpartition("/")[2] in ("loss", "grad_norm", "learning_rate"):
                np.testing.assert_allclose(row[name], old[name], rtol=1e-4, atol=1e-8, err_msg=name)
    old = np.load(before / "expected" / "samples.npz")
    params, step = checkpoints.load_ema(before)
    make = generate.generator(Recipe.from_config(config, (8, 8, 1)))
    images = make.images(params, old["labels"], old["seeds"])
    assert step == 4 and np.abs(images.astype(int) - old["images"].astype(int)).max() <= 1
    np.savez(before / "samples.npz", images=images, labels=old["labels"], seeds=old["seeds"])
    config.evaluate.features = ("pixels",)
    figures = evaluate.run(config, before, "the command", Effort(draws=0, subsets=2))["figures"]
    assert figures["count"] == 20 and figures["frechet"]["pixels"]["ratio"] > 0


def test_a_dataset_of_hugging_face_keeps_its_name_when_its_module_is_renamed():
    before = "diffusion.data.sources.of_python.HuggingFace"
    present = f"{python_objects.HuggingFace.__module__}.{python_objects.HuggingFace.__qualname__}"
    assert versions.read(json.dumps({"data": {"name": before}})).data.name == present
    assert versions.read(json.dumps({"data": {"name": "cifar10"}})).data.name == "cifar10"


@pytest.mark.parametrize(
    "former, present",
    [
        ("diffusion.data.sources.of_python", "diffusion.data.sources.python_objects"),
        ("diffusion.experiments.sampling.of_run", "diffusion.experiments.sampling.run_samples"),
    ],
)
def test_a_renamed_module_warns_and_is_the_present_one(former, present, monkeypatch):
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{former} is now {present}$"):
        assert importlib.import_module(former) is importlib.import_module(present)


@pytest.mark.parametrize(
    "before, now",
    [
        ("parameterizations.velocity.<locals>.target", "parameterizations.targets.velocity.<locals>.target"),
        ("parameterizations._unscaled", "parameterizations.targets._unscaled"),
        ("parameterizations.time.<locals>.<lambda>", "parameterizations.clocks.time.<locals>.<lambda>"),
        ("parameterizations.Parameterization", "parameterizations.network_outputs.Parameterization"),
        ("couplings.sinkhorn.<locals>.pair", "objectives.couplings.transport.sinkhorn.<locals>.pair"),
        ("conditional_couplings.cosine", "objectives.couplings.conditional_transport.cosine"),
        ("equivariant_couplings.aligned", "objectives.couplings.equivariant_transport.aligned"),
        ("conversions.denoiser_under", "parameterizations.conversions.denoiser_under"),
        ("manifolds.tangent_field.TangentField", "flows.flow_maps.TangentField"),
        ("samplers.sample.Sampler", "samplers.sample.Sampler"),
    ],
)
def test_a_run_of_python_that_names_a_module_of_before_names_the_one_of_today(before, now):
    """Each name of today leads to what it names, as far as it is not within a function."""
    old = {"version": 28, "objective": {"parts": [{"name": f"diffusion.{before}"}]}}
    config = plain(versions.read(json.dumps(old)))
    assert config["objective"]["parts"][0]["name"] == f"diffusion.{now}"
    module, _, name = f"diffusion.{now.partition('.<locals>')[0]}".rpartition(".")
    assert hasattr(importlib.import_module(module), name)

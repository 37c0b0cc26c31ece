"""Objectives of a user's own, added by --extend: copies of the library's under names that nothing else knows."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest

from configs import digits
from diffusion import objectives
from diffusion.experiments import train
from diffusion.experiments.run import program
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.objectives.objective_facts import flat
from diffusion.recipe import ConfigError, Recipe, checks, extensions, names
from diffusion.recipe.parts import Resolver
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from tests import commands

DENSITY = {"name": "uniform_density"}
VELOCITY = {"name": "velocity", "clock": {"name": "steps"}}  # what the teacher predicts
BOUNDARY = {"name": "latent_consistency", "parameterization": VELOCITY}
CONSTANT = {"name": "constant", "parameterization": {"name": "velocity"}}
COPIES = (  # the module that is copied, and what is called otherwise in the copy
    ("mean_flow", {"def mean_flow(": "def own_flow("}, "names.add(names.OBJECTIVES, own_flow)"),
    (
        "latent_consistency",
        {"def latent_consistency_distillation(": "def own_lcm("},
        "names.add(names.OBJECTIVES, own_lcm)",
    ),
    (
        "distribution_matching",
        {
            "def distribution_matching(": "def own_dmd(",
            "def fake_score(": "def own_score(",
            "by=fake_score": "by=own_score",
            '"fake"': '"shadow"',
        },
        "names.add(names.OBJECTIVES, own_dmd)\nnames.add(names.SECOND_PLAYERS, own_score)",
    ),
)


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """The user's files, which this process has run; afterwards the tables are again what they were."""
    folder = tmp_path_factory.mktemp("own")
    tables = names.OBJECTIVES, names.SECOND_PLAYERS
    before = [dict(table) for table in tables]
    for module, others, added in COPIES:
        text = (pathlib.Path(objectives.__file__).parent / f"{module}.py").read_text()
        for word, other in others.items():
            assert word in text
            text = text.replace(word, other)
        path = folder / f"own_{module}.py"
        path.write_text(f"{text}\n\nfrom diffusion.recipe import names\n\n{added}\n")
        extensions.extend(str(path))
    yield folder
    for table, old in zip(tables, before):
        table.clear()
        table.update(old)


@pytest.fixture
def config_of(tmp_path):
    """name -> a tiny config of that objective; a teacher's folder is there, and empty."""
    (tmp_path / "teacher").mkdir()

    def of(name, **changes):
        config = digits.get_config("tiny")
        config.model.update({"width": 16, "depth": 1, "unroll": 1})
        config.update_from_flattened_dict({"train.steps": 2, "train.log_every": 2, "checkpoint.every": 2})
        config.optimizer.warmup = 1
        config.sample.guidance.scale = 1.0
        if name != "denoising":
            config.sample.sampler, config.sample.steps = {"name": "flow_map"}, 1
        if name == "own_flow":
            config.objective = {
                "name": name,
                "density": DENSITY,
                "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
            }
        if name == "own_lcm":
            config.objective = {"name": name, "guidance": (0.0, 2.0)}
            config.parameterization = BOUNDARY
        if name == "own_dmd":
            config.objective = {"name": name, "density": DENSITY}
            config.second_player.update({"objective": {"name": "own_score", "density": DENSITY, "weighting": CONSTANT}})
        if name in ("own_lcm", "own_dmd"):
            config.teacher.update({"path": str(tmp_path / "teacher"), "parameterization": VELOCITY})
            config.parameterization = BOUNDARY if name == "own_lcm" else VELOCITY
        for field, value in changes.items():
            *sections, last = field.split("__")
            entry = config
            for section in sections:
                entry = entry[section]
            entry[last] = value
        return config

    return of


@pytest.mark.extended
@pytest.mark.parametrize("name", ["own_flow", "own_lcm", "own_dmd"])
def test_a_copy_is_accepted_and_its_step_and_its_samples_can_be_built(config_of, name):
    config = config_of(name)
    checks.validate(config)
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    built = program.build(Recipe.from_config(config, (8, 8, 1)), mesh)
    assert set(built.target.second_players or ()) == ({"shadow"} if name == "own_dmd" else set())
    assert set(built.target.frozen or ()) == (set() if name == "own_flow" else {"teacher"})
    recipe = Recipe.from_config(config, (8, 8, 1))
    jump = run_denoiser.flow_map(recipe, recipe.objective.reads)
    x = jax.ShapeDtypeStruct((3, 8, 8, 1), np.float32)
    at = jax.ShapeDtypeStruct((3,), np.float32)
    labels = jax.ShapeDtypeStruct((3,), np.int32)
    made = jax.eval_shape(lambda p, x, t, s, c: jump(p, c)(x, t, s), built.target.ema, x, at, at, labels)
    assert made.shape == x.shape


BAD = {  # the objective, what is changed, and the error: the path, the value, what is valid
    "a sampler of denoisers": (
        "own_flow",
        {"sample__sampler": {"name": "heun"}},
        r"config\.sample\.sampler = .*heun.*: the objective trains a flow map, .*\. Valid: flow_map",
    ),
    "another parameterization": (
        "own_flow",
        {"parameterization__name": "v"},
        r"config\.parameterization\.name = 'v', config\.objective\.name = 'own_flow': .* predicts 'velocity'",
    ),
    "a network of one time": (
        "own_flow",
        {"model": {"name": "u_vit", "patch": 2, "width": 16, "depth": 2, "heads": 2, "num_classes": 10}},
        r"config\.model\.name = 'u_vit', config\.objective\.name = 'own_flow': the network has times = 1, .* passes 2",
    ),
    "guidance of a flow map": (
        "own_flow",
        {"sample__guidance__scale": 2.0},
        r"config\.sample\.guidance\.scale = 2\.0.* a flow map is guided during its training.* Valid: 1",
    ),
    "attention without forward mode": (
        "own_flow",
        {"model__attention": "cudnn"},
        r"config\.model\.attention = 'cudnn'.* 'own_flow' differentiates .* Valid: auto, auto_jvp, cudnn_jvp, matmul, ",
    ),
    "a teacher of nobody": (
        "own_flow",
        {"teacher__path": "/"},
        r"config\.teacher\.path = '/'.* the objective uses no teacher",
    ),
    "no teacher": (
        "own_lcm",
        {"teacher__path": ""},
        r"config\.teacher\.path = '', .* 'own_lcm': the objective learns from a teacher\. Valid: the folder of a run",
    ),
    "guided twice": (
        "own_lcm",
        {"teacher__scale": 2.0},
        r"config\.teacher\.scale = 2\.0.* 'own_lcm': .* the objective guides its teacher itself\. Valid: 1\.",
    ),
    "a strength beyond the training": (
        "own_lcm",
        {"sample__guidance__scale": 4.0},
        r"config\.sample\.guidance\.scale = 4\.0.* trains the network for scales from 1 to 3",
    ),
    "a network without strength": (
        "own_lcm",
        {"model": {"name": "u_vit", "patch": 2, "width": 16, "depth": 2, "heads": 2, "num_classes": 10}},
        r"config\.model\.name = 'u_vit', .* 'own_lcm': .* but the network does not receive it\. Valid: .*dit or pixart",
    ),
    "no second player": (
        "own_dmd",
        {"second_player__objective": {"name": ""}},
        r"config\.second_player\.objective\.name = ''.* 'shadow', but this one trains None\. .*, e\.g\. own_score\.$",
    ),
    "another second player": (
        "own_dmd",
        {"second_player__objective": {"name": "fake_score", "density": DENSITY, "weighting": CONSTANT}},
        r"config\.second_player\.objective\.name = 'fake_score'.* 'own_dmd': .* 'shadow', but this one trains 'fake'",
    ),
    "a second player of one": (
        "own_flow",
        {"second_player__objective": {"name": "own_score", "density": DENSITY, "weighting": CONSTANT}},
        r"config\.second_player\.objective\.name = 'own_score'.* 'own_flow': the objective has no second player",
    ),
    "an autoencoder": (
        "own_flow",
        {"model": {"name": "autoencoder_kl"}, "objective__wrappers": ()},
        r"config\.model\.name = 'autoencoder_kl', .* of the kind 'backbone', but .* of the kind 'autoencoder'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_a_copy_is_refused_by_its_facts(config_of, case):
    name, changes, words = BAD[case]
    with pytest.raises(ConfigError) as error:
        checks.validate(config_of(name, **changes))
    assert re.search(words, str(error.value)), str(error.value)


def test_a_function_that_returns_a_bare_loss_is_refused(config_of, monkeypatch):
    monkeypatch.setitem(names.OBJECTIVES, "bare", lambda density: lambda networks, schedule, keys, batch, step: None)
    with pytest.raises(ConfigError, match=r"config\.objective\.name = 'bare' returns a function\. Valid: .*Objective"):
        checks.validate(config_of("denoising", objective={"name": "bare", "density": DENSITY}))


def test_every_fact_of_a_copy_is_that_of_its_original(config_of):
    """But for the functions in it, and for the name of the second network that the copy has changed."""
    for name, original in (("own_flow", "mean_flow"), ("own_lcm", "latent_consistency_distillation")):
        facts = []
        for each in (name, original):
            config = config_of(name)
            config.objective.name = each
            facts.append(flat(Resolver(config).objective))
        for fact in ("times", "forward_mode", "trains", "kind", "teacher", "second", "strength", "block", "score"):
            assert facts[0][fact] == facts[1][fact], fact
    own = Resolver(config_of("own_dmd")).objective
    assert own.second[:2] == ("shadow", False) and own.second.by.__name__ == "own_score" and own.reads.one_step
    assert Resolver(config_of("own_dmd")).second.objective.network.name == "shadow"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_flow", "own_lcm", "own_dmd"])
def test_a_copy_trains_goes_on_samples_and_is_evaluated(files, config_of, name, tmp_path, compilation_cache):
    if name != "own_flow":
        teacher = config_of("denoising")
        teacher.train.steps = teacher.checkpoint.every = 1
        assert train.run(teacher, tmp_path / "teacher") == 0
    config = config_of(name)
    for steps in (2, 4):
        config.train.steps = steps
        assert train.run(config, tmp_path / "run") == 0
    params, step = checkpoints.load_ema(tmp_path / "run")
    make = generate.generator(Recipe.from_config(config, (8, 8, 1)))
    images = make.images(params, generate.balanced_labels(20, 10), generate.seeds(config, 20))
    assert step == 4 and make.nfe == 1 and images.shape == (20, 8, 8, 1) and np.ptp(images) > 0

    module = {"own_flow": "mean_flow", "own_lcm": "latent_consistency", "own_dmd": "distribution_matching"}[name]
    words = f"--workdir={tmp_path}/run", f"--extend={files}/own_{module}.py"
    done = commands.run("-m", "experiments.sample", *words, "--config.sample.number=20")
    assert done.returncode == 0, done.stderr
    done = commands.run("-m", "experiments.evaluate", *words, "--config.evaluate.features=('pixels',)")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["protocol"]["samples"]["number"] == 20 and report["figures"]["frechet"]["pixels"]["distance"] > 0

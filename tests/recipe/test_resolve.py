"""Names in a config become functions, and what cannot run is refused in words, early."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from diffusion import guidance, parameterizations, schedules, timesteps
from diffusion.data.sources import DataSpec
from diffusion.experiments import train
from diffusion.parameterizations import Prediction
from diffusion.recipe import ConfigError, checks, entries, kinds, names, settings_checks, versions
from diffusion.recipe.parts import Resolver
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import plain

SPEC = DataSpec("digits", "train", (8, 8, 1), 10, 100)


def changed(*changes, preset="tiny"):
    """The digits recipe with changes (dotted field, value)."""
    config = plain(digits.get_config(preset))
    for field, value in changes:
        *parents, name = field.split(".")
        entry = config
        for parent in parents:
            entry = entry[parent]
        entry[name] = value
    return ConfigDict(config)


DENOISING = {
    "name": "denoising",
    "density": {"name": "uniform_density"},
    "weighting": {"name": "min_snr"},
    "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
}
HYBRID = {
    "name": "hybrid",
    "density": {"name": "discrete_density"},
    "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
}
LEARNED = {"name": "learned_variance", "parameterization": {"name": "epsilon"}}
LINEAR = ("schedule", {"name": "linear_beta"})
NO_DROPOUT = ("objective.wrappers", ())
NO_GUIDANCE = ("sample.guidance.scale", 1.0)
OT = ("objective.coupling", {"name": "optimal_transport", "block": 8})

REFUSED = {  # the changes, and words that the error must have: where, what, and what is valid
    "unknown section": ([("trian", {"steps": 3})], ["config", "'trian'", "'train'"]),
    "unknown field": ([("train.stpes", 3)], ["config.train", "'stpes'", "'steps'", "batch_size"]),
    "unknown deep field": ([("sample.guidance.scal", 3.0)], ["config.sample.guidance", "'scal'", "'scale'"]),
    "unknown schedule": ([("schedule.name", "cosin")], ["config.schedule.name", "'cosin'", "'cosine'", "linear_beta"]),
    "unknown argument": ([("schedule", {"name": "cosine", "z": 0.1})], ["config.schedule", "'z'", "Valid: s."]),
    "misspelt argument": (
        [("objective.density", {"name": "logit_normal", "men": 0.0})],
        ["config.objective.density", "'men'", "'mean'"],
    ),
    "leftover argument": (
        [("schedule", {"name": "rectified_flow", "s": 0.1})],
        ["config.schedule", "--config.schedule="],
    ),
    "no name": ([("schedule", {"s": 0.1})], ["config.schedule", "name", "cosine"]),
    "dotted import": ([("schedule.name", "os.system")], ["config.schedule.name", "'os.system'"]),
    "private name": ([("schedule.name", "_normal")], ["config.schedule.name"]),
    "unknown clock": (
        [("parameterization.clock", {"name": "step"})],
        ["config.parameterization.clock.name", "'step'", "'steps'"],
    ),
    "unknown sampler": ([("sample.sampler", {"name": "huen"})], ["config.sample.sampler.name", "'huen'", "'heun'"]),
    "unknown grid": ([("sample.grid", {"name": "karas"})], ["config.sample.grid.name", "'karras'"]),
    "unknown model": ([("model.name", "dti")], ["config.model.name", "'dit'"]),
    "unknown model argument": ([("model.dept", 3)], ["config.model", "'dept'", "'depth'"]),
    "unknown optimizer argument": ([("optimizer.weight_deacy", 0.1)], ["config.optimizer", "'weight_decay'"]),
    "steps belong to train": ([("optimizer.steps", 10)], ["config.optimizer", "'steps'"]),
    "unknown augmentation": ([("data.augment", ({"name": "flp"},))], ["config.data.augment[0].name", "'flip'"]),
    "unknown objective": ([("objective.name", "flow_macthing")], ["config.objective.name", "'flow_matching'"]),
    "unknown coupling": ([("objective.coupling", {"name": "optimal"})], ["config.objective.coupling.name"]),
    "unknown weighting": (
        [("objective", DENOISING | {"weighting": {"name": "minsnr"}}), ("parameterization.name", "v")],
        ["config.objective.weighting.name", "'min_snr'"],
    ),
    "no density": ([("objective", {"name": "flow_matching"})], ["config.objective", "density"]),
    "a name is not a schedule": ([("schedule", "cosine")], ["config.schedule", "'cosine'", "a mapping"]),
    "zero steps": ([("train.steps", 0)], ["config.train.steps = 0", "at least 1"]),
    "negative steps": ([("train.steps", -5)], ["config.train.steps = -5"]),
    "zero batch": ([("train.batch_size", 0)], ["config.train.batch_size = 0"]),
    "zero sampling steps": ([("sample.steps", 0)], ["config.sample.steps = 0"]),
    "no samples": ([("sample.number", 0)], ["config.sample.number = 0"]),
    "seed": ([("seed", -1)], ["config.seed = -1"]),
    "decay": ([("ema.decay", 1.0)], ["config.ema.decay = 1.0", "[0, 1)"]),
    "checkpoint every": ([("checkpoint.every", 0)], ["config.checkpoint.every = 0"]),
    "keep": ([("checkpoint.keep", 0)], ["config.checkpoint.keep = 0"]),
    "dtype": ([("train.dtype", "float16")], ["config.train.dtype = 'float16'", "bfloat16"]),
    "products": ([("train.products", "fp16")], ["config.train.products = 'fp16'", '"dtype" or "fp8"']),
    "shift": ([("sample.shift", 0.0)], ["config.sample.shift = 0.0", "above 0"]),
    "scale": ([("sample.guidance.scale", -1.0)], ["config.sample.guidance.scale = -1.0"]),
    "scale is text": ([("sample.guidance.scale", "big")], ["config.sample.guidance.scale = 'big'", "a number"]),
    "interval": ([("sample.guidance.interval", (0.5, 0.2))], ["config.sample.guidance.interval", "t_low < t_high"]),
    "interval of one time": (
        [("sample.guidance.interval", 0.5)],
        ["config.sample.guidance.interval = 0.5", "two times"],
    ),
    "mesh": ([("mesh.data", 0)], ["config.mesh.data = 0"]),
    "steps are text": ([("train.steps", "100")], ["config.train.steps = '100'", "an integer"]),
    "steps are a fraction": ([("train.steps", 0.5)], ["config.train.steps = 0.5", "an integer"]),
    "steps are True": ([("train.steps", True)], ["config.train.steps = True", "an integer"]),
    "more steps than memory has": ([("sample.steps", 10**9)], ["config.sample.steps = 1000000000", "[1, 10^6]"]),
    "numbers are a mapping": ([("schedule", {"name": "from_betas", "betas": {"a": 1}})], ["config.schedule.betas ="]),
    "a number is text": (
        [("schedule", {"name": "from_betas", "betas": (0.1, "x")})],
        ["config.schedule.betas = (0.1, 'x')", "Valid: numbers"],
    ),
    "rows of two lengths": (
        [("schedule", {"name": "from_betas", "betas": ((0.1,), (0.1, 0.2))})],
        ["config.schedule.betas = ((0.1,), (0.1, 0.2))", "Valid: numbers"],
    ),
    "argument of another type": ([("schedule", {"name": "cosine", "s": "small"})], ["config.schedule.s = 'small'"]),
    "argument out of range": ([("schedule", {"name": "cosine", "s": -1.0})], ["config.schedule", "-1.0"]),
    "density out of range": ([("objective.density.std", 0.0)], ["config.objective.density", "std = 0.0"]),
    "learning rate": ([("optimizer.learning_rate", 0.0)], ["config.optimizer", "learning_rate = 0.0"]),
    "warmup": ([("optimizer.warmup", -1)], ["config.optimizer", "warmup = -1"]),
    "decay of the rate": ([("optimizer.decay", "cosin")], ["config.optimizer", "cosin", "cosine"]),
    "dropout": (
        [("objective.wrappers", ({"name": "condition_dropout", "rate": 1.0},))],
        ["config.objective.wrappers[0]", "rate = 1.0"],
    ),
    "eta": ([("sample.sampler", {"name": "ddim", "eta": 2.0})], ["config.sample.sampler", "eta = 2.0"]),
    "include": ([("init_from.include", "(")], ["config.init_from.include", "regular expression"]),
    "heads": ([("model.heads", 3)], ["config.model", "heads"]),
    "best of no figure": (
        [("checkpoint.best", "fd_pixel"), ("evaluate.every", 10)],
        ["config.checkpoint.best", "'fd_pixel'", "'fd_pixels'"],
    ),
    "best of no evaluation": (
        [("checkpoint.best", "fd_pixels"), ("evaluate.every", 0), ("evaluate.features", ("pixels",))],
        ["config.checkpoint.best", "evaluate.every = 0"],
    ),
    "no Inception file": ([("evaluate.features", ("inception",))], ["config.evaluate.inception = ''", "not a file"]),
    "unknown protocol": ([("evaluate.protocol", "fid")], ["config.evaluate.protocol", "'fid'", "pytorch-fid"]),
    "unknown features": (
        [("evaluate.features", ("pixels", "clasifier"))],
        ["config.evaluate.features[1]", "'clasifier'", "'classifier'"],
    ),
    "number of classes": ([("model", {"name": "mlp", "num_classes": "ten"})], ["num_classes = 'ten'", "an integer"]),
    "dropout without classes": ([("model.num_classes", 0)], ["config.model.num_classes = 0", "null class"]),
    "guidance without classes": ([("model.num_classes", 0), NO_DROPOUT], ["config.model.num_classes = 0"]),
    "guidance without dropout": ([NO_DROPOUT], ["config.sample.guidance.scale = 1.05", "condition_dropout = 0"]),
    "patch": ([("model.patch", 3)], ["config.model.patch = 3", "(8, 8, 1)", "1, 2, 4, 8"]),
    "classes of the dataset": ([("model.num_classes", 9)], ["config.model.num_classes = 9", "10"]),
    "shape of the dataset": ([("data.shape", (8, 8, 3))], ["config.data.shape = (8, 8, 3)", "(8, 8, 1)"]),
    "devices": ([("mesh.data", 3)], ["config.train.batch_size = 32", "evenly on 3 devices", "a multiple of 3"]),
    "micro-batches": ([("train.accumulate", 5)], ["config.train.batch_size = 32", "a multiple of 5"]),
    "blocks": (
        [("objective.coupling", {"name": "optimal_transport", "block": 24})],
        ["config.objective.coupling.block = 24", "e.g. 8"],
    ),
    "score-based sampler": ([OT, ("sample.sampler", {"name": "ddpm"})], ["config.sample.sampler", "optimal_transport"]),
    "stochastic ddim": ([OT, ("sample.sampler", {"name": "ddim", "eta": 1.0})], ["config.sample.sampler"]),
    "flow matching predicts a velocity": (
        [("parameterization.name", "epsilon")],
        ["config.parameterization.name = 'epsilon'", "flow_matching", "velocity"],
    ),
    "flow matching has no weighting": (
        [("objective.weighting", {"name": "min_snr"})],
        ["config.objective", "weighting"],
    ),
    "denoising has no coupling": (
        [("objective", DENOISING | {"coupling": {"name": "independent"}})],
        ["config.objective", "coupling"],
    ),
    "epsilon at alpha = 0": (
        [("schedule", {"name": "cosine"}), ("objective", DENOISING), ("parameterization.name", "epsilon")],
        ["config.parameterization", "alpha"],
    ),
    "learned variance untrained": (
        [LINEAR, ("objective", DENOISING), ("parameterization", LEARNED)],
        ["learned_variance", "hybrid"],
    ),
    "hybrid without learned variance": (
        [LINEAR, ("objective", HYBRID), ("parameterization", {"name": "epsilon"})],
        ["learned_variance", "hybrid"],
    ),
    "variance not learned": (
        [("sample.sampler", {"name": "ddpm", "variance": "learned"})],
        ["config.sample.sampler", "'variance': 'learned'", "small"],
    ),
    "grid beyond the process": (
        [
            LINEAR,
            ("objective", DENOISING),
            ("parameterization", {"name": "epsilon"}),
            ("sample.grid", {"name": "leading"}),
            ("sample.steps", 1001),
        ],
        ["config.sample", "1001", "1000"],
    ),
    "sigma beyond the process": (
        [
            LINEAR,
            ("objective", DENOISING),
            ("parameterization", {"name": "epsilon"}),
            ("sample.grid", {"name": "karras", "sigma_max": 1e4}),
        ],
        ["config.sample.grid", "sigma_max"],
    ),
}


@pytest.mark.extended
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused(case):
    changes, words = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        checks.with_data(checks.validate(changed(*changes)), SPEC)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


ACCEPTED = {
    "the recipe": [],
    "integers for numbers": [("sample.guidance.scale", 2), ("ema.decay", 0)],
    "unconditional": [("model.num_classes", 0), NO_DROPOUT, NO_GUIDANCE],
    "no dropout without guidance": [NO_DROPOUT, NO_GUIDANCE],
    "interval": [("sample.guidance.interval", (0.1, 0.9))],
    "augment": [("data.augment", ({"name": "flip"}, {"name": "crop", "padding": 2}))],
    "transport and an ODE": [OT, ("sample.sampler", {"name": "ddim", "eta": 0.0})],
    "denoising": [("schedule", {"name": "cosine"}), ("objective", DENOISING), ("parameterization", {"name": "v"})],
    "constant weight": [
        ("objective", DENOISING | {"weighting": {"name": "constant"}}),
        ("parameterization", {"name": "x0"}),
    ],
    "constant weight elsewhere": [
        ("objective", DENOISING | {"weighting": {"name": "constant", "parameterization": {"name": "v"}}}),
        ("parameterization", {"name": "x0"}),
    ],
    "edm": [
        ("schedule", {"name": "edm"}),
        ("parameterization", {"name": "edm", "sigma_data": 0.5}),
        (
            "objective",
            {
                "name": "denoising",
                "density": {"name": "log_normal"},
                "weighting": {"name": "edm"},
                "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
            },
        ),
        ("sample.grid", {"name": "karras", "rho": 7}),
    ],
    "hybrid": [
        LINEAR,
        ("objective", HYBRID),
        ("parameterization", LEARNED),
        ("sample.sampler", {"name": "ddpm", "variance": "learned"}),
        ("sample.grid", {"name": "trailing"}),
    ],
    "shift": [("sample.shift", 3.0)],
    "no clipping": [("optimizer.clip", None)],
}


@pytest.mark.extended
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_can_run_is_accepted(case):
    config = changed(*ACCEPTED[case])
    assert isinstance(checks.validate(config), Recipe)
    assert checks.with_data(checks.validate(config), SPEC).examples.shape == SPEC.shape


@pytest.mark.parametrize("field", ["init_from.path", "teacher.path"])
def test_weights_to_begin_from_are_needed_only_to_begin(field, tmp_path):
    config = changed((field, str(tmp_path / "moved")))
    settings_checks.check(Recipe.from_config(changed(("init_from.path", str(tmp_path / "moved"))), (8, 8, 1)))
    with pytest.raises(ConfigError, match=rf"config\.{field} = .*moved', but (it does not exist|there is no such)"):
        settings_checks.require_sources(config)
    (tmp_path / "moved/checkpoints/20").mkdir(parents=True)
    settings_checks.require_sources(config)
    settings_checks.require_sources(changed(("init_from.path", str(tmp_path / "moved/checkpoints/20"))))


def test_a_folder_without_a_checkpoint_is_refused_before_a_run_begins(tmp_path):
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "diffusion_pytorch_model.safetensors").touch()
    config = changed(("init_from.path", str(exported)))
    with pytest.raises(ConfigError, match=r"this folder holds no checkpoint\. Valid: .*a \.safetensors file"):
        train.run(ConfigDict(config), tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()  # which would refuse the same command with the right path


@pytest.mark.extended
def test_a_run_that_is_refused_before_its_first_step_leaves_the_folder_free(tmp_path, monkeypatch):
    def refuse(*rest):
        raise ConfigError("config.init_from: init_from found no leaf that fits")

    monkeypatch.setattr(train, "first_state", refuse)
    for width in (32, 64):  # the second command is another's config, which a run of the first would refuse
        with pytest.raises(ConfigError, match="found no leaf"):
            train.run(ConfigDict(changed(("model.width", width))), tmp_path)
        assert not (tmp_path / "config.json").exists()
    (tmp_path / "config.json").write_text(versions.write(ConfigDict(changed(("model.width", 64)))))
    with pytest.raises(ConfigError, match="found no leaf"):
        train.run(ConfigDict(changed(("model.width", 64))), tmp_path)
    assert (tmp_path / "config.json").exists()  # of an earlier start


def test_a_classifier_needs_classes():
    config = changed(("model.num_classes", 0), NO_DROPOUT, NO_GUIDANCE)
    with pytest.raises(ConfigError, match=r"config\.evaluate\.features .* no classes"):
        checks.with_data(checks.validate(config), SPEC._replace(num_classes=0))


@pytest.mark.parametrize("classes, valid", [(0, "0"), (7, "7, or 0 for an unconditional model")])
def test_classes_that_the_data_do_not_have_are_answered_with_each_valid_number_once(classes, valid):
    with pytest.raises(ConfigError, match=rf"config\.model\.num_classes = 10, .*{classes} classes.* Valid: {valid}\.$"):
        checks.with_data(checks.validate(changed()), SPEC._replace(num_classes=classes))


def test_a_missing_field_is_named():
    config = changed()
    del config.ema["decay"]
    with pytest.raises(ConfigError, match=r"config\.ema\.decay is missing"):
        checks.validate(config)


def test_every_table_holds_functions_of_their_own_names():
    for table in (
        names.SCHEDULES,
        names.PARAMETERIZATIONS,
        names.CLOCKS,
        names.DENSITIES,
        names.WEIGHTINGS,
        names.COUPLINGS,
        names.OBJECTIVES,
        names.SAMPLERS,
        names.GRIDS,
        names.GUIDANCES,
        names.OPTIMIZERS,
        names.AUGMENTATIONS,
    ):
        assert table and all(function.__name__ == name for name, function in table.items())


def test_call_passes_arguments_and_leaves_the_entry_alone():
    def area(width: int, height: float = 2.0, *, unit: str = "m"):
        return width, height, unit

    entry = {"name": "area", "width": 3, "unit": "km"}
    assert entries.call({"area": area}, entry, "config.x", "shape", height=5.0, other=1) == (3, 5.0, "km")
    assert entry == {"name": "area", "width": 3, "unit": "km"}
    with pytest.raises(ConfigError, match="needs width"):
        entries.call({"area": area}, {"name": "area"}, "config.x", "shape")
    with pytest.raises(ConfigError, match="'height'"):  # supplied by the program, so the config cannot set it
        entries.call({"area": area}, entry | {"height": 1.0}, "config.x", "shape", height=5.0)


def test_call_puts_the_path_before_an_error_of_the_function_but_hides_no_bug():
    def fails(kind: str):
        raise {"value": ValueError("too much"), "bug": ZeroDivisionError()}[kind]

    with pytest.raises(ConfigError, match=r"^config\.x: too much$"):
        entries.call({"fails": fails}, {"name": "fails", "kind": "value"}, "config.x", "thing")
    with pytest.raises(ZeroDivisionError):
        entries.call({"fails": fails}, {"name": "fails", "kind": "bug"}, "config.x", "thing")


def test_arguments_arrive():
    config = changed(("schedule", {"name": "cosine", "s": 0.02}))
    t = jnp.linspace(0.1, 0.9, 5)
    np.testing.assert_array_equal(Resolver(config).schedule.alpha(t), schedules.cosine(s=0.02).alpha(t))
    assert not np.array_equal(Resolver(config).schedule.alpha(t), schedules.cosine().alpha(t))


def test_the_plan_is_shifted_once_and_has_the_requested_number_of_steps():
    config = changed(("sample.steps", 5), ("sample.shift", 3.0))
    grid = np.linspace(1, 0, 6)
    expected = 3 * grid / (1 + 2 * grid)  # Esser et al. 2024, eq. 23
    plan = Resolver(config).plan
    np.testing.assert_allclose(plan.grid, expected, atol=1e-6)


def test_the_objective_tells_the_network_the_clock_that_sampling_uses():
    clocks = []

    def network(x, clock, condition):
        clocks.append(clock)
        return jnp.zeros_like(x)

    config = changed(("parameterization.clock", {"name": "reversed_time"}), ("objective.density.strata", 4))
    keys = jax.random.split(jax.random.key(0), 4)
    batch = {"x": jnp.zeros((4, 8, 8, 1)), "condition": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    _, metrics = Resolver(config).objective({"model": network}, Resolver(config).schedule, keys, batch, 0)
    np.testing.assert_allclose(clocks[0], 1 - metrics["t"], rtol=1e-6)


@pytest.mark.extended
def test_dropped_conditions_are_the_null_class():
    seen = []

    def network(x, clock, condition):
        seen.append(condition)
        return jnp.zeros_like(x)

    config = changed(("objective.wrappers", ({"name": "condition_dropout", "rate": 0.5},)))
    number = 256
    keys = jax.random.split(jax.random.key(0), number)
    batch = {"x": jnp.zeros((number, 2, 2, 1)), "condition": jnp.full(number, 3), "index": jnp.arange(number)}
    Resolver(config).objective({"model": network}, Resolver(config).schedule, keys, batch, 0)
    assert set(np.unique(seen[0])) == {3, 10}
    assert abs(np.mean(seen[0] == 10) - 0.5) < 0.15  # 5 standard deviations
    np.testing.assert_array_equal(Recipe.from_config(config).examples.null_condition(3), [10, 10, 10])
    assert Recipe.from_config(changed(("model.num_classes", 0), NO_DROPOUT)).examples.null_condition(3) is None


def test_constant_weighting_defaults_to_what_the_network_predicts():
    config = changed(
        ("schedule", {"name": "cosine"}),
        ("parameterization", {"name": "v"}),
        NO_DROPOUT,
        NO_GUIDANCE,
        ("objective", {"name": "denoising", "density": {"name": "uniform_density"}, "weighting": {"name": "constant"}}),
    )

    def losses(**weighting):
        config.objective.weighting = {"name": "constant", **weighting}
        keys = jax.random.split(jax.random.key(0), 8)
        batch = {"x": jax.random.normal(jax.random.key(1), (8, 4)), "index": jnp.arange(8)}
        return Resolver(config).objective(
            {"model": lambda x, t, c: jnp.zeros_like(x)}, Resolver(config).schedule, keys, batch, 0
        )[0]

    np.testing.assert_allclose(losses(), losses(parameterization={"name": "v"}), rtol=1e-6)
    assert not np.allclose(losses(), losses(parameterization={"name": "x0"}), rtol=0.1)


def test_guidance_is_the_named_one():
    """cond + (w - 1) (cond - uncond) within the interval, and x0 of CFG++ where that is named."""
    branches = lambda x, t: (Prediction(2 * x, x), Prediction(x, 0 * x))
    x = jnp.ones((2, 3))
    config = changed(("sample.guidance.scale", 2), ("sample.guidance.interval", (0, 0.5)))
    denoise = Resolver(config).guidance(branches)
    np.testing.assert_array_equal(denoise(x, 0.3).x0, 3 * x)
    np.testing.assert_array_equal(denoise(x, 0.7).x0, 2 * x)
    config = changed(("sample.guidance", {"name": "classifier_free_plus_plus", "scale": 0.5}))
    assert isinstance(Resolver(config).guidance(branches), guidance.Unpaired)
    for wrong, words in (
        ({"name": "classifer_free", "scale": 2.0}, "'classifier_free'"),
        ({"name": "classifier_free", "scale": -1.0}, "at least 0"),
        ({"name": "classifier_free", "scale": 2.0, "interval": (0.5, 0.2)}, "t_low < t_high"),
        ({"name": "rescaled", "scale": 2.0, "rescalee": 0.1}, "'rescale'"),
        (
            {"name": "classifier_free", "scale": 2.0, "interval": (0.5, 5.0)},
            r"leaves the times of this schedule, \[0, 1",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            Resolver(changed(("sample.guidance", wrong))).guidance(branches)


def test_strata_spread_a_batch_evenly():
    config = changed(("objective.density", {"name": "uniform_density", "strata": 32}))
    density = Resolver(config).objective.density
    keys = jax.random.split(jax.random.key(0), 32)
    t, _ = density.sample(density.init(), keys, jnp.arange(32))
    np.testing.assert_array_equal(np.floor(np.sort(t) * 32), np.arange(32))


def test_parameterizations_nest():
    read = Resolver(
        changed(
            ("parameterization", LEARNED | {"parameterization": {"name": "v", "clock": {"name": "steps", "T": 10}}})
        )
    ).parameterization
    schedule = schedules.cosine()
    assert float(read.clock(schedule, 1.0)) == 9
    prediction = read.to_prediction(schedule, jnp.asarray([0.5]), jnp.ones((1, 2)), jnp.ones((1, 4)))
    expected = parameterizations.v().to_prediction(schedule, jnp.asarray([0.5]), jnp.ones((1, 2)), jnp.ones((1, 2)))
    np.testing.assert_allclose(prediction.x0, expected.x0)
    np.testing.assert_allclose(prediction.variance, 1.0)
    assert isinstance(Resolver(changed()).plan, timesteps.Plan)


def test_forward_mode_never_meets_fused_attention():
    assert Resolver(changed()).model((8, 8, 1)).attention == "auto"
    mean_flow = ("objective", {"name": "mean_flow", "density": {"name": "uniform_density"}})
    assert Resolver(changed(mean_flow)).model((8, 8, 1)).attention == "auto_jvp"
    config = changed(mean_flow, ("model.attention", "xla"))
    assert Resolver(config).model((8, 8, 1)).attention == "xla"


class Started(Exception):
    """The run has built everything that its first step needs."""


@pytest.mark.extended
def test_starting_the_digits_run_builds_each_of_its_entries_once(tmp_path, monkeypatch):
    calls = collections.Counter()

    def counted(name, function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return wrapper

    for table in (table for table in vars(names).values() if isinstance(table, dict) and "__name__" not in table):
        for name, function in list(table.items()):
            if not isinstance(function, type):  # a network's class is counted where it is called
                monkeypatch.setitem(table, name, counted(name, function))
    monkeypatch.setattr(
        kinds,
        "call",
        lambda table, *rest, **more: (
            calls.update(["dit"] * (table is names.MODELS)),
            entries.call(table, *rest, **more),
        )[1],
    )

    def started(*_):
        raise Started

    monkeypatch.setattr(train, "first_state", started)
    with pytest.raises(Started):
        train.run(digits.get_config("tiny"), tmp_path)
    assert calls == dict.fromkeys(
        (
            "rectified_flow", "velocity", "steps", "flow_matching", "logit_normal", "dit", "adamw",
            "dpmpp_2m", "uniform", "plan", "classifier_free", "heun", "moving_average", "condition_dropout",
        ),
        1,
    ) | {"tfds": 2, "classifier_free": 2}  # fmt: skip  # held-out records too; guidance is tried before training


def test_times_are_shifted_by_the_dimension_of_the_data():
    """8 x 8 x 1 numbers beside a base of 4 have the factor 4: t' = 4 t / (1 + 3 t)."""
    density = {"name": "dimension_shifted_density", "density": {"name": "uniform_density"}, "base": 4}
    grid = {"name": "dimension_shifted", "grid": {"name": "uniform"}, "base": 4}
    changes = [("data.shape", (8, 8, 1)), ("objective.density", density), ("sample.grid", grid), ("sample.steps", 2)]
    recipe = checks.validate(changed(*changes))
    np.testing.assert_allclose(recipe.sampling.plan.t, [1, 0.8], rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 2)
    moved, _ = recipe.objective.density.sample((), keys, np.arange(2))
    t, _ = timesteps.uniform_density(recipe.schedule).sample((), keys, np.arange(2))
    np.testing.assert_allclose(moved, 4 * t / (1 + 3 * t), rtol=1e-5)
    with pytest.raises(ConfigError, match=r"config\.objective\.density:.*the shape of the data,.*is not known"):
        checks.validate(changed(*changes, ("data.shape", None)))

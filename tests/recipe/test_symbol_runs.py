"""Configs of runs on symbols: what their entries make, what does not fit, and a recipe in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, models, objectives, schedules, timesteps
from diffusion.data import sources
from diffusion.experiments.run import examples, program
from diffusion.experiments.sampling import generate, symbol_samples
from diffusion.objectives import Restores
from diffusion.recipe import ConfigError, checks, recipes, symbol_runs
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.sections import Sampling

LINEAR = {"name": "linear"}
MASKS = {"name": "absorbing", "keeping": LINEAR, "size": 4}
UNIFORM = {"name": "uniform", "keeping": LINEAR, "size": 3}
TEXT = "ab ba a bb" * 40


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return {"name": "text_file", "path": str(path), "length": 8, "alphabet": "ab "}


def config_of(text=None, preset="tiny", **changes):
    config = recipes.load(f"symbols/prose:{preset}")
    config.objective.process = MASKS
    config.data.source = text or config.data.source
    config.data.split, config.evaluate.split = "train[:80%]", "train[80%:]"
    config.update_from_flattened_dict({name: value for name, value in changes.items() if not isinstance(value, dict)})
    for name, value in changes.items():
        if isinstance(value, dict):
            *sections, last = name.split(".")
            section = config
            for one in sections:
                section = section[one]
            section[last] = value
    return config


@pytest.mark.parametrize("preset, objective, process, reading", [
    ("masked", "masked_diffusion", discrete.absorbing(discrete.linear(), 28), discrete.from_logits),
    ("uniform", "score_entropy", discrete.uniform(discrete.linear(), 27), discrete.from_context),
    ("flow", "discrete_flow_matching", discrete.uniform(discrete.linear(), 27), discrete.from_context),
    ("duo", "duo", discrete.uniform(discrete.linear(), 27), discrete.from_context),
    ("distilled", "discrete_consistency", discrete.uniform(discrete.linear(), 27), discrete.from_context),
])  # fmt: skip
def test_the_recipes_are_of_letters(preset, objective, process, reading, tmp_path):
    config = recipes.load(f"symbols/prose:{preset}")
    if config.teacher.path:
        config.teacher.path = config.init_from.path = str(tmp_path)
    recipe = checks.validate(config)
    reads = recipe.objective.reads
    assert isinstance(reads, Restores) and reads.reading is reading and recipe.parameterization is None
    np.testing.assert_array_equal(reads.process.prior, process.prior)
    assert config.objective.name == objective and reads.process.mask == process.mask
    assert recipe.network.size == process.size and recipe.network.dtype == config.train.dtype


def test_the_entries_name_processes_readings_and_samplers(text):
    rates = {"name": "rate_process", "keeping": {"name": "cosine"}, "rates": {"name": "banded_rates", "size": 3}}
    entropy = {"name": "score_entropy", "density": {"name": "uniform_density"}, "wrappers": ()}
    ratios = {**entropy, "process": rates, "reading": {"name": "ratios"}}
    recipe = checks.validate(config_of(text, **{"objective": ratios}))
    assert recipe.objective.reads.reading is discrete.from_ratios
    full = rates | {"rates": {"name": "gaussian_rates", "size": 3, "width": 1.0}}
    by_rates = {**entropy, "process": full, "reading": {"name": "rates"}}
    assert checks.validate(config_of(text, objective=by_rates)).objective.reads.reading is discrete.from_rates
    expected = discrete.rate_process(discrete.cosine(), discrete.banded_rates(3))
    np.testing.assert_array_equal(recipe.objective.reads.process.rates, expected.rates)
    for sampler in (
        {"name": "unmasking", "choose": {"name": "confident", "threshold": 0.9}},
        {"name": "unmasking", "choose": {"name": "low_entropy", "bound": 0.1}},
        {"name": "unmasking", "choose": {"name": "blockwise", "choose": {"name": "surest", "number": 2}, "block": 4}},
        {"name": "remasking", "share": {"name": "capped", "limit": 0.1}},
        {"name": "remasking", "share": {"name": "rescaled", "factor": 0.1}},
        {"name": "theta_trapezoidal", "theta": 0.4},
        {"name": "corrected", "corrections": 2, "size": 0.5},
        {"name": "symbol_euler"},
        {"name": "symbol_flow", "stochasticity": 1.0},
    ):
        assert isinstance(
            checks.validate(config_of(text, **{"sample.sampler": sampler})).sampling.sampler, discrete.SymbolSampler
        )


def test_a_path_of_distances_is_an_entry_beside_its_sampler(text):
    path = {"name": "metric_path", "distances": {"name": "line_distances", "size": 3, "power": 1.0}, "scale": 2.0}
    flow = {"name": "discrete_flow_matching", "density": {"name": "uniform_density"}, "wrappers": (), "process": path}
    changes = {"objective": flow, "sample.sampler": {"name": "metric_flow"}}
    recipe = checks.validate(config_of(text, **changes))
    np.testing.assert_array_equal(recipe.objective.reads.process.distances, discrete.line_distances(3, 1.0))
    with pytest.raises(ConfigError, match=r"sample\.sampler = .*metric_flow and a path of"):
        checks.validate(config_of(text, **changes | {"sample.sampler": {"name": "ancestral"}}))


REFUSED = [
    ({"sample.sampler": {"name": "heun"}}, r"sample\.sampler = \{'name': 'heun'\}.*trains a predictor of symbols"),
    ({"objective.process": UNIFORM}, r"masked_diffusion: the process has no mask"),
    ({"sample.sampler": {"name": "first_hitting"}, "data.shape": (8,)}, r"first_hitting: 4 steps. Valid: 8, one for"),
    ({"sample.guidance.scale": 2.0}, r"config\.sample\.guidance\.scale = 2\.0.*never sees the null condition"),
    ({"schedule": {"name": "cosine"}}, r"config\.schedule = .*config\.objective\.process has the schedule.*Valid: "),
    ({"parameterization": {"name": "epsilon"}}, r"config\.parameterization = .*config\.objective\.reading says"),
    ({"sample.cache": {"name": "first_block", "threshold": 1.0}}, r"sample\.cache = .*this network offers nothing"),
    ({"sample.plan": {"name": "restart_plan"}}, r"config\.sample\.plan"),
    ({"sample.merge": 0.5}, r"config\.sample\.merge = 0\.5, but tokens of symbols are not merged\. Valid: 0\.0"),
    ({"model": {"name": "mlp", "width": 8, "depth": 1}}, r"the network takes numbers\. Valid: symbol_transformer"),
    ({"objective.chunk": 8, "objective.reading": {"name": "ratios"}}, r"masked_diffusion: chunk = 8\. Valid: 0, or"),
    ({"objective.process": {**MASKS, "size": 1}}, r"absorbing: 1 symbols. Valid: at least 2"),
]  # fmt: skip


@pytest.mark.parametrize("changes, message", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_read(changes, message):
    with pytest.raises(ConfigError, match=message):
        checks.validate(config_of(**changes))


BANDED = {"name": "rate_process", "keeping": LINEAR, "rates": {"name": "banded_rates", "size": 4}}
TOKENS = {"name": "token_masks", "powers": (1.0, 2.0, 0.5)}
PATH = {"name": "metric_path", "distances": {"name": "line_distances", "size": 4}}


@pytest.mark.parametrize("objective, process, reading, message", [
    ("score_entropy", UNIFORM, "scaled_ratios", "from_scaled_ratios: the process has no mask"),
    ("score_entropy", BANDED, "rates", "from_rates: some rates of this process are 0"),
    ("masked_diffusion", TOKENS, "ratios", "from_ratios: token_masks and a metric_path have no ratios"),
    ("discrete_flow_matching", PATH, "rates", "from_rates: token_masks and a metric_path have no ratios"),
])  # fmt: skip
def test_a_reading_that_the_process_does_not_have_is_refused(objective, process, reading, message):
    entry = {"name": objective, "process": process, "reading": {"name": reading}, "wrappers": ()}
    with pytest.raises(ConfigError, match=rf"config\.objective\.reading = .*{reading}.*{message}"):
        checks.validate(config_of(objective=entry | {"density": {"name": "uniform_density"}}))


UNIFORM_RUN = {
    "objective": {"name": "score_entropy", "process": UNIFORM, "density": {"name": "uniform_density"}, "wrappers": ()}
}


@pytest.mark.parametrize("sampler, message", [
    ({"name": "theta_trapezoidal"}, "fills in masks, but the process has none"),
    ({"name": "tau_leaping"}, "the rates of this process are infinite at t = 1"),
])  # fmt: skip
def test_a_sampler_that_the_process_does_not_have_is_refused(sampler, message):
    with pytest.raises(ConfigError, match=rf"config\.sample\.sampler = .*{message}"):
        checks.validate(config_of(**UNIFORM_RUN, **{"sample.sampler": sampler}))


def test_numbers_and_symbols_are_not_mixed(text):
    recipe = checks.validate(config_of(text))
    numbers = sources.DataSpec("clouds", "train", (8,), 0, 10, dtype="float32")
    with pytest.raises(ConfigError, match="clouds holds float32, but the objective is for symbols"):
        checks.with_data(recipe, numbers)
    points = checks.validate(recipes.load("points:tiny"))
    with pytest.raises(ConfigError, match=r"text holds symbols, but the objective is for numbers\."):
        checks.with_data(points, numbers._replace(name="text", dtype="int32"))
    with pytest.raises(ConfigError, match="the network takes symbols, but the objective is for numbers"):
        config = recipes.load("points:tiny")
        config.model = {"name": "symbol_transformer", "size": 4}
        checks.validate(config)


def test_another_vocabulary_is_refused(text):
    source = sources.text_file(text["path"], length=8, alphabet="ab ")
    checks.with_data(checks.validate(config_of(text)), source.spec)
    unguided = config_of(text, **{"sample.guidance.scale": 2.0})
    unguided.objective.wrappers = ({"name": "condition_dropout", "rate": 0.1},)
    with pytest.raises(ConfigError, match="guidance needs a null class, but the network has no classes"):
        checks.with_data(checks.validate(unguided), source.spec)
    wide = config_of(text, **{"objective.process": {**MASKS, "size": 5}})
    message = (
        r"the process has 5 symbols, but text\.txt has 3 symbols, and the mask is a further symbol\. Valid: size = 4"
    )
    with pytest.raises(ConfigError, match=message):
        checks.with_data(checks.validate(wide), source.spec)
    narrow = config_of(text, **UNIFORM_RUN)
    narrow.objective.process.size = 2
    with pytest.raises(ConfigError, match=r"the process has 2 symbols, but text\.txt has 3 symbols\. Valid: size = 3"):
        checks.with_data(checks.validate(narrow), source.spec)


def test_symbols_out_of_range_are_refused_where_nothing_says_the_vocabulary():
    masks = discrete.absorbing(discrete.linear(), 4)
    records = lambda *symbols: sources.sequences.Records([{"x": np.array(symbols)}] * 300)
    symbol_runs.check_records(masks, records(0, 2))
    for symbols in ((0, 3), (-1, 2)):
        with pytest.raises(ConfigError, match=r"has symbols .*Valid: 0 \.\. 2; 3 is the mask"):
            symbol_runs.check_records(masks, records(*symbols))
    uniform = discrete.uniform(discrete.linear(), 4)
    symbol_runs.check_records(uniform, records(0, 3))
    with pytest.raises(ConfigError, match=r"has symbols 0 \.\. 4\. Valid: 0 \.\. 3\."):
        symbol_runs.check_records(uniform, records(0, 4))


def test_a_rare_symbol_out_of_range_is_refused_in_its_batch():
    """A table of categories whose one missing value is -1, in a row that nothing reads before the training."""
    records = [{"x": np.array([0, 1])}] * 3000
    records[1] = {"x": np.array([0, -1])}
    recipe = python_recipe(records)
    symbol_runs.check_records(recipe.objective.process, sources.sequences.Records(records))
    opened = examples.open_examples(recipe)
    batches = lambda start: opened.batches(recipe.config, start, np.arange(recipe.config.train.batch_size), 1)
    size = recipe.config.train.batch_size
    with pytest.raises(
        sources.DamagedRecord, match=r"an example of the training has symbols -1 \.\. 1\. Valid: 0 \.\. "
    ):
        for start in range(0, 3000, size):
            next(batches(start))


class Exact:
    """The exact network of independent positions, symbols 0 .. 2 with these probabilities."""

    takes_symbols = True
    size, p = 4, np.array([0.5, 0.3, 0.2])

    def init(self, key, x, clock, condition):
        return {"params": {}}

    def apply(self, params, x, clock, condition):
        logits = jnp.log(jnp.asarray([*self.p, 1.0]))
        return jnp.broadcast_to(logits, (*x.shape, 4))


def python_recipe(records=None, **sampling):
    records = [{"x": np.array([0, 1, 2, 1])}] * 10 if records is None else records
    process = discrete.absorbing(discrete.linear(), 4)
    density = timesteps.uniform_density(schedules.rectified_flow())
    objective = discrete.masked_diffusion(process, density)
    settings = {"sample.number": 3000, "sample.batch_size": 1500, "sample.steps": 5}
    return Recipe(
        schedules.rectified_flow(), objective, Exact(), records, sampling=Sampling(**sampling), config=settings
    )


@pytest.mark.extended
def test_a_recipe_in_python_samples_the_law_of_its_network():
    recipe = python_recipe()
    made = generate.generator(recipe)
    assert made.nfe == 5
    x = made.images({"params": {}}, np.zeros(3000, np.int32), generate.seeds(recipe.config, 3000))
    assert x.shape == (3000, 4) and x.dtype == np.int32
    shares = np.bincount(x.ravel(), minlength=4) / x.size
    assert shares[3] == 0 and abs(shares[:3] - Exact.p).max() < 4 * np.sqrt(0.25 / x.size)
    one = made.images({"params": {}}, np.zeros(2, np.int32), generate.seeds(recipe.config, 3000)[7:9])
    np.testing.assert_array_equal(one, x[7:9])  # sample i depends on its seed alone
    with pytest.raises(ValueError, match=r"the network has 5 symbols, but the process has 4\. Valid:.*in both"):
        other = models.SymbolTransformer(5, width=8, heads=2)
        Recipe(recipe.schedule, recipe.objective, other, [{"x": np.array([0, 1])}] * 2)


@pytest.mark.extended
def test_samples_for_which_the_network_returns_nan_are_counted_and_refused(monkeypatch):
    """They were symbols 0 throughout, without a word."""
    recipe = python_recipe()
    made = generate.generator(recipe)
    labels, seeds = np.zeros(4, np.int32), np.arange(4, dtype=np.uint32)
    generate.checked_images(made, recipe.config, {"params": {}}, labels, seeds)
    monkeypatch.setattr(Exact, "p", np.array([0.5, np.nan, 0.2]))
    with pytest.raises(ValueError, match=r"4 of 4 samples are not finite; .* -1 in symbols\. They were made with"):
        generate.checked_images(generate.generator(recipe), recipe.config, {"params": {}}, labels, seeds)


@pytest.mark.extended
def test_a_text_is_completed_and_a_text_that_does_not_fit_is_refused():
    vocabulary = ("a", "b", "c")
    recipe = symbol_samples.infilled(python_recipe(), "b_a", vocabulary)
    x = generate.generator(recipe).images({"params": {}}, np.zeros(2000, np.int32), np.arange(2000, dtype=np.uint32))
    assert (x[:, 0] == 1).all() and (x[:, 2] == 0).all()
    for position in (1, 3):
        shares = np.bincount(x[:, position], minlength=4) / len(x)
        assert shares[3] == 0 and abs(shares[:3] - Exact.p).max() < 4 * np.sqrt(0.25 / len(x))
    with pytest.raises(ConfigError, match="--infill: the text has 5 characters, but the samples of this run have 4"):
        symbol_samples.infilled(python_recipe(), "abcab", vocabulary)
    with pytest.raises(ConfigError, match=r"--infill: 'd' is not a symbol of this run\. Valid: 'abc', and '_'"):
        symbol_samples.infilled(python_recipe(), "abd", vocabulary)
    with pytest.raises(ConfigError, match="the samples of this run are not characters"):
        symbol_samples.infilled(python_recipe(), "ab", ())
    assert symbol_samples.texts(np.array([[1, 0, 3]]), vocabulary) == ["ba_"]
    assert symbol_samples.texts(np.array([[10, 0, 3]]), ()) == ["10 0 3"]


@pytest.mark.extended
def test_a_block_causal_run_samples_block_after_block_as_by_all_positions():
    """With sharp logits each symbol is the likeliest of a guided evaluation of all positions, by hand."""
    process = discrete.absorbing(discrete.linear(), 4)
    density = timesteps.uniform_density(schedules.rectified_flow())
    network = models.SymbolTransformer(4, 8, 1, 2, clock="none", num_classes=8, causal=2)
    sharp = lambda process, logits, x, t: discrete.from_logits(process, 1e4 * logits, x, t)
    of_blocks = lambda block: objectives.with_condition_dropout(
        discrete.block_diffusion(process, density, block, sharp), np.int32(8), 0.1
    )
    records = [{"x": np.array([0, 1, 2, 0]), "label": i} for i in range(8)]
    settings = {"sample.guidance.scale": 2.0, "sample.number": 8, "sample.batch_size": 8, "sample.steps": 1}
    recipe = Recipe(schedules.rectified_flow(), of_blocks(2), network, records, config=settings)
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 4), int), None, np.zeros(1, int))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    labels = np.arange(8)
    x = np.full((8, 4), 3)
    apply = jax.jit(network.apply)
    for block in (slice(0, 2), slice(2, 4)):
        conditional, null = (apply(variables, x, None, condition) for condition in (labels, np.full(8, 8)))
        x[:, block] = np.argmax((2 * conditional - null)[..., :3], -1)[:, block]
    alone = np.argmax(apply(variables, np.full((8, 4), 3), None, labels)[..., :3], -1)
    assert len(np.unique(x)) == 3 and (x != alone).any(0)[2:].any()
    made = generate.generator(recipe)
    np.testing.assert_array_equal(made.images(variables, labels, generate.seeds(recipe.config, 8)), x)
    assert made.nfe == 4  # a step of each of two blocks, and one evaluation that keeps it
    with pytest.raises(ConfigError, match="--infill: a block-causal network does not see the text after a gap"):
        symbol_samples.infilled(recipe, "a_a", ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"blocks of 3 of 4 positions\. Valid: a divisor"):
        Recipe(schedules.rectified_flow(), of_blocks(3), network.clone(causal=3), records, config=settings)


def test_blocks_of_the_objective_are_those_that_a_block_causal_network_sees(text):
    blocks = {"name": "block_diffusion", "process": MASKS, "density": {"name": "uniform_density"}, "wrappers": ()}

    def validated(block, causal):
        checks.validate(config_of(text, **{"objective": blocks | {"block": block}, "model.causal": causal}))

    validated(8, 8)
    validated(8, 0)  # all positions see each other
    for block, causal in ((8, 4), (4, 8)):
        with pytest.raises(
            ConfigError,
            match=rf"config\.objective\.name = 'block_diffusion': the objective trains blocks of {block} positions .*"
            rf"sees blocks of {causal} .*Valid: block = {causal}, causal = {block}, or causal = 0",
        ):
            validated(block, causal)


@pytest.mark.parametrize("name", ["masked_diffusion", "score_entropy", "discrete_flow_matching"])
def test_a_block_causal_network_trains_by_blocks_alone(text, name):
    """Its samples are made block by block beside clean earlier ones."""
    objective = {"name": name, "process": MASKS, "density": {"name": "uniform_density"}, "wrappers": ()}
    checks.validate(config_of(text, **{"objective": objective, "model.causal": 0}))
    with pytest.raises(
        ConfigError,
        match=rf"config\.objective\.name = '{name}': the objective trains all positions at one time, .*sees blocks of "
        r"4 .*Valid: causal = 0, or block_diffusion with block = 4",
    ):
        checks.validate(config_of(text, **{"objective": objective, "model.causal": 4}))


@pytest.mark.extended
def test_a_run_in_chunks_has_no_array_of_all_positions_and_all_symbols():
    """50,000 symbols at 64 positions: the compiled train step of a run holds chunks of 8 positions."""
    size, length = 50_000, 64
    process = discrete.absorbing(discrete.linear(), size)
    density = timesteps.uniform_density(schedules.rectified_flow())
    network = models.SymbolTransformer(size, 4, 1, 1, clock="none")
    records = [{"x": np.arange(length)}] * 4

    def compiled(chunk):
        objective = discrete.masked_diffusion(process, density, chunk=chunk)
        recipe = Recipe(schedules.rectified_flow(), objective, network, records, config={"train.batch_size": 2})
        run = program.build(recipe, program.mesh_of(recipe.config))
        return run.step.lower(run.target, run.batch, run.seed).compile()

    step = compiled(8)
    text, whole = step.as_text(), 4 * 2 * length * size
    assert f"[8,{size}]" in text and f"{length},{size}]" not in text and f"[{2 * length},{size}]" not in text
    assert step.memory_analysis().temp_size_in_bytes < whole / 2


def test_guidance_of_symbols_is_classifier_free():
    """A network of two classes, by hand: the guided log-probabilities are c + (w - 1)(c - u), normalised."""
    process = discrete.uniform(discrete.linear(), 3)
    rows = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.4, 0.4]]))  # the last is the null class

    class Labelled:
        takes_symbols, size, num_classes = True, 3, 2

        def init(self, key, x, clock, condition):
            return {}

        def apply(self, params, x, clock, condition):
            return jnp.broadcast_to(rows[condition][:, None], (*x.shape, 3))

    density = timesteps.uniform_density(schedules.rectified_flow())
    records = [{"x": np.array([0, 1]), "label": i % 2} for i in range(4)]
    settings = {"sample.guidance.scale": 2.0}
    objective = objectives.with_condition_dropout(discrete.score_entropy(process, density), np.int32(2), 0.1)
    recipe = Recipe(schedules.rectified_flow(), objective, Labelled(), records, config=settings)
    predict = symbol_samples.predictor(recipe, recipe.objective.reads)({}, jnp.array([0, 1]), {})
    found = np.exp(predict(jnp.zeros((2, 2), jnp.int32), jnp.full(2, 0.5)))
    p, null = np.exp(np.asarray(rows, np.float64))[:2], np.exp(np.asarray(rows, np.float64))[2]
    expected = p**2 / null
    np.testing.assert_allclose(found[:, 0], expected / expected.sum(1, keepdims=True), rtol=1e-5)


def test_random_numbers_of_a_batch_reach_the_network_as_symbols():
    module = models.SymbolTransformer(4, width=8, depth=1, heads=2)
    from diffusion.experiments.run import networks

    x, clock, condition = networks.inputs(module, (5,), None)
    assert x.dtype == jnp.int32 and x.shape == (1, 5) and condition is None
    jax.eval_shape(module.init, jax.random.key(0), x, clock, condition)

"""Randomness of everything that draws: no key is used twice, and which keys are used does not depend on the batch.

A new function that draws is one line in DRAWING: (batch) -> draws for the examples 0 .. SIZE - 1 in such batches. A
source that draws its records is one line in SOURCES.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import (
    discrete,
    guidance,
    likelihood,
    manifolds,
    objectives,
    parameterizations,
    samplers,
    schedules,
    steering,
    text_to_image,
    timesteps,
    videos,
    watermarks,
    weightings,
)  # fmt: skip
from diffusion.data import pipeline, series_masks, sources
from diffusion.data.sources.sequences import Records
from diffusion.experiments.remake import exact_mixtures, point_training
from diffusion.experiments.sampling import generate
from diffusion.metrics import membership
from diffusion.objectives.autoencoder_terms import Coded
from diffusion.objectives.representation_autoencoder import rae_decoder
from diffusion.recipe import steering_drivers
from diffusion.training import step
from diffusion.training.alternating import Player, alternating
from examples.restoration import methods, tasks
from tests import conformance, recorded_keys
from tests.objectives import few_step_cases, objective_cases
from tests.text_to_image.stand_ins import made_model

SIZE = 4
FLOW = schedules.rectified_flow()
V = parameterizations.velocity()
PLAN = timesteps.plan(timesteps.uniform(FLOW, steps=2))
STEPS = (0, 1, 7)  # of training


def in_parts(draw):
    """Of a function of the numbers of some examples: all of them, batch after batch."""
    return lambda batch: [draw(np.arange(first, first + batch)) for first in range(0, SIZE, batch)]


def keyed(draw):
    """Of a function of keys `[b]`, those of samples with the seeds 0 .. SIZE - 1."""
    return in_parts(lambda rows: draw(jax.vmap(jax.random.key)(jnp.asarray(rows, jnp.uint32))))


def trained(loss):
    """Of a loss of (keys, rows, step): the keys of training examples, at several steps."""

    def draw(rows):
        key = step.training_key(3)
        for number in STEPS:
            loss(step.example_keys(key, jnp.int32(number), jnp.asarray(rows)), rows, number)

    return in_parts(draw)


def of_objective(name):
    case = objective_cases.OBJECTIVES[name]
    objective = objectives.with_condition_dropout(case.make(timesteps.uniform_density(FLOW)), null=-1, rate=0.25)
    network = objective_cases.network_of(case, lambda x, clock, condition: jnp.tanh(x))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((SIZE, 2)), jnp.float32)

    def loss(keys, rows, number):
        batch = {"condition": jnp.zeros(len(rows), int), "index": jnp.asarray(rows), **case.batch(x[rows])}
        objective_cases.losses_of(objective, network, FLOW._replace(t_max=0.999), keys, x[rows], **batch)

    return trained(loss)


def of_member(name, objective=None):
    """Of an objective of few steps, the list's by default, whose step decides nothing of what it draws."""

    def loss(keys, rows, number):
        batch = few_step_cases.batch_of(len(rows))
        few_step_cases.run(name, batch, keys=keys, step=number, objective=objective)

    return trained(loss)


def of_target(objective):
    """Of an objective that trains on no data."""

    def loss(keys, rows, number):
        batch = {"x": jnp.zeros((len(rows), 2)), "index": jnp.asarray(rows)}
        objective({"model": lambda x, clock, condition: jnp.tanh(x)}, FLOW, keys, batch, number)

    return trained(loss)


def of_wrapper(objective):
    """Of an objective of pictures around flow matching, whose networks return features."""

    def network(x, clock, condition, features=()):
        return (x, (x.reshape(len(x), 4, -1),) * len(features)) if features else x

    def loss(keys, rows, number):
        batch = {"x": jnp.zeros((len(rows), 4, 4, 1)), "index": jnp.asarray(rows)}
        objective({"model": network, "target": network, "term": lambda h, shape: h}, FLOW, keys, batch, number)

    return trained(loss)


@trained
def of_decoder(keys, rows, number):
    """Of the decoder of a representation autoencoder, whose features receive noise."""
    decode = lambda z, keys, condition, size: Coded(z, {}, jnp.ones(()), lambda kernel: kernel * z)
    players = {"encoder": lambda x, *_: x.reshape(len(x), 4, 1), "model": decode}
    rae_decoder()(players, None, keys, {"x": jnp.zeros((len(rows), 4, 1))}, number)


def of_clips(make):
    """Of an objective on clips of two frames, each of which is a chunk."""

    def loss(keys, rows, number):
        batch = {"x": jnp.zeros((len(rows), 2, 1)), "index": jnp.asarray(rows)}
        network = lambda x, clock, condition: jnp.tanh(x)
        make((1.0, 0.5, 0.0))(dict.fromkeys(("model", "teacher", "fake"), network), FLOW, keys, batch, number)

    return trained(loss)


def of_sampler(name):
    schedule = schedules.cosine()
    plan = timesteps.plan(timesteps.uniform(schedule, steps=2))
    denoise = conformance.round_denoiser(schedule)
    sampler = conformance.SAMPLERS[name]
    return keyed(lambda keys: samplers.sample(sampler, denoise, schedule, jnp.zeros((len(keys), 2)), plan, keys))


def of_run(batch):
    """Prior and first draws of the samples of a run, of several seeds."""
    schedule = schedules.cosine()
    for seed in range(4):
        seeds = generate.seeds({"sample": {"seed": seed}}, SIZE)
        for first in range(0, SIZE, batch):
            beginning, rest = generate.keys(seeds[first : first + batch])
            samplers.prior(schedule, beginning, (2,))
            jax.vmap(lambda key: jax.random.normal(key, (2,)))(rest)  # samplers have lines of their own


def of_job(**settings):
    """Of text to image: the pictures of one request, with seeds from its middle on."""
    how = {"steps": 2, "sampler": "ddpm", "seeds": range(10, 10 + SIZE), "negative": "bad", **settings}
    return lambda batch: text_to_image.generate(made_model(), "a cat", batch_size=batch, **how)


def of_train_step(batch):
    """Two players of which each step draws, their batches cut into micro-batches."""
    network = lambda params, x, clock, condition: params * x
    loss = objectives.flow_matching(UNIFORM)
    of = lambda name: lambda networks, *rest: loss({"model": networks[name]}, *rest)
    players = {name: Player(of(name), name, optax.sgd(0.0)) for name in ("first", "second")}
    both = alternating(players, dict.fromkeys(players, network), FLOW, accumulate=SIZE // batch)
    state = both.init(dict.fromkeys(players, jnp.ones(())))
    for _ in range(2):
        rows = {"x": np.ones((SIZE, 2), np.float32), "index": np.arange(SIZE)}
        state, _ = both.step(state, rows, step.training_key(3))


def of_rollout(keys):
    """A long clip, window after window."""
    x, first = jnp.zeros((len(keys), 4, 1)), jnp.zeros((len(keys), 1, 1))
    videos.rollout(STOCHASTIC, _of_frames, FLOW, x, PLAN, keys, first, window=3)


def of_rollout_from_memory(keys):
    x = jnp.zeros((len(keys), 4, 1))
    denoise = lambda memory: _of_frames
    videos.rollout_from_memory(STOCHASTIC, denoise, lambda made, memory: memory, FLOW, x, PLAN, keys, jnp.zeros(()), 2)


def of_frames_in_turn(keys):
    """Frames that begin one after the other."""
    plan = timesteps.staggered(PLAN.grid, 3, 1)
    samplers.sample(samplers.per_frame(STOCHASTIC), _of_frames, FLOW, jnp.zeros((len(keys), 3, 1)), plan, keys)


def of_restart(keys):
    """A trajectory that adds noise again on its way."""
    plan = timesteps.plan(np.array([1.0, 0.5, 0.8, 0.0]), renoise=[False, True, False])
    samplers.sample(STOCHASTIC, conformance.round_denoiser(FLOW), FLOW, jnp.zeros((len(keys), 2)), plan, keys)


def of_particles(keys):
    x, plan = jnp.zeros((len(keys), 2)), timesteps.plan(np.array([1.0, 0.5, 0.0]))
    drive = steering_drivers.mcgdiff(guidance.measurements.masked(jnp.array([True, False])), x, number=2)
    return drive(STOCHASTIC, conformance.round_denoiser(FLOW), FLOW, x, plan, keys)


def of_daps(draw):
    """Draws of the data between noise, as the exact one and Langevin's make them."""
    plan = timesteps.plan(np.array([1.0, 0.5, 0.0]))

    def drawn(keys):
        denoise = conformance.round_denoiser(FLOW)
        steering.daps(denoise, FLOW, jnp.zeros((len(keys), 2)), plan, keys, draw(jnp.zeros((len(keys), 2))))

    return keyed(drawn)


def of_marked_noise(keys):
    """A watermark in the noise from which the same keys' steps go on."""
    x = watermarks.gaussian_shading("0" * 64, 4, nonces=4).embed(jnp.ones((len(keys), 2, 2, 1)), keys)
    samplers.sample(STOCHASTIC, conformance.round_denoiser(FLOW), FLOW, x, PLAN, keys)


MASKS = discrete.absorbing(discrete.linear(), 4)


def of_symbols(sampler, steps, process=MASKS):
    """Two symbols of four, one of which is the mask."""
    plan = timesteps.plan(np.linspace(1, 0, steps + 1))
    predict = lambda x, t: discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)
    return keyed(lambda keys: discrete.sample(sampler, predict, process, jnp.full((len(keys), 2), 3), plan, keys))


def of_all_masks(keys):
    predict = lambda x, t: discrete.from_logits(MASKS, jnp.zeros((*x.shape, 4)), x, t)
    discrete.until_unmasked(discrete.surest(1), predict, MASKS, jnp.full((len(keys), 2), 3), keys)


def of_symbols_in_training(objective):
    networks = {"model": lambda x, clock, condition: jnp.zeros((*x.shape, 4)), "powers": lambda: jnp.ones(3)}
    loss = jax.jit(lambda keys, rows: objective(networks, FLOW, keys, {"x": rows[:, None] % 3, "index": rows}, 0))
    return trained(lambda keys, rows, number: loss(keys, jnp.asarray(rows)))


def of_blocks_of_symbols(keys):
    """Two symbols, a block for each."""
    predict = lambda memory: lambda x, t: discrete.from_logits(MASKS, jnp.zeros((*x.shape, 4)), x, t)
    x, memory = jnp.full((len(keys), 2), 3), jnp.zeros(())
    ways = (discrete.ancestral(), predict, lambda made, memory: memory, MASKS, x, timesteps.plan(np.array([1.0, 0.0])))
    discrete.sample_blocks(*ways, keys, memory, 1)


def of_restoration(keys):
    """Particles of each sample, and the one of them that is taken."""
    task = tasks.linear(guidance.measurements.masked(jnp.array([True, False])), 0.1)
    setting = methods.Setting(conformance.round_denoiser(FLOW), FLOW, task, 2, 0.5)
    x = jnp.zeros((len(keys), 2))
    methods.twisted(setting, x, x, keys)


def of_points(batch):
    """Noise of a training on draws of a mixture, and those draws."""
    cloud = exact_mixtures.mixture([1, 1], np.eye(2), [np.eye(2)] * 2)
    point_training.train(
        objectives.flow_matching(UNIFORM), FLOW, lambda params, x, clock, condition: params * x, jnp.ones(()),
        optax.sgd(0.0), lambda key: {"x": exact_mixtures.draw(cloud, key, SIZE)}, 2, jax.random.key(0),
    )  # fmt: skip


def _of_frames(x, t):
    t = jnp.broadcast_to(jnp.reshape(t, (-1, 1)) if jnp.ndim(t) < 2 else t, x.shape[:2])[..., None]
    return parameterizations.Prediction((1 - t) * x, t * x)


def of_likelihood(rows):
    """Dequantisation and probe, as the figures of a run draw them."""
    keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(jax.random.key(0), number)))(jnp.asarray(rows))
    likelihood.dequantise(jnp.zeros((len(rows), 2, 2, 1), jnp.uint8), keys[:, 0])
    likelihood.rademacher(keys[:, 1], (2, 2, 1))


def of_manifold(keys):
    """From the uniform law of a sphere back by a random walk."""
    sphere = manifolds.sphere(2)
    start, rest = jax.vmap(jax.random.split, out_axes=1)(keys)
    x = jax.vmap(lambda key: sphere.uniform(key, ()))(start)
    field = manifolds.TangentField(sphere, lambda x, t: 0 * x, lambda x, t: 0 * x)
    exploding = schedules.variance_exploding()
    plan = timesteps.plan(timesteps.uniform(exploding, steps=2))
    samplers.sample(manifolds.geodesic_random_walk(), field, exploding, x, plan, rest)


def of_density(make):
    """Of a density of training times, at several steps."""

    def loss(keys, rows, number):
        density = make()
        density.sample(density.init(), keys, jnp.asarray(rows))

    return trained(loss)


GAPS = series_masks.gaps()
PICTURES = [{"image": np.zeros((4, 4, 3), np.uint8)}] * SIZE
STOCHASTIC = samplers.ddim(1.0)
UNIFORM = timesteps.uniform_density(FLOW)
MATCHING = objectives.flow_matching(UNIFORM)
DRAWING = {
    **{f"objective {name}": of_objective(name) for name in objective_cases.OBJECTIVES},
    **{f"objective {name}": of_member(name) for name in few_step_cases.MEMBERS},
    "objective drifting": of_member("drifting", objectives.drifting(V, 0.5, 2)),  # the list's has blocks of six
    **{f"sampler {name}": of_sampler(name) for name in conformance.STOCHASTIC},
    "samples of a run": of_run,
    "text to image": of_job(),
    "text to image, changed": of_job(image=np.zeros((8, 8, 3), np.uint8), strength=0.9),
    "two players": of_train_step,
    "rollout": keyed(of_rollout),
    "rollout from memory": keyed(of_rollout_from_memory),
    "frames in turn": keyed(of_frames_in_turn),
    "restart": keyed(of_restart),
    "daps": of_daps(lambda y: steering.gaussian_draw(guidance.measurements.masked(jnp.array([True, False])), y, 0.1)),
    "daps, langevin": of_daps(
        lambda y: steering.langevin_draw(lambda x: -jnp.sum((x - y) ** 2, -1), steps=3, step_size=lambda r: 0.01)
    ),
    "objective adjoint_sampling": of_target(
        objectives.adjoint_sampling(
            V, weightings.constant(V), timesteps.uniform_density(FLOW), (1.0, 0.5, 0.0), objectives.funnel(2)
        )
    ),
    "objective log_variance": of_target(objectives.log_variance(V, (1.0, 0.5, 0.0), objectives.funnel(2), 2)),
    "objective trajectory_regression": of_clips(lambda grid: objectives.trajectory_regression(V, V, grid, 1)),
    "objective distribution_matching(noised_chunks)": of_clips(
        lambda grid: objectives.distribution_matching(V, V, V, UNIFORM, samples=objectives.noised_chunks(grid, 1))
    ),
    "objective rae_decoder": of_decoder,
    "objective added": of_wrapper(objectives.added(MATCHING, objectives.self_alignment(V))),
    "objective with_masked_copy": of_wrapper(
        objectives.with_masked_copy(objectives.added(MATCHING, objectives.self_alignment(V)))
    ),
    "denoising error": keyed(
        lambda keys: samplers.denoising_error(
            conformance.round_denoiser(FLOW), FLOW, jnp.zeros((len(keys), 2)), (0.3, 0.6), keys
        )
    ),
    "annealed": keyed(
        lambda keys: steering.annealed(
            lambda x: -(x**2).sum(-1),
            lambda x: -((x - 1) ** 2).sum(-1),
            jnp.zeros((len(keys), 2)),
            keys,
            (0, 0.5, 1),
            0.1,
            number=1,
        )
    ),
    "paths": keyed(
        lambda keys: samplers.path_weights(
            conformance.round_denoiser(FLOW), FLOW, timesteps.plan((1.0, 0.5, 0.0)), keys, (2,), lambda x: x.sum(-1)
        )
    ),
    "mcgdiff": keyed(jax.jit(of_particles)),
    "resampling of a part": keyed(
        jax.jit(lambda keys: jax.vmap(steering.partial(steering.systematic), (0, None))(keys, jnp.zeros(4)))
    ),
    "red_diff": keyed(
        lambda keys: steering.red_diff(
            conformance.round_denoiser(FLOW),
            FLOW,
            lambda x: -jnp.sum(x**2, -1),
            jnp.zeros((len(keys), 2)),
            timesteps.plan(np.array([1.0, 0.5, 0.0])),
            keys,
            optax.sgd(0.1),
        )
    ),
    "marked noise": keyed(of_marked_noise),
    "searched noise": keyed(
        lambda keys: steering.searched_noise(
            lambda z: z, lambda x: x.sum(-1), jnp.zeros((len(keys), 2)), keys, rounds=2, trials=2, distance=0.5
        )
    ),
    "rejection": keyed(
        lambda keys: steering.rejected(
            lambda keys: jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys), lambda x: 0 * x[:, 0], keys
        )
    ),
    "objective masked_diffusion": of_symbols_in_training(discrete.masked_diffusion(MASKS, UNIFORM)),
    "objective trained_masks": of_symbols_in_training(discrete.trained_masks(4, UNIFORM)),
    "symbols, all at once": of_symbols(discrete.ancestral(), 2),
    "symbols, until no mask is left": keyed(of_all_masks),
    "symbols, by one": of_symbols(discrete.first_hitting(), 2),
    "symbols, block after block": keyed(of_blocks_of_symbols),
    "symbols, in two stages": of_symbols(discrete.theta_trapezoidal(), 2),
    "symbols, corrected": of_symbols(discrete.corrected(2), 2),
    "symbols, by Gaussian latents": keyed(
        lambda keys: discrete.latent_noise(discrete.uniform(discrete.linear(), 4), keys, jnp.zeros((len(keys), 2), int))
    ),
    "symbols, by distances": of_symbols(discrete.metric_flow(), 2, discrete.metric_path(discrete.line_distances(4))),
    "particles of a restoration": keyed(of_restoration),
    "training on points": of_points,
    "times of frames": of_density(lambda: timesteps.per_frame(UNIFORM, 3)),
    "given frames": of_density(lambda: timesteps.given_frames(FLOW, UNIFORM, ("1..", "1.1"), (0.5, 0.5))),
    "likelihood": in_parts(of_likelihood),
    "random walk on a sphere": keyed(of_manifold),
    "membership": keyed(
        lambda keys: membership.loss_scores(
            conformance.round_denoiser(FLOW), FLOW, jnp.zeros((len(keys), 2)), 0.5, keys
        )
    ),
}


COMPARING = (
    "contrastive_flow_matching",
    "dispersive",
    "diffusion_nft",
    "drifting",
    "log_variance",
    "policy_gradient",
    "policy_gradient(target)",
)
BLOCKS = {f"objective {name}": 2 for name in COMPARING}  # examples that are compared
WITHOUT = {"objective regression"}  # draws nothing


# Another objective in the fast suite draws by the same lines: ddpm, consistency_training and mean_flow stand for these.
SLOW = {
    f"objective {name}"
    for name in (
        "x0", "v, min-snr", "score", "edm", "velocity", "ct", "ect", "cd", "continuous_consistency(teacher)",
        "mean_flow(guided)", "improved_mean_flow(guided)", "alpha_flow", "adjoint_sampling", "drifting",
        "score_identity", "score_identity(discriminator)", "guidance_distillation", "guidance_distillation(scales)",
        "score_regularised_consistency", "truncated_consistency", "progressive_adversarial", "transition_judge",
        "distribution_matching(backward_simulation)", "distribution_matching(f)",
        "distribution_matching(noised_chunks)", "added", "with_masked_copy",
    )
}  # fmt: skip
# Samplers draw through one function, `samplers.sample`: one of them stands for all where it must be fast.
SLOW |= {f"sampler {name}" for name in conformance.STOCHASTIC if name != "ddpm"} | {
    "particles of a restoration",
    "annealed",
    "paths",
}
every_drawing = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in DRAWING if name not in WITHOUT],
)


@pytest.mark.extended
@every_drawing
def test_no_key_is_used_twice_whatever_the_batch(name):
    draws = {}
    for batch in (SIZE, BLOCKS.get(name, 1)):
        with recorded_keys.recorded() as record:
            DRAWING[name](batch)
        assert record.drawn and max(record.drawn.values()) == 1, record.drawn.most_common(3)
        assert not record.drawn.keys() & record.parents, "a key is drawn from, and split"
        draws[batch] = record.drawn
    assert len({frozenset(drawn) for drawn in draws.values()}) == 1, {batch: len(own) for batch, own in draws.items()}


ROWS = range(1, SIZE)  # the first is read already, to know its shape
# split -> its records; those of series are hidden in part as they are read.
SOURCES = {
    "solid_points": lambda split: sources.solid_points(split, points=4),
    "solid_distances": lambda split: sources.solid_distances(split, side=4),
    "gaussian_series": lambda split: sources.gaussian_series(split, length=8, number=SIZE, hide=GAPS),
    "painted": lambda split: sources.painted(Records(PICTURES, 0, split), seed=["train", "test"].index(split)),
}


@pytest.mark.parametrize("name", list(SOURCES))
def test_no_two_records_share_their_draws(name):
    """Neither within a split nor between both; numpy's streams of the seeds s and (s, 0) are one."""
    splits = [SOURCES[name](split) for split in ("train", "test")]
    with recorded_keys.recorded_generators() as record:
        first = [split[row] for split in splits for row in ROWS]
    assert sorted(record.drawn.values()) == [1] * len(first)
    again = [split[row] for split in splits for row in ROWS]
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_no_draw_of_an_example_repeats_whatever_the_batch():
    """Of two augmentations over three epochs, of the same records: each has its own draw for each global index."""
    numbers = {}
    for batch in (1, 2, 3):
        numbers[batch] = []

        def drawn(rng, image, own=numbers[batch]):
            own.append(int(rng.integers(2**62)))
            return image

        source = [{"image": np.full((4, 4, 1), row, np.uint8)} for row in range(SIZE)]
        spec = sources.DataSpec("rows", "train", (4, 4, 1), 0, SIZE)
        batches = pipeline.batches(source, spec, seed=5, batch_size=batch, augment=(drawn, drawn), threads=0)
        orders = [next(batches)["image"][:, 0, 0, 0] for _ in range(3 * SIZE // batch)]
        epochs = np.concatenate(orders).reshape(3, SIZE)
        np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(SIZE), (3, 1)))
        assert len(set(numbers[batch])) == 2 * 3 * SIZE
    assert set(numbers[1]) == set(numbers[2]) == set(numbers[3])

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.training.ema import exponential_moving_average
from diffusion.training.state import SecondPlayer, create
from diffusion.training.step import loss_by_t, make_train_step, prepare, seeded
from tests.training import toys

KEY = jax.random.key(3)


def run(step, state, first, last, size=16):
    metrics = None
    for k in range(first, last):
        state, metrics = step(state, toys.batch(k, size), KEY)
    return state, metrics


@jax.custom_vjp
def bad_slope(x, slope):
    """x, with a derivative that is said to be `slope`."""
    return x


bad_slope.defvjp(lambda x, slope: (x, slope), lambda slope, g: (g * slope, jnp.zeros_like(slope)))


def poisoned(at, where):
    """The toy objective with a non-finite loss, or a non-finite gradient of a finite loss, from step `at` on."""

    def objective(networks, schedule, keys, batch, step):
        losses, metrics = toys.objective(networks, schedule, keys, batch, step)
        if where == "loss":
            return losses.at[3].add(jnp.where(step >= at, jnp.nan, 0.0)), metrics
        return bad_slope(losses, jnp.where(step >= at, jnp.nan, 1.0)), metrics

    return objective


def test_loss_falls_and_step_counts():
    state, first = run(toys.make_step(), toys.make_state(), 0, 1)
    state, last = run(toys.make_step(), state, 1, 60)
    assert int(state.step) == 60 and int(state.failed_at) == -1
    assert float(last["loss"]) < 0.9 * float(first["loss"])


def test_a_step_passes_on_what_it_has_before_its_update():
    """The network w x, whose loss is (w x - 1)^2: the target is the average's; rate and decay are of this step."""

    class Recorder:
        init = staticmethod(lambda: {"t": jnp.zeros(4), "losses": jnp.zeros(4)})
        update = staticmethod(lambda state, t, losses: {"t": t, "losses": losses})

    def objective(networks, schedule, keys, batch, step):
        output, target = (networks[name](batch["x"][:, 0], None, None) for name in ("model", "target"))
        return (output - 1) ** 2, {"t": batch["x"][:, 0] / 10, "target": target}

    apply = lambda params, x, clock, condition: params * x
    step = jax.jit(make_train_step(objective, apply, None, toys.optimizer(), toys.ema(), density=Recorder))
    x = np.array([1.0, 2, 3, 4], np.float32)
    batch = {"x": x[:, None], "index": np.arange(4, dtype=np.int32)}
    state = create(jnp.float32(2), toys.optimizer(), toys.ema(), Recorder)._replace(ema=jnp.float32(5))
    for k in range(2):
        weight, average = float(state.params), float(state.ema)
        state, metrics = step(state, batch, KEY)
        np.testing.assert_allclose(metrics["target"], average * x.mean(), rtol=1e-6)
        np.testing.assert_allclose(state.density["losses"], (weight * x - 1) ** 2, rtol=1e-5)
        np.testing.assert_allclose(state.density["t"], x / 10)
        np.testing.assert_allclose(metrics["learning_rate"], 1e-2 * (k + 1) / 3, rtol=1e-6)  # of three warm-up steps
        decay = (1 + k) / (10 + k)  # of the updates before
        np.testing.assert_allclose(state.ema, decay * average + (1 - decay) * float(state.params), rtol=1e-6)


@pytest.mark.extended
def test_metrics_are_those_of_the_batch():
    """Loss, gradient norm and the bins against numbers computed from the objective directly."""
    state = toys.make_state()
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, 0), i) for i in range(16)]
    keys = jnp.stack(keys)
    batch = {**jax.tree.map(jnp.asarray, toys.batch(0)), "condition": None}

    def mean(params):
        network = {"model": lambda *inputs: toys.apply(params, *inputs)}
        losses, metrics = toys.objective(network, None, keys, batch, 0)
        return losses.mean(), (losses, metrics["t"])

    (loss, (losses, t)), grads = jax.value_and_grad(mean, has_aux=True)(state.params)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    _, metrics = toys.make_step()(state, toys.batch(0), KEY)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["learning_rate"], 1e-2 / 3, rtol=1e-6)  # the first of three warm-up steps
    bins = np.minimum((np.asarray(t) * 10).astype(int), 9)
    np.testing.assert_array_equal(metrics["loss_by_t"]["count"], np.bincount(bins, minlength=10))
    np.testing.assert_allclose(metrics["loss_by_t"]["sum"], np.bincount(bins, losses, minlength=10), rtol=1e-5)


@pytest.mark.extended
def test_on_a_gpu_the_gradient_is_an_array_before_the_update_and_no_bit_changes(monkeypatch):
    """XLA for GPUs would make four updates of a stack's gradient that it joins of layers'; see `_made_once`."""
    state, batch = toys.make_state(), toys.batch(0)
    found = {}
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        step = make_train_step(toys.objective, toys.apply, None, toys.optimizer(), toys.ema())
        traced = str(jax.make_jaxpr(step)(state, batch, KEY))
        found[backend] = traced.count("= optimization_barrier"), jax.jit(step)(state, batch, KEY)
    monkeypatch.undo()
    assert found["cpu"][0] == 0 and found["gpu"][0] == 1
    jax.tree.map(np.testing.assert_array_equal, found["cpu"][1], found["gpu"][1])


def test_draws_differ_from_step_to_step_and_from_example_to_example():
    seen = []

    def objective(networks, schedule, keys, batch, step):
        losses, metrics = toys.objective(networks, schedule, keys, batch, step)
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), metrics["t"])
        return losses, metrics

    run(toys.make_step(objective), toys.make_state(), 0, 3)
    jax.effects_barrier()
    assert len(np.unique(np.concatenate(seen))) == 3 * 16


@pytest.mark.extended
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_first_bad_step_freezes_everything(where):
    at = 4
    step = toys.make_step(poisoned(at, where))
    good, _ = run(step, toys.make_state(), 0, at)
    good = jax.tree.map(np.asarray, good)
    state, metrics = run(step, jax.tree.map(jnp.asarray, good), at, at + 1)
    assert int(state.failed_at) == at == int(metrics["failed_at"])
    assert toys.equal(good, state._replace(failed_at=np.int32(-1)))
    assert np.isfinite(float(metrics["loss"])) == (where == "gradient")
    # Later steps change nothing, not even with a sound objective.
    state, _ = run(toys.make_step(), state, at + 1, at + 4)
    assert int(state.failed_at) == at
    assert toys.equal(good, state._replace(failed_at=np.int32(-1)))


@pytest.mark.extended
@pytest.mark.parametrize(("accumulate", "shards"), [(2, 1), (4, 1), (2, 4), (4, 2)])
def test_accumulation_equals_the_large_batch(accumulate, shards):
    """Same draws, so the same numbers up to the order of the sum."""
    large, metrics = run(toys.make_step(), toys.make_state(), 0, 5)
    small, ours = run(toys.make_step(accumulate=accumulate, shards=shards), toys.make_state(), 0, 5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), large, small)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), metrics, ours)


@pytest.mark.extended
def test_accumulation_keeps_the_order_of_rows_for_the_density():
    """An adaptive density sees times and losses in the order of the batch, however the batch was cut."""

    class Recorder:
        init = staticmethod(lambda: {"t": jnp.zeros(16), "losses": jnp.zeros(16)})
        update = staticmethod(lambda state, t, losses: {"t": t, "losses": losses})

    def states(**options):
        state = toys.make_state()._replace(density=Recorder.init())
        return run(toys.make_step(density=Recorder, **options), state, 0, 1)[0].density

    np.testing.assert_allclose(states()["t"], states(accumulate=4, shards=2)["t"], rtol=0)
    np.testing.assert_allclose(states()["losses"], states(accumulate=4, shards=2)["losses"], rtol=1e-5)


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 3"):
        toys.make_step(accumulate=3)(toys.make_state(), toys.batch(0), KEY)
    with pytest.raises(ValueError, match="accumulate = 0"):
        toys.make_step(accumulate=0)


@pytest.mark.extended
@pytest.mark.parametrize(("first", "last"), [(0.5, 1.01), (-0.01, 0.5), (0.0, jnp.nan)])
def test_a_density_beyond_the_times_of_the_schedule_is_refused(first, last):
    """Few of its draws lie outside; a compiled step sees none of their numbers."""
    density = timesteps.from_quantile(lambda u: first + (last - first) * u)
    with pytest.raises(ValueError, match=r"density of training times: t = .* \[0, 1\].* Valid: a density within"):
        toys.make_step(density=density, schedule=schedules.rectified_flow())
    inside = timesteps.uniform_density(schedules.rectified_flow())
    toys.make_step(density=inside, schedule=schedules.rectified_flow())


@pytest.mark.parametrize("returned", [lambda: jnp.ones(8), lambda: (jnp.ones(8), {}), lambda: (jnp.ones(8), None)])
def test_an_objective_without_its_times_is_refused(returned):
    step = make_train_step(lambda *arguments: returned(), toys.apply, None, toys.optimizer(), toys.ema())
    with pytest.raises(TypeError, match=r'must return \(losses \[B\], metrics\), .* as "t", such as \{"t": t\}; got'):
        step(toys.make_state(), toys.batch(0), KEY)


def test_images_are_scaled_on_the_device():
    seen = []

    def objective(networks, schedule, keys, batch, step):
        jax.debug.callback(lambda *values: seen.extend(values), batch["x"], batch["condition"])
        x = batch["x"].reshape(4, -1)[:, :2]
        return toys.objective(networks, schedule, keys, {**batch, "x": x}, step)

    image = np.array([0, 255, 51, 102], np.uint8).reshape(4, 1, 1, 1) * np.ones((1, 2, 1, 1), np.uint8)
    batch = {"image": image, "label": np.arange(4, dtype=np.int32), "index": np.arange(4)}
    toys.make_step(objective)(toys.make_state(), batch, KEY)
    jax.effects_barrier()
    x, condition = seen
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:, 0, 0, 0], [-1.0, 1.0, -0.6, -0.2], atol=1e-6)
    np.testing.assert_array_equal(condition, np.arange(4))


def test_one_compilation_serves_every_step():
    step = toys.make_step()
    before = step._cache_size()
    run(step, toys.make_state(), 0, 4)
    assert step._cache_size() <= max(before, 1)


@pytest.mark.extended
@pytest.mark.parametrize("accumulate", [1, 4])
def test_an_objective_sees_the_average_and_frozen_networks_and_trains_the_model_alone(accumulate):
    """The loss |model - target - teacher|^2, its value and the update against numbers computed directly."""

    def distil(networks, schedule, keys, batch, step):
        seen = {name: networks[name](batch["x"], batch["x"][:, 0], None) for name in ("model", "target", "teacher")}
        error = seen["model"] - seen["target"] - seen["teacher"]
        return jnp.mean(error**2, axis=1), {"t": batch["x"][:, 0]}

    teacher = toys.init(jax.random.key(7))
    before = jax.tree.map(jnp.array, toys.make_state())._replace(frozen={"teacher": teacher})
    before = before._replace(ema=jax.tree.map(lambda leaf: leaf + 0.1, before.ema))
    x = jnp.asarray(toys.batch(0)["x"])
    of = lambda params: toys.apply(params, x, x[:, 0], None)
    loss = lambda params: jnp.mean((of(params) - of(before.ema) - of(teacher)) ** 2)
    value, gradient = jax.value_and_grad(loss)(before.params)
    update, _ = toys.optimizer().update(gradient, before.opt_state, before.params)
    expected = jax.tree.map(jnp.add, before.params, update)
    step = toys.make_step(distil, accumulate=accumulate, frozen=Frozen({"teacher": toys.apply}))
    kept = jax.tree.map(np.array, before.frozen)
    after, metrics = step(before, toys.batch(0), KEY)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert toys.equal(after.frozen, kept)


class Frozen(dict):
    """A mapping that `toys.make_step` can remember."""

    def __hash__(self):
        return hash(tuple(self))


@pytest.mark.extended
def test_rows_on_several_devices_are_one_batch():
    """Two halves of a batch under an axis name, as `pmap` has it: the same draws, loss, update and order of rows."""

    class Recorder:
        init = staticmethod(lambda: {"t": jnp.zeros(16), "losses": jnp.zeros(16)})
        update = staticmethod(lambda state, t, losses: {"t": t, "losses": losses})

    make = lambda **options: make_train_step(
        toys.objective, toys.apply, None, toys.optimizer(), toys.ema(), density=Recorder, **options
    )
    before = toys.make_state()._replace(density=Recorder.init())
    batch = {**toys.batch(0), "skipped": np.arange(16, dtype=np.int32)}
    whole, expected = jax.jit(make())(before, batch, KEY)
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 8, *leaf.shape[1:]), batch)
    split = jax.vmap(make(axis="devices"), in_axes=(None, 0, None), axis_name="devices")
    states, metrics = jax.jit(split)(before, halves, KEY)
    for device in range(2):
        of = lambda tree, device=device: jax.tree.map(lambda leaf: leaf[device], tree)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), of(states), whole)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), of(metrics), expected)
    assert int(expected["skipped"]) == 120


def test_a_seed_is_one_half_for_training():
    """The other half draws the parameters."""
    _, half = jax.random.split(jax.random.key(7))
    found = seeded(lambda state, batch, key: (state, batch, key))("state", "batch", 7)
    assert found[:2] == ("state", "batch") and (jax.random.key_data(found[2]) == jax.random.key_data(half)).all()


def test_what_the_step_does_not_train_stays_in_the_state():
    """Of its structure alone: nothing is compiled."""
    step = make_train_step(toys.objective, toys.apply, None, toys.optimizer(), toys.ema())
    others = {"fake": SecondPlayer(jnp.ones(2), {"count": jnp.zeros([], jnp.int32)})}
    before = toys.make_state()._replace(second_players=others, frozen={"teacher": jnp.ones(3)})
    after, _ = jax.eval_shape(step, before, toys.batch(0), KEY)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)


def test_a_clip_counts_at_the_time_of_its_first_frame():
    bins = loss_by_t(jnp.array([[0.05, 0.95], [0.35, 0.15], [1.0, 0.5]]), jnp.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(bins["sum"], [1, 0, 0, 2, 0, 0, 0, 0, 0, 4])
    np.testing.assert_array_equal(bins["count"], [1, 0, 0, 1, 0, 0, 0, 0, 0, 1])


def test_both_pictures_of_a_pair_are_prepared_alike():
    pictures = np.array([[[[0], [51]], [[204], [255]]]], np.uint8)
    batch = prepare({"image": pictures, "rejected": 255 - pictures, "index": np.array([3]), "skipped": np.array([0])})
    np.testing.assert_allclose(batch["x"].ravel(), [-1, -0.6, 0.6, 1], atol=1e-6)
    np.testing.assert_allclose(batch["rejected"], -batch["x"], atol=1e-6)
    assert batch.keys() == {"x", "rejected", "condition", "index"} and batch["condition"] is None


def test_bytes_of_a_condition_become_numbers_as_those_of_x_do():
    """0 and 255 are the ends of [-1, 1]; labels and numbers stay."""
    condition = {"edges": jnp.array([[0, 255]], jnp.uint8), "label": jnp.array([7])}
    made = prepare({"x": jnp.ones((1, 2)), "index": jnp.array([3]), "condition": condition})["condition"]
    np.testing.assert_allclose(made["edges"], [[-1.0, 1.0]], atol=1e-6)
    np.testing.assert_array_equal(made["label"], [7])


def test_statistics_of_a_head_that_nothing_follows_are_refused():
    def objective(*arguments):
        losses, metrics = toys.objective(*arguments)
        return losses, {**metrics, "norm": {"mean": losses}}

    step = make_train_step(objective, toys.apply, None, toys.optimizer(), toys.ema())
    with pytest.raises(ValueError, match="the objective returns statistics for norm, but nothing uses them"):
        jax.eval_shape(step, toys.make_state(), toys.batch(0), jax.random.key(0))


def test_a_state_keeps_frozen_networks_with_and_without_a_checkpoint():
    """And an empty table of either is None, so that the state has one form without any."""
    optimizer, average = optax.sgd(0.1), exponential_moving_average(0.9)
    params, frozen, unsaved = {"w": jnp.ones(2)}, {"teacher": jnp.ones(3)}, {"encoder": jnp.ones(4)}
    full = create(params, optimizer, average, frozen=frozen, unsaved=unsaved)
    assert full.frozen == frozen and full.unsaved == unsaved
    bare = create(params, optimizer, average, frozen={}, unsaved={})
    assert bare.frozen is None and bare.unsaved is None and bare.second_players is None


@pytest.mark.parametrize(
    "position, value, words",
    [
        (0, objectives.flow_matching, r"objective must be .* got flow_matching\(.*if it makes the function"),
        (0, None, "objective must be .*; got a value of type NoneType"),
        (1, {"w": 1.0}, r"apply must be a function \(params, x_t, clock, condition\) -> output"),
        (2, schedules.cosine, "schedule must be .* the function cosine"),
        (3, optax.adamw, "optimizer must be an optax transformation.*the function adamw"),
        (3, 1e-4, "optimizer must be .*; got a value of type float"),
        (4, 0.999, "ema must be a moving average.*; got a value of type float"),
    ],
)
def test_arguments_of_another_kind_are_refused(position, value, words):
    arguments = [toys.objective, toys.apply, None, toys.optimizer(), toys.ema()]
    arguments[position] = value
    with pytest.raises(TypeError, match=words):
        make_train_step(*arguments)

"""Several players in one step: equal to the plain step where there is one, and exact gradients where there are two."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.timesteps import Density
from diffusion.training import ema as ema_lib, state as state_lib
from diffusion.training.alternating import Average, Player, alternating, as_train_step
from tests.training import toys

KEY = jax.random.key(3)
BATCH = {"x": np.ones((4, 1), np.float32), "index": np.arange(4, dtype=np.int32)}


@pytest.mark.extended
@pytest.mark.parametrize("options", [{}, pytest.param({"accumulate": 2, "shards": 2}, marks=pytest.mark.slow)])
def test_one_player_is_the_plain_train_step(options, as_in_use):
    """Bit for bit: parameters, optimizer, average and metrics."""
    players = {"flow": Player(toys.objective, "model", toys.optimizer())}
    init, step = alternating(players, {"model": toys.apply}, None, {"ema": Average("model", toys.ema())}, **options)
    plain = toys.make_state()
    step = jax.jit(step)
    plain_step = toys.make_step.__wrapped__(**options)  # its own: others' is compiled without optimizations
    state = init({"model": plain.params})
    for k in range(4):
        state, metrics = step(state, toys.batch(k), KEY)
        plain, expected = plain_step(plain, toys.batch(k), KEY)
    assert toys.equal(state.networks, {"model": plain.params, "ema": plain.ema})
    assert toys.equal(state.opt_state["flow"], plain.opt_state)
    assert int(state.step) == int(plain.step) == 4
    assert toys.equal(
        {f"flow/{name}": value for name, value in expected.items() if name != "failed_at"},
        {name: value for name, value in metrics.items() if name != "failed_at"},
    )


# A game with known gradients: the model a pays (a - b)^2 / 2 to come to b, and b pays (b - 2 a - 1)^2 / 2. Both read
# the teacher c and the target, the average of a, which add constants to the metrics alone.


def _apply(params, x, clock, condition):
    return params * x


def _pay(own, target):
    def objective(networks, schedule, keys, batch, step):
        outputs = {name: network(batch["x"], None, None)[:, 0] for name, network in networks.items()}
        other = jax.lax.stop_gradient(target(outputs))
        return (outputs[own] - other) ** 2 / 2, {"t": jnp.zeros(len(keys)), **outputs}

    return objective


def _game(**changes):
    players = {
        "critic": Player(_pay("b", lambda o: 2 * o["a"] + 1), "b", optax.sgd(0.1), **changes.get("critic", {})),
        "generator": Player(_pay("a", lambda o: o["b"]), "a", optax.sgd(0.5), **changes.get("generator", {})),
    }
    averages = {"target": Average("a", ema_lib.exponential_moving_average(0.75, warmup=False))}
    return alternating(players, dict.fromkeys("abc", _apply), None, averages)


@pytest.mark.extended
@pytest.mark.parametrize("every", [1, 2, 3])
def test_two_players_by_hand(every):
    """In turn within a step, each on what the last one left; the average moves when its network does."""
    init, step = _game(generator={"every": every})
    a, b, average = 2.3, -1.0, 2.3
    state = init({"a": jnp.float32(a), "b": jnp.float32(b), "c": jnp.float32(7.0)})
    step = jax.jit(step)
    for k in range(7):
        state, metrics = step(state, BATCH, KEY)
        seen = b
        b -= 0.1 * (b - 2 * a - 1)
        if k % every == 0:
            np.testing.assert_allclose(metrics["generator/target"], average, rtol=1e-5)
            np.testing.assert_allclose(metrics["generator/b"], b, rtol=1e-5)
            np.testing.assert_allclose(metrics["generator/grad_norm"], abs(a - b), rtol=1e-4, atol=1e-6)
            a -= 0.5 * (a - b)
            average = 0.75 * average + 0.25 * a
        else:
            assert np.isnan(metrics["generator/loss"])
        np.testing.assert_allclose(metrics["critic/b"], seen, rtol=1e-5)
        np.testing.assert_allclose(metrics["critic/c"], 7.0)
        found = [float(state.networks[name]) for name in ("a", "b", "target", "c")]
        np.testing.assert_allclose(found, [a, b, average, 7.0], rtol=1e-5)
    assert int(state.step) == 7 and int(state.failed_at) == -1


@pytest.mark.extended
def test_the_warm_up_of_an_average_counts_the_steps_of_its_player():
    """Its n-th update has the decay (1 + n) / (10 + n), though the player acts at every third step alone."""
    player = Player(_pay("a", lambda o: 0 * o["a"]), "a", optax.sgd(0.5), every=3)
    averages = {"target": Average("a", ema_lib.exponential_moving_average(0.9))}
    init, step = alternating({"generator": player}, {"a": _apply}, None, averages)
    state, step = init({"a": jnp.float32(8.0)}), jax.jit(step)
    a = average = 8.0
    for k in range(7):
        state, _ = step(state, BATCH, KEY)
        if k % 3 == 0:
            a /= 2
            decay = (1 + k // 3) / (10 + k // 3)
            average = decay * average + (1 - decay) * a
    np.testing.assert_allclose(state.networks["target"], average, rtol=1e-5)


@pytest.mark.parametrize("base", [0.5, 0.0])
def test_two_players_beside_one_base_by_hand(base):
    """The same game of (base + a) x and (base + b) x, where the teacher is 3 base x; the base stays as it is."""
    of_weights = lambda base, params, x, clock, condition: (base + params) * x
    apply = {"a": of_weights, "b": of_weights, "c": lambda base, x, clock, condition: 3 * base * x}
    players = {
        "critic": Player(_pay("b", lambda o: 2 * o["a"] + 1), "b", optax.sgd(0.1)),
        "generator": Player(_pay("a", lambda o: o["b"]), "a", optax.sgd(0.5), every=2),
    }
    averages = {"target": Average("a", ema_lib.exponential_moving_average(0.75))}
    init, step = alternating(players, apply, None, averages, base="base")
    a, b, average = 2.3, -1.0, 2.3
    state = init({"a": jnp.float32(a), "b": jnp.float32(b), "base": jnp.float32(base)})
    step = jax.jit(step)
    for k in range(4):
        state, metrics = step(state, BATCH, KEY)
        np.testing.assert_allclose(metrics["critic/c"], 3 * base)
        np.testing.assert_allclose(metrics["critic/target"], base + average, rtol=1e-5)
        b -= 0.1 * (b + base - 2 * (a + base) - 1)
        if k % 2 == 0:
            a -= 0.5 * (a - b)
            decay = (1 / 10, 2 / 11)[k // 2]  # (1 + n) / (10 + n) at the n-th step of the generator
            average = decay * average + (1 - decay) * a
        found = [float(state.networks[name]) for name in ("a", "b", "target", "base")]
        np.testing.assert_allclose(found, [a, b, average, base], rtol=1e-5)


@pytest.mark.slow
def test_a_run_of_two_players_is_that_game(as_in_use):
    """On a TrainState: the same numbers bit for bit, the model's metrics under their plain names."""
    a, b, c = (jnp.float32(value) for value in (2.3, -1.0, 7.0))
    rename = lambda game: {{"a": "model", "b": "critic", "c": "teacher"}[name]: value for name, value in game.items()}
    players = {
        "critic": Player(_pay("critic", lambda o: 2 * o["model"] + 1), "critic", optax.sgd(0.1)),
        "model": Player(_pay("model", lambda o: o["critic"]), "model", optax.sgd(0.5), every=3),
    }
    ema = ema_lib.exponential_moving_average(0.75, warmup=False)
    init, step = alternating(
        players, dict.fromkeys(("model", "critic", "teacher"), _apply), None, {"target": Average("model", ema)}
    )
    game = init(rename({"a": a, "b": b, "c": c}))
    run = state_lib.create(a, optax.sgd(0.5), ema, None, {"teacher": c}, {"critic": (b, optax.sgd(0.1))})
    step, on_run = jax.jit(step), jax.jit(as_train_step(step))
    for _ in range(5):
        game, wanted = step(game, BATCH, KEY)
        run, found = on_run(run, BATCH, KEY)
    networks = {"model": run.params, "target": run.ema, "critic": run.second_players["critic"].params, **run.frozen}
    assert toys.equal(networks, game.networks) and int(run.step) == 5
    assert toys.equal(found, {name.removeprefix("model/"): value for name, value in wanted.items()})
    assert "loss" in found and "critic/loss" in found


def test_records_that_a_batch_skips_count_once_whoever_acts():
    """Two players read one batch, and one that rests counts none."""

    def on_counts(*counts):
        names = [f"{player}/skipped" for player in ("model", "critic", "other")]
        step = lambda state, batch, key: (state, dict(zip(names, map(np.int32, counts), strict=True)))
        run = state_lib.create(jnp.float32(1), optax.sgd(0.5), ema_lib.exponential_moving_average(0.75))
        return as_train_step(step)(run._replace(second_players={}), BATCH, KEY)[1]

    assert {name: int(value) for name, value in on_counts(3, 3, 0).items()} == {"skipped": 3}
    assert int(on_counts(0, 2, 2)["skipped"]) == 2


def test_players_draw_different_keys_and_the_same_ones_again():
    drawn = []

    def objective(own):
        def draw(networks, schedule, keys, batch, step):
            noise = jax.vmap(lambda key: jax.random.normal(key, ()))(keys)
            return networks[own](batch["x"], None, None)[:, 0] ** 2, {"t": 0 * noise, "noise": noise}

        return draw

    players = {name: Player(objective(own), own, optax.sgd(0.1)) for name, own in (("first", "a"), ("second", "b"))}
    init, step = alternating(players, dict.fromkeys("ab", _apply), None)
    step = jax.jit(step)
    for _ in range(2):
        state = init({"a": jnp.float32(1.0), "b": jnp.float32(2.0)})
        for _ in range(3):
            state, metrics = step(state, BATCH, KEY)
            drawn += [float(metrics["first/noise"]), float(metrics["second/noise"])]
    assert drawn[:6] == drawn[6:] and len(set(drawn[:6])) == 6


@pytest.mark.parametrize("bad", ["critic", "generator"])
def test_a_bad_loss_of_any_player_freezes_all_of_that_step(bad):
    """The critic acts first: where the generator fails, the critic's update of that step is taken back."""
    init, step = _game()
    player = {"critic": "b", "generator": "a"}[bad]
    step = jax.jit(step)
    good = init({"a": jnp.float32(2.0), "b": jnp.float32(-1.0), "c": jnp.float32(0.0)})
    good, _ = step(good, BATCH, KEY)

    def poisoned(networks, schedule, keys, batch, step):
        losses, metrics = _pay(player, lambda o: 0.0)(networks, schedule, keys, batch, step)
        return losses + jnp.where(step >= 1, jnp.nan, 0.0), metrics

    players = {
        name: Player(poisoned if name == bad else _pay(own, lambda o: 1.0), own, optax.sgd(0.1))
        for name, own in (("critic", "b"), ("generator", "a"))
    }
    averages = {"target": Average("a", ema_lib.exponential_moving_average(0.75, warmup=False))}
    sick = jax.jit(alternating(players, dict.fromkeys("abc", _apply), None, averages).step)
    frozen, metrics = sick(good, BATCH, KEY)
    assert int(frozen.failed_at) == 1 == int(metrics["failed_at"])
    assert toys.equal(good, frozen._replace(failed_at=jnp.int32(-1)))
    assert toys.equal(frozen, step(frozen, BATCH, KEY)[0])  # and stays as it is


@pytest.mark.parametrize(
    "players, apply, averages, message",
    [
        ({}, {}, {}, "at least one player"),
        ({"p": ("a", 1), "q": ("a", 1)}, "ab", {}, "2 players"),
        ({"p": ("z", 1)}, "ab", {}, "no function to apply 'z'"),
        ({"p": ("a", 0)}, "ab", {}, "every 0 steps"),
        ({"p": ("a", 1)}, "ab", {"b": "a"}, "leave it out of apply"),
        ({"p": ("a", 1)}, "ab", {"t": "b"}, "no player trains"),
    ],
)
def test_impossible_games_are_refused(players, apply, averages, message):
    players = {
        name: Player(_pay(own, lambda o: 0.0), own, optax.sgd(0.1), every) for name, (own, every) in players.items()
    }
    averages = {name: Average(of, ema_lib.exponential_moving_average()) for name, of in averages.items()}
    with pytest.raises(ValueError, match=message):
        alternating(players, dict.fromkeys(apply, _apply), None, averages)


def test_missing_and_unknown_networks_are_refused():
    with pytest.raises(ValueError, match=r"the parameters must be those of \['a', 'b', 'c'\]"):
        _game().init({"a": jnp.float32(0.0)})


def test_the_step_of_a_run_has_its_own_player_by_its_plain_name():
    """Each part of the state reaches the player it belongs to, and comes back from there."""

    def step(now, batch, key):
        assert (batch, key) == ("batch", "key") and now.density == {"model": 5, "fake": ()}
        assert now.networks == {"model": 1, "target": 3, "teacher": 7, "fake": 10}
        assert now.opt_state == {"model": 2, "fake": 20} and (now.step, now.failed_at) == (4, -1)
        networks = {"model": 1.5, "target": 3.5, "teacher": 7, "fake": 10.5}
        after = now._replace(step=5, networks=networks, opt_state={"model": 2.5, "fake": 20.5}, failed_at=4)
        metrics = {"model/loss": 0.1, "fake/loss": 0.2, "model/skipped": np.int32(3), "fake/skipped": np.int32(0)}
        return after._replace(density={"model": 5.5, "fake": ()}), metrics

    second = {"fake": state_lib.SecondPlayer(10, 20)}
    before = state_lib.TrainState(4, 1, 2, 3, 5, -1, {"teacher": 7}, second)
    after, metrics = as_train_step(step)(before, "batch", "key")
    assert after == state_lib.TrainState(
        5, 1.5, 2.5, 3.5, 5.5, 4, {"teacher": 7}, {"fake": state_lib.SecondPlayer(10.5, 20.5)}
    )
    assert metrics == {"loss": 0.1, "fake/loss": 0.2, "skipped": 3}  # of one batch, which both have read


def test_each_player_reads_and_updates_the_density_of_its_own():
    """Which counts the steps: the objective finds the state of before the step in its batch."""
    counting = Density(
        init=lambda: jnp.int32(0),
        sample=lambda state, keys, index: (jnp.zeros(len(keys)), jnp.ones(len(keys))),
        update=lambda state, t, losses: state + 1,
    )

    def objective(own):
        def counted(networks, schedule, keys, batch, step):
            seen = batch["density"] * jnp.ones(len(keys))
            return networks[own](batch["x"], None, None)[:, 0] ** 2, {"t": 0 * seen, "seen": seen}

        return counted

    players = {
        "first": Player(objective("a"), "a", optax.sgd(0.1), density=counting),
        "second": Player(objective("b"), "b", optax.sgd(0.1), every=2, density=counting),
    }
    init, step = alternating(players, dict.fromkeys("ab", _apply), None)
    state, step = init({"a": jnp.float32(1.0), "b": jnp.float32(1.0)}), jax.jit(step)
    seen = []
    for _ in range(3):
        state, metrics = step(state, BATCH, KEY)
        seen.append((float(metrics["first/seen"]), float(metrics["second/seen"])))
    np.testing.assert_array_equal(seen, [(0, 0), (1, np.nan), (2, 1)])
    assert {name: int(count) for name, count in state.density.items()} == {"first": 3, "second": 2}

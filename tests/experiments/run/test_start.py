"""What a run starts from: whose weights go where, into the average too, and what is refused."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion.experiments.run import start
from diffusion.experiments.run.players import ENCODER, FEATURES
from diffusion.recipe import ConfigError
from diffusion.training.state import TrainState
from diffusion.training.step import HEADS

LEAF = (2,)
AVERAGE = types.SimpleNamespace(init=lambda params: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params))


def params(value):
    return {"a": jnp.full(LEAF, value, jnp.float32), "b": jnp.full((3,), value, jnp.float32)}


def fields(**changes):
    empty = {name: None for name in TrainState._fields}
    state = {"step": jnp.int32(0), "params": params(0.0), "ema": params(0.0), "frozen": None, "unsaved": None}
    return TrainState(**{**empty, **state, **changes})


@pytest.fixture
def source(monkeypatch):
    """A file's leaves by their names; the tests change them."""
    leaves = {"a": np.full(LEAF, 7.0, np.float32), "b": np.full((3,), 8.0, np.float32)}
    asked = []
    monkeypatch.setattr(start.warm_start, "read", lambda path: asked.append(path) or dict(leaves))
    return leaves, asked


def test_another_run_s_weights_begin_the_average_too(source, capsys):
    leaves, asked = source
    leaves["c"] = np.zeros(1)
    init = ConfigDict({"path": "runs/a", "include": "a"})
    state = start._from_weights(init, fields(params=params(1.0)), AVERAGE)
    for tree in (state.params, state.ema):
        np.testing.assert_array_equal(tree["a"], [7, 7])
        np.testing.assert_array_equal(tree["b"], [1, 1, 1])
    assert asked == ["runs/a"]
    said = capsys.readouterr().out
    assert "init_from runs/a: took 1 leaves, skipped 2" in said and said.count("  skipped ") == 2


def test_a_new_average_lies_where_the_former_one_lay():
    """On the mesh of the run, although the new parameters lie on a single device."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    laid_out = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    ema = jax.device_put({"a": jnp.zeros(2)}, laid_out)
    state = start._from_parameters({"a": jnp.ones(2)}, fields(ema=ema), AVERAGE)
    np.testing.assert_array_equal(state.ema["a"], [1, 1])
    assert state.ema["a"].sharding == laid_out


def test_weights_that_are_not_there_are_said(monkeypatch):
    def gone(path):
        raise FileNotFoundError(f"no {path}")

    monkeypatch.setattr(start.warm_start, "read", gone)
    with pytest.raises(ConfigError, match=r"config\.init_from: no runs/a"):
        start._from_weights(ConfigDict({"path": "runs/a", "include": ".*"}), fields(), AVERAGE)
    for section in ("encoder", "perceptual"):
        with pytest.raises(ConfigError, match=rf"config\.{section}\.path = 'f': no f"):
            start.encoder_features.read_frozen(section, "f", params(0.0))


def test_a_frozen_network_is_its_file_or_refused(source):
    leaves, _ = source
    loaded, held = start.encoder_features.read_frozen("encoder", "f", params(0.0))
    np.testing.assert_array_equal(loaded["a"], [7, 7])
    assert held.keys() == {"a", "b"}
    for section, what in (("encoder", "encoder"), ("perceptual", "network")):
        leaves["a"] = np.zeros(5, np.float32)
        with pytest.raises(ConfigError, match=rf"config\.{section}\.path = 'f' holds another {what}: .*a"):
            start.encoder_features.read_frozen(section, "f", params(0.0))


# ==== The encoder ====


def program(encoder=True, value=3.0):
    target = fields(unsaved={ENCODER: params(0.0)} if encoder else None)
    init = lambda seed, *rest: fields(unsaved={ENCODER: params(value)})
    return types.SimpleNamespace(target=target, init=init, seed=0)


def config_of(path=""):
    return types.SimpleNamespace(encoder=types.SimpleNamespace(path=path))


def test_a_run_without_an_encoder_has_none():
    assert start._encoder(config_of(), program(encoder=False)) == (None, None)


def test_the_encoder_s_file_is_known_by_its_weights(source):
    leaves, _ = source
    unsaved, file = start._encoder(config_of("E"), program())
    np.testing.assert_array_equal(unsaved[ENCODER]["b"], [8, 8, 8])
    assert file["path"] == "E" and len(file["sha256"]) == 64
    state, again = start.with_encoder(config_of("E"), program(), fields(), file)
    assert again == file and state.unsaved[ENCODER]["a"][0] == 7
    assert start.with_encoder(config_of("E"), program(), fields(), None)[1] == file  # not known before
    leaves["a"] = leaves["a"] + 1
    with pytest.raises(ConfigError, match=r"holds another encoder.*it was [0-9a-f]{12} from E\. Valid: the same"):
        start.with_encoder(config_of("E"), program(), fields(), file)


def test_a_checkpoint_that_holds_the_encoder_holds_the_same(source):
    held = {ENCODER: {"a": jnp.full(LEAF, 7.0), "b": jnp.full((3,), 8.0)}}
    state, _ = start.with_encoder(config_of("E"), program(), fields(unsaved=held), None)
    assert state.unsaved is not held
    held[ENCODER]["b"] = jnp.array([8.0, 8.0, 9.0])
    with pytest.raises(ConfigError, match="differs from the encoder in the run's checkpoint"):
        start.with_encoder(config_of("E"), program(), fields(unsaved=held), None)


def test_initial_weights_of_an_encoder_are_known_too(monkeypatch):
    made = {ENCODER: params(3.0)}
    monkeypatch.setattr(start.sharding, "create", lambda make, target, seed: make(seed))
    unsaved, file = start._encoder(config_of(), program())
    np.testing.assert_array_equal(unsaved[ENCODER]["a"], made[ENCODER]["a"])
    assert file["path"] == "" and len(file["sha256"]) == 64
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert start._encoder(config_of(), program())[1] is None  # no process has them all


# ==== The teacher ====


@pytest.fixture
def teacher(tmp_path, monkeypatch, source):
    """(config, the teacher's config): a run folder, and a student's config that fits it."""
    theirs = {"schedule": {"name": "vp"}, "parameterization": {"name": "v"}, "model": {"name": "DiT"}}
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    monkeypatch.setattr(start.versions, "read", json.loads)
    config = ConfigDict(
        {"teacher": {"path": str(tmp_path), "parameterization": {"name": "v"}}, "schedule": {"name": "vp"},
         "model": {"name": "DiT"}, "second_player": {"network": {"name": ""}}}
    )  # fmt: skip
    return config, lambda **changes: (tmp_path / "config.json").write_text(json.dumps(theirs | changes))


class Player(types.SimpleNamespace):
    def _replace(self, **changes):
        return Player(**{**vars(self), **changes})


def test_the_teacher_and_the_second_player_are_the_teacher_s_average(teacher, source):
    leaves, _ = source
    leaves[f"{HEADS}/projector"] = np.zeros(2)  # trained beside the teacher, and teaches nothing
    frozen = {"teacher": params(0.0), "features": params(5.0)}
    state = fields(frozen=frozen, second_players={"judge": Player(params=params(0.0), optimizer="kept")})
    state = start._with_teacher(teacher[0], state)
    for tree in (state.frozen["teacher"], state.second_players["judge"].params):
        np.testing.assert_array_equal(tree["a"], [7, 7])
        np.testing.assert_array_equal(tree["b"], [8, 8, 8])
    assert state.second_players["judge"].optimizer == "kept" and state.frozen["features"]["a"][0] == 5
    alone = start._with_teacher(teacher[0], fields())
    assert alone.frozen is None and alone.second_players is None


@pytest.mark.parametrize("field", ["schedule", "parameterization", "model"])
def test_a_teacher_of_another_kind_is_refused(teacher, field):
    config, rewrite = teacher
    rewrite(**{field: {"name": "other"}})
    own = "config.teacher.parameterization is" if field == "parameterization" else "this run has"
    with pytest.raises(ConfigError, match=rf"the teacher's config\.{field} is .*other.*, but {own}"):
        start._with_teacher(config, fields(frozen={"teacher": params(0.0)}))


@pytest.mark.parametrize("explicit", [{}, {"causal": 0}])
def test_a_causal_student_may_have_a_teacher_that_is_not(teacher, explicit):
    """Where the teacher's module says so; a causal teacher, or another network, is refused all the same."""
    config, rewrite = teacher
    config.model.causal = 4
    run = lambda causal: start._with_teacher(
        config, fields(frozen={"teacher": params(0.0)}), types.SimpleNamespace(causal=causal)
    )
    rewrite(model={"name": "DiT", **explicit})
    np.testing.assert_array_equal(run(0).frozen["teacher"]["a"], [7, 7])
    with pytest.raises(ConfigError, match=r"config\.model is .*this run has .*'causal': 4"):
        run(4)
    for other in ({"causal": 4}, {"width": 9, **explicit}):
        rewrite(model={"name": "DiT", **other})
        with pytest.raises(ConfigError, match=r"config\.model is "):
            run(0)


def test_only_runs_of_one_kind_are_compared(teacher, monkeypatch):
    """A run that Python built has no names to compare with; its weights must fit all the same."""
    config, rewrite = teacher
    rewrite(schedule={"name": "other"})
    monkeypatch.setattr(start, "built_in_python", lambda one: one is config)
    start._with_teacher(config, fields(frozen={"teacher": params(0.0)}))


def test_a_teacher_that_does_not_fit_is_refused(teacher, source):
    source[0]["b"] = np.zeros(9, np.float32)
    with pytest.raises(ConfigError, match=r"config\.teacher\.path = .* does not fit: .*b"):
        start._with_teacher(teacher[0], fields(frozen={"teacher": params(0.0)}))


# ==== All of it ====


def paths(**given):
    sections = ("perceptual", "autoencoder", "init_from", "teacher", "encoder")
    return ConfigDict({name: {"path": given.get(name, ""), "include": ".*"} for name in sections})


@pytest.fixture
def parts(monkeypatch):
    """The parts of `first_state`, which say that they were called."""
    calls = []
    monkeypatch.setattr(start.checkpoints, "restore_latest", lambda folder, target: None)
    monkeypatch.setattr(start.examples, "require_same", lambda config, before, now: calls.append(("data", before, now)))
    monkeypatch.setattr(start.sharding, "create", lambda init, target, seed: init(seed))
    monkeypatch.setattr(start, "_encoder", lambda config, program: (None, None))
    read = lambda section, path, target: (("read", section, path, target), None)
    monkeypatch.setattr(start.encoder_features, "read_frozen", read)
    said = lambda name: (
        lambda *rest: calls.append((name, rest[0])) or next(x for x in rest if isinstance(x, TrainState))
    )
    for name in ("_with_autoencoder", "_from_weights", "_with_teacher"):
        monkeypatch.setattr(start, name, said(name))
    made = types.SimpleNamespace(tuned=None, teacher=None, target="target", seed=0, average=AVERAGE)
    made.init = lambda seed: fields(frozen={FEATURES: "initial", "other": "kept"})
    return calls, made


def test_a_new_run_takes_what_its_config_names_and_nothing_else(parts):
    calls, program = parts
    state, began = start.first_state(paths(), "run", program, {"of": "data"})
    assert calls == [("data", None, {"of": "data"})] and state.frozen[FEATURES] == "initial"
    assert (began.step, began.examples, began.resumed, began.best, began.fingerprint) == (
        0,
        0,
        False,
        None,
        {"of": "data"},
    )
    every = paths(perceptual="P", autoencoder="A", init_from="I", teacher="T")
    calls.clear()
    state, _ = start.first_state(every, "run", program, {})
    assert [call[0] for call in calls[1:]] == ["_with_autoencoder", "_from_weights", "_with_teacher"]
    assert calls[1][1] == "A"
    assert state.frozen == {FEATURES: ("read", "perceptual", "P", "initial"), "other": "kept"}


def test_a_run_goes_on_from_its_latest_checkpoint(parts, monkeypatch):
    calls, program = parts
    about = {
        "examples": 40,
        "interval": {"loss": 1},
        "data": "before",
        "best": {"step": 3},
        "stream": {"at": 1},
        "order": 2,
    }
    monkeypatch.setattr(start.checkpoints, "restore_latest", lambda folder, target: (fields(step=jnp.int32(5)), about))
    _, began = start.first_state(paths(init_from="I", teacher="T"), "run", program, {"of": "data"})
    assert calls == [("data", "before", {"of": "data"})]  # nothing is read again
    assert began == start.Start(5, 40, {"loss": 1}, {"of": "data"}, {"step": 3}, True, {"at": 1}, 2, None, None)
    del about["order"]
    assert start.first_state(paths(), "run", program, {})[1].order == 1  # of checkpoints of before


@pytest.mark.parametrize("path", ["", "I"])
def test_a_tuned_base_may_begin_with_weights(parts, monkeypatch, path):
    calls, program = parts
    program.tuned = "a base and its tuning"
    monkeypatch.setattr(start.tuned_base, "first", lambda program: (fields(step=jnp.int32(0)), {"path": "B"}))
    _, began = start.first_state(paths(init_from=path), "run", program, {})
    assert [name for name, *_ in calls] == ["data", *["_from_weights"] * bool(path)]
    assert began.base == {"path": "B"} and began.step == began.examples == 0 and not began.resumed

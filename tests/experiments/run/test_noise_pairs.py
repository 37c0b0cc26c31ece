"""Pairs of a teacher: which condition and which noise each has, in which file, and what an interrupted run makes."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.data.sources.spec import DataSpec
from diffusion.experiments.run import noise_pairs
from diffusion.experiments.run.examples import Examples
from diffusion.recipe import ConfigError
from diffusion.recipe.sections import sectioned
from diffusion.training import sharding

SHAPE = (2,)
SEED = 5


class Labels:
    """Five records, whose labels are their rows."""

    where = "memory"

    def __init__(self):
        self.spec = DataSpec("labels", "train", SHAPE, 5, 5, dtype="float32")

    def __len__(self):
        return 5

    def __getitem__(self, row):
        return {"x": np.full(SHAPE, -1.0, np.float32), "label": int(row)}


class Network:
    """What predicts the clean example to be the label, whatever it sees."""

    times, strength = 1, False

    def apply(self, params, x, clock, condition):
        return params * jnp.broadcast_to(condition[:, None], x.shape).astype(x.dtype)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """(paired, made): pairs of a teacher whose flow ends in the label, and the calls that make them."""
    monkeypatch.setattr(noise_pairs, "FILE", 4)
    made = []
    schedule = schedules.rectified_flow()
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    teacher = types.SimpleNamespace(
        pairs=10, pair_steps=2, scale=1.0, parameterization=parameterizations.x0(), pair_sampler=samplers.ddim()
    )
    config = {"seed": SEED, "sample": {"shift": 1.0}, "teacher": {"path": str(tmp_path / "teacher")},
              "train": {"batch_size": 2}}  # fmt: skip
    null = np.zeros((), np.int32)
    parts = {"config": config, "teacher": teacher, "shape": SHAPE, "schedule": schedule, "null": null}
    recipe = types.SimpleNamespace(network=Network(), **sectioned(parts))
    monkeypatch.setattr(
        noise_pairs, "_teacher", lambda config, folder, mesh: folder.mkdir(exist_ok=True) or jnp.ones(())
    )
    original = noise_pairs._make
    monkeypatch.setattr(
        noise_pairs, "_make", lambda *rest: made.append([len(rows) for rows in rest[4]]) or original(*rest)
    )
    source = Labels()
    data = Examples(source, source.spec, ())
    return lambda: noise_pairs.paired(recipe, tmp_path, data, mesh), made, tmp_path / "pairs"


def test_a_pair_is_the_sample_of_its_condition_and_its_own_noise(run):
    """Pair i has the label i mod 5, and noise of the seed and of i alone."""
    paired, made, folder = run
    opened = paired()
    pairs = opened.stored.source
    assert len(pairs) == 10 and made == [[4, 4, 2]]
    assert sorted(path.name for path in folder.glob("*.npy")) == ["00000000.npy", "00000004.npy", "00000008.npy"]
    records = [pairs[row] for row in range(10)]
    assert [record["label"] for record in records] == [0, 1, 2, 3, 4] * 2
    samples, noise = np.stack([record["x"] for record in records]).swapaxes(0, 1)
    np.testing.assert_allclose(samples, np.array([0, 1, 2, 3, 4] * 2)[:, None] * np.ones(2), atol=1e-6)
    assert len(np.unique(noise)) == 20 and abs(noise.mean()) < 1 and 0.4 < noise.std() < 1.6
    spec = opened.stored.spec
    assert spec.shape == (2, *SHAPE) and spec.dtype == "float32" and opened.sizes == ()


def test_pairs_that_are_not_finite_are_refused_and_not_kept(run, monkeypatch):
    """The training ended at the step that drew one, and again at the next start."""
    paired, _, folder = run
    apply = Network.apply
    lost = lambda self, params, x, clock, condition: jnp.where(
        condition[:, None] == 1, jnp.nan, apply(self, params, x, clock, condition)
    )
    monkeypatch.setattr(Network, "apply", lost)
    with pytest.raises(ConfigError, match=r"1 of the pairs 0 to 3 .* first is pair 1\. .*pairs\.steps = 2.*scale = 1"):
        paired()
    assert not list(folder.glob("*.npy"))


def test_an_interrupted_run_goes_on_where_it_was(run):
    paired, made, folder = run
    paired()
    before = {path.name: path.read_bytes() for path in folder.glob("*.npy")}
    (folder / "00000004.npy").unlink()
    (folder / "00000008.npy").write_bytes(before["00000008.npy"][:50])
    paired()
    assert {path.name: path.read_bytes() for path in folder.glob("*.npy")} == before
    assert made == [[4, 4, 2], [4, 2]]
    paired()
    assert len(made) == 2


def test_every_process_makes_the_files_that_process_0_lacks(run, monkeypatch):
    """All make a file together, so that one that sees the file already must take part."""
    paired, made, _ = run
    paired()
    monkeypatch.setattr(noise_pairs.agreement, "gather", lambda about, text: ["[4]", text])
    paired()
    assert made == [[4, 4, 2], [4]]


def test_files_of_another_form_are_made_again(run, tmp_path):
    _, _, folder = run
    folder.mkdir()
    good = np.zeros((4, 2, 2), np.float32)
    for content, sound in ((good, True), (good[:3], False), (good[:, :1], False), (good.astype(float), False)):
        np.save(folder / "00000000.npy", content)
        assert (noise_pairs._read(folder, range(4), SHAPE) is not None) == sound


def test_batches_have_samples_and_their_noise(run):
    opened = run[0]()
    batch = next(
        opened.batches({"seed": 0, "train": {"batch_size": 6}, "data": {"damaged": "stop"}}, 0, np.arange(6), 0)
    )
    records = [opened.stored.source[row] for row in range(10)]
    for x, noise, label in zip(batch["x"], batch["noise"], batch["label"]):
        (row,) = (i for i, record in enumerate(records) if np.array_equal(record["x"][1], noise))
        np.testing.assert_array_equal(records[row]["x"][0], x)
        assert records[row]["label"] == label


def test_the_steps_of_the_teacher_are_shifted_as_those_of_its_samples(run, monkeypatch):
    seen = []
    monkeypatch.setattr(timesteps, "shift", lambda schedule, grid, by: seen.append((len(grid), by)) or grid)
    run[0]()
    assert seen == [(3, 1.0)]


# ==== The teacher ====


@pytest.fixture
def teacher(monkeypatch, tmp_path):
    """A teacher's run, whose latest checkpoint can change."""
    state = {"step": 7, "leaves": {"a": "1"}, "sample": {"shift": 1.0}}

    def load_ema(path, step):
        state["asked"] = (path, step)
        return {"w": np.ones(2)}, step or state["step"]

    monkeypatch.setattr(noise_pairs.checkpoints, "load_ema", load_ema)
    monkeypatch.setattr(
        noise_pairs.checkpoints, "read_about", lambda path, step: {"leaves": state["leaves"], "step": step}
    )
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    config = {"teacher": {"path": str(tmp_path / "teacher")}, "sample": state["sample"]}
    return lambda: noise_pairs._teacher(config, tmp_path / "pairs", mesh), state, tmp_path


def test_the_first_pairs_say_by_which_checkpoint_they_were_made(teacher):
    load, state, folder = teacher
    params = load()
    np.testing.assert_array_equal(params["w"], np.ones(2))
    assert state["asked"] == (folder / "teacher", None)
    record = json.loads((folder / "pairs" / "teacher.json").read_text())
    assert record["step"] == 7 and len(record["sha256"]) == 64
    state["step"] = 9  # the teacher has trained on: the pairs go on by the first one
    load()
    assert state["asked"][1] == 7
    assert json.loads((folder / "pairs" / "teacher.json").read_text()) == record


def test_another_teacher_is_refused(teacher):
    load, state, _ = teacher
    load()
    state["leaves"] = {"a": "2"}
    with pytest.raises(ConfigError, match="holds another run than the teacher that made the first pairs"):
        load()


def test_an_interrupted_run_does_not_go_on_with_pairs_of_another_shift(teacher):
    """A run may change config.sample.*, and its later pairs were then made with other times than the first."""
    load, state, folder = teacher
    load()
    state["sample"]["shift"] = 3.0
    with pytest.raises(
        ConfigError, match=r"config\.sample\.shift = 3, but the first pairs in .* were made with 1\. Valid"
    ):
        load()
    path = folder / "pairs" / "teacher.json"
    earlier = json.loads(path.read_text())
    path.write_text(json.dumps({name: earlier[name] for name in ("step", "sha256")}))  # an earlier version's file
    load()

"""Runs on streams: what each kind of iterable promises, and that a run which goes on is the undisturbed one."""

import gc
import itertools
import json
import threading
import types

import grain
import jax
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.data import pipeline
from diffusion.data.sources import DamagedRecord, python_objects
from diffusion.data.sources.iterated import Iterated
from diffusion.data.stream_batches import StreamBatches
from diffusion.experiments.run.examples import open_examples
from diffusion.experiments.sampling.run_samples import sample
from diffusion.experiments.train import run, train
from diffusion.models import MODELS
from diffusion.recipe import ConfigError
from diffusion.recipe.defaults import defaults
from diffusion.recipe.recipe import Recipe
from diffusion.training.checkpointing import checkpoints
from tests import shared_programs
from tests.data.sources import hugging_face, stored

LINE = schedules.rectified_flow()
FLOW = objectives.flow_matching(timesteps.uniform_density(LINE))
SETTINGS = {
    "train.steps": 5, "train.batch_size": 4, "train.log_every": 1, "checkpoint.every": 5, "data.threads": 2,
    "sample.steps": 2, "sample.number": 3, "sample.batch_size": 3,
}  # fmt: skip
NUMBER = 11  # records of a pass, which batches of 4 do not divide


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """They differ in their streams, and in where they stop."""
    with shared_programs.traced_once("data", "checkpoint", "train.steps"):
        yield


def record(i):
    return {"x": np.float32([np.cos(i), np.sin(i)])}


class Again:
    """An iterable that begins anew at each `iter`."""

    def __iter__(self):
        return map(record, range(NUMBER))


class Numbers:
    def __repr__(self):  # by which Grain knows the data again
        return "numbers"

    def __len__(self):
        return NUMBER

    def __getitem__(self, i):
        return record(int(i))


def loader():
    sampler = grain.samplers.IndexSampler(NUMBER, shuffle=True, seed=3, num_epochs=1)
    return grain.DataLoader(data_source=Numbers(), sampler=sampler, worker_count=0)


STREAMS = {
    "iterable": (Again, "skip"),
    "function": (lambda: lambda: map(record, range(NUMBER)), "skip"),
    "grain": (lambda: grain.MapDataset.range(NUMBER).shuffle(seed=3).map(record).to_iter_dataset(), "state"),
    "grain_iterator": (lambda: iter(grain.MapDataset.range(100).map(record).to_iter_dataset()), "state"),
    "grain_loader": (loader, "state"),
    "huggingface": (lambda: hugging_face.points(NUMBER), "state"),
    "huggingface_shuffled": (lambda: hugging_face.points(NUMBER, buffer=4), "skip"),
}


def recipe(data, steps=5, **settings):
    network = MODELS["mlp"](width=8, depth=1)
    return Recipe(LINE, FLOW, network, data, config=SETTINGS | {"train.steps": steps} | settings)


def taken(data, number, **options):
    batches = StreamBatches(data, seed=0, batch_size=4, **options)
    found = [next(batches) for _ in range(number)]
    batches.close()
    return found, batches


@pytest.mark.extended
@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("name", STREAMS)
def test_batches_from_a_state_on_are_those_of_the_undisturbed_stream(name, threads):
    make, resume = STREAMS[name]
    stream = python_objects.source_of(make())
    assert stream.resume == resume and stream.spec.size == -1 and stream.spec.shape == (2,)
    whole, _ = taken(stream, 8, threads=threads)
    np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in whole]), np.arange(32))
    for stop in (1, 3, 5):
        _, batches = taken(python_objects.source_of(make()), stop, threads=threads)
        state = json.loads(json.dumps(batches.state))
        rest, batches = taken(python_objects.source_of(make()), 8 - stop, threads=threads, start=4 * stop, state=state)
        assert (batches.read_again > 0) == (resume == "skip")
        for ours, theirs in zip(rest, whole[stop:], strict=True):
            np.testing.assert_array_equal(ours["x"], theirs["x"])
            np.testing.assert_array_equal(ours["index"], theirs["index"])


def test_a_pass_has_every_record_and_the_next_pass_begins_anew():
    found, _ = taken(Iterated(Again()), 6)
    expected = [record(i % NUMBER)["x"] for i in range(24)]
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in found]), expected)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_the_rows_of_each_batch(processes):
    """Together they read what one reads, and a position of one holds for all."""
    whole, _ = taken(Iterated(Again()), 5)
    rows = np.arange(4).reshape(processes, -1)
    parts = [taken(Iterated(Again()), 5, positions=mine) for mine in rows]
    for k, batch in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([found[k]["x"] for found, _ in parts]), batch["x"])
    states = [batches.state for _, batches in parts]
    assert all(state == states[0] for state in states)


def test_augmentation_draws_belong_to_the_index():
    noise = lambda rng, x: x + rng.normal(size=x.shape).astype(np.float32)
    found, _ = taken(Iterated(Again()), 2, augment=(noise,))
    rngs = pipeline.rngs_of(0, np.arange(8), 0)
    expected = [record(i)["x"] + rng.normal(size=2).astype(np.float32) for i, rng in enumerate(rngs)]
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in found]), expected)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["function", "grain", pytest.param("huggingface", marks=pytest.mark.slow)])
def test_a_run_that_goes_on_is_the_undisturbed_one(tmp_path, name, capsys, compilation_cache):
    make, resume = STREAMS[name]
    assert train(recipe(make(), steps=3), tmp_path / "parts") == 0
    capsys.readouterr()
    assert train(recipe(make()), tmp_path / "parts") == 0
    said = capsys.readouterr().out
    assert train(recipe(make()), tmp_path / "whole") == 0
    both = [checkpoints.load_ema(tmp_path / folder, 5)[0] for folder in ("parts", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *both)
    texts = [(tmp_path / folder / "metrics.jsonl").read_text() for folder in ("parts", "whole")]
    assert texts[0] == texts[1]
    assert "a stream of examples, 2 numbers each, in" in said
    assert "the data are a stream: a resumed run continues exactly" in said
    assert ("read again 1 records of the stream" in said) == (resume == "skip")  # 12 = 11 + 1
    rows = [json.loads(line) for line in (tmp_path / "parts/stream.jsonl").read_text().splitlines()]
    assert [(row["step"], row["resume"]) for row in rows] == [(0, resume), (3, resume)]
    if name == "function":
        assert sample(recipe(make()), tmp_path / "whole").shape == (3, 2)


@pytest.mark.extended
def test_a_generator_begins_anew_and_the_run_says_so(tmp_path, capsys, compilation_cache):
    records = (record(i) for i in range(40))
    assert train(recipe(records, steps=2), tmp_path) == 0
    assert "begins the stream again, so no step can be repeated exactly" in capsys.readouterr().out
    assert train(recipe((record(i) for i in range(40)), steps=3), tmp_path) == 0
    assert "WARNING: the stream starts over at step 2" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "stream.jsonl").read_text().splitlines()]
    assert [(row["step"], row["resume"]) for row in rows] == [(0, "anew"), (2, "anew")]
    with pytest.raises(ValueError, match="generator has ended, and yields nothing on its second pass"):
        train(recipe((record(i) for i in range(6)), **{"checkpoint.every": 1}), tmp_path / "short")
    assert checkpoints.latest(tmp_path / "short") == 1


def test_another_stream_is_refused_when_a_run_goes_on():
    """Its first records are as they were, and the one where the run stopped is not."""
    _, batches = taken(Iterated(Again()), 2)
    late = Iterated(lambda: (record(i if i < 7 else i + 50) for i in range(NUMBER)))
    with pytest.raises(ValueError, match=r"is not the stream that the run was trained on: its record 7 differs"):
        taken(late, 1, state=batches.state)
    with pytest.raises(ValueError, match="now ends after 7 records; the run had 8"):
        taken(Iterated(lambda: map(record, range(7))), 1, state=batches.state)
    assert Iterated(Again()).fingerprint() != Iterated(lambda: map(record, range(1, 9))).fingerprint()


def test_what_is_never_the_same_begins_anew():
    rng = np.random.default_rng(0)
    stream = Iterated(lambda: ({"x": rng.normal(size=2).astype(np.float32)} for _ in range(20)))
    assert stream.resume == "anew" and "sha256" not in stream.fingerprint()


class Strange:
    """An iterator whose state JSON cannot hold."""

    def __iter__(self):
        return self

    def __next__(self):
        return record(0)

    def get_state(self):
        return {"rng": object()}

    def set_state(self, state):
        pass


@pytest.mark.parametrize(
    "data, words",
    [
        (lambda: iter(()), "yields no records: there is nothing to train on"),
        (lambda: itertools.count(), "a record of the data is an int. Valid: a mapping"),
        (lambda: 7, "the data is an int. Valid: a source, a sequence of records, or an iterable"),
        (lambda: Strange(), "the stream's state cannot be saved: Object of type object is not JSON"),
    ],
)
def test_what_is_no_stream_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        taken(python_objects.source_of(data()), 1)


def test_a_damaged_record_is_left_out_alike_on_any_number_of_processes():
    """The next sound record of its batch takes its place, whichever process decodes it."""
    records = lambda: (record(i) if i not in (3, 4, 8) else {"x": np.zeros(3, np.float32)} for i in range(NUMBER))
    with pytest.raises(DamagedRecord, match=r"<lambda>, record 3 cannot be used: its example has the shape \(3,\)"):
        taken(Iterated(records), 1)
    with pytest.warns(UserWarning, match="left out: .* record [348] cannot be used"):
        whole, _ = taken(Iterated(records), 3, damaged="skip", threads=0)
        parts = [taken(Iterated(records), 3, damaged="skip", positions=mine, threads=0)[0] for mine in ([0, 3], [1, 2])]
    expected = [0, 1, 2, 0, 5, 5, 6, 7, 9, 9, 10, 0]
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in whole]), [record(i)["x"] for i in expected])
    assert np.concatenate([b["skipped"] for b in whole]).tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0]
    for k, batch in enumerate(whole):
        np.testing.assert_array_equal(parts[0][k]["x"], batch["x"][[0, 3]])
        np.testing.assert_array_equal(parts[1][k]["skipped"], batch["skipped"][[1, 2]])
    lost = lambda: (record(i) if i < 4 else {"x": np.zeros(3, np.float32)} for i in range(NUMBER))
    with pytest.warns(UserWarning), pytest.raises(DamagedRecord, match="all 4 records of a batch are damaged"):
        taken(Iterated(lost), 2, damaged="skip", threads=0)


def test_what_needs_numbered_records_is_refused(tmp_path):
    made = recipe(Again(), **{"data.buckets.area": 16})
    with pytest.raises(
        ConfigError, match=r"Again is a stream, but this run needs the sizes of all pictures.*random access"
    ):
        train(made, tmp_path)


def test_what_differs_between_passes_is_refused_on_several_processes(monkeypatch):
    """Each process reads all of the stream, so that it has to be the same on all."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="needs the same records on all of its processes, which this stream does not"):
        open_examples(recipe(record(i) for i in range(40)))
    assert open_examples(recipe(Again())).spec.size == -1


def test_an_error_of_the_stream_ends_the_run_at_its_last_record():
    def broken():
        yield from map(record, range(9))
        raise OSError("the socket is closed")

    batches = StreamBatches(Iterated(broken), seed=0, batch_size=4, threads=3)
    next(batches), next(batches)
    with pytest.raises(OSError, match="the socket is closed"):
        next(batches)
    assert batches.state["read"] == 8


@pytest.mark.slow
def test_a_run_on_shards_from_a_config_goes_on_bit_for_bit(tmp_path, capsys, compilation_cache):
    source = stored.tar_shards(tmp_path / "data") | {"name": "tar_stream", "classes": stored.NAMES, "window": 3}

    def config(steps):
        made = defaults()
        made.data.source = source
        made.model = {"name": "dit", "patch": 2, "width": 8, "depth": 1, "heads": 2, "num_classes": 2}
        made.update_from_flattened_dict(SETTINGS | {"train.steps": steps})
        return made

    assert run(config(2), tmp_path / "parts") == 0
    assert run(config(4), tmp_path / "parts") == 0
    assert run(config(4), tmp_path / "whole") == 0
    both = [checkpoints.load_ema(tmp_path / folder, 4)[0] for folder in ("parts", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *both)
    assert "data (train): a stream of pictures of 2 classes (cat, dog), 4 x 4 x 3, in" in capsys.readouterr().out


@pytest.mark.extended
@pytest.mark.parametrize("abandoned", [False, True])
def test_closing_ends_the_wait_for_a_step_that_a_pool_has_dropped(abandoned, monkeypatch):
    """A pool that closes may drop step 0 while a thread begins step 1, which then waits for it."""
    reads = []
    unread = types.SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(pipeline, "iterate", lambda steps, read, threads: reads.append(read) or unread)
    batches = StreamBatches(Iterated(Again()), seed=0, batch_size=4)
    errors = []

    def read():
        try:
            reads[0](1)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    if abandoned:
        del batches
        gc.collect()
    else:
        batches.close()
    thread.join(timeout=60)
    assert errors == ["the batches are closed"]

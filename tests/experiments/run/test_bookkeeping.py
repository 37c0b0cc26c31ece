"""The records of a run: where the stream was at a failed step, and which figures compare with each other."""

import collections
import json
import types

import pytest

from configs import digits
from diffusion.data.stream_batches import StreamBatches
from diffusion.experiments.run import bookkeeping


def test_a_failed_step_is_stored_with_the_position_of_the_stream_before_it(tmp_path, monkeypatch):
    """The run has read two steps further by the time that it learns of the failure."""
    kept, lines = [], []
    monkeypatch.setattr(bookkeeping.failure, "keep", lambda folder, state, about: kept.append(about) or folder)
    monkeypatch.setattr(bookkeeping.failure, "message", lambda *_: "step 7 failed")
    run = types.SimpleNamespace(
        _folder=tmp_path,
        _config={"train": {"steps": 9}, "schedule": {"name": "cosine"}},
        _saver=types.SimpleNamespace(wait=lambda: None),
        display=types.SimpleNamespace(say=lines.append),
        _origin=lambda step: {"examples": 4 * step},
        _stream=types.SimpleNamespace(state={"read": 36}),
        _streams=collections.deque([(6, {"read": 24}), (7, {"read": 28}), (8, {"read": 32}), (9, {"read": 36})]),
    )
    assert bookkeeping.Bookkeeping.failed(run, 7, None) == 1
    assert kept == [{"examples": 28, "stream": {"read": 28}}] and lines[0] == "step 7 failed"
    run._stream = None
    bookkeeping.Bookkeeping.failed(run, 7, None)
    assert kept[1] == {"examples": 28}


def test_how_a_stream_goes_on_is_printed_and_noted_at_each_start(tmp_path):
    batches = object.__new__(StreamBatches)
    batches.stream = types.SimpleNamespace(name="numbers", resume="skip", promise="it is read again", repeatable=True)
    batches.state, batches.read_again = {"read": 12}, 12
    lines = []
    run = types.SimpleNamespace(
        _start=types.SimpleNamespace(step=3, resumed=True),
        _streams=collections.deque(),
        _config=types.SimpleNamespace(evaluate=types.SimpleNamespace(every=0)),
        _speaks=True,
        _folder=tmp_path,
        display=types.SimpleNamespace(say=lines.append),
    )
    (tmp_path / "stream.jsonl").write_text('{"step": 0, "str')  # torn by a crash of the machine
    bookkeeping.Bookkeeping.reads(run, batches)
    (row,) = map(json.loads, (tmp_path / "stream.jsonl").read_text().splitlines())
    assert row == {"step": 3, "stream": "numbers", "resume": "skip", "read_again": 12}
    assert lines[0] == "the data are a stream: it is read again" and "read again 12 records" in lines[1]
    assert run._stream is batches and list(run._streams) == [(3, {"read": 12})]


def test_the_least_held_out_loss_is_of_one_split_and_number_of_draws():
    """Settings of samples do not matter to it, nor how often it is measured."""

    def protocol(best="held_out_loss", **changes):
        config = digits.get_config("tiny")
        config.update_from_flattened_dict({"checkpoint.best": best, **changes})
        return bookkeeping._protocol(config)

    first = protocol()
    assert first == protocol(**{"sample.steps": 3, "evaluate.number": 9, "evaluate.loss.every": 7})
    others = protocol(**{"evaluate.split": "validation"}), protocol(**{"evaluate.loss.number": 50})
    assert len({first, *others}) == 3
    figure = protocol("fd_pixels")
    assert figure == protocol("fd_pixels", **{"evaluate.every": 7, "evaluate.loss.number": 50})
    others = protocol("fd_pixels", **{"sample.steps": 3}), protocol("fd_pixels", **{"evaluate.number": 9})
    assert len({figure, *others}) == 3


@pytest.mark.parametrize("processes, saves", [(1, [("save", 7, "state"), ("wait",)]), (2, [])])
def test_a_run_of_one_process_is_saved_before_its_data_fail(monkeypatch, processes, saves):
    """Of several processes one alone may have failed, and a save needs all of them."""
    calls = []
    monkeypatch.setattr(bookkeeping.jax, "process_count", lambda: processes)
    saver = types.SimpleNamespace(wait=lambda: calls.append(("wait",)))
    run = types.SimpleNamespace(save=lambda step, state: calls.append(("save", step, state)), _saver=saver)
    bookkeeping.Bookkeeping.save_before_data_fails(run, 7, "state")
    assert calls == saves


def test_an_evaluation_that_failed_is_no_missing_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 5, "evaluation_failed": "MemoryError"}, {"step": 5, "loss": 1.0}, {"step": 10, "loss": 0.5},
            {"step": 10, "held_out_loss": {"average": {"loss": 0.4}}}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bookkeeping._evaluations(path, 5) == ({}, None)
    assert bookkeeping._evaluations(path, 10) == (None, {"average": {"loss": 0.4}})


def test_a_number_has_three_digits_and_a_prefix():
    numbers = [1, 999, 1234, 1.23e6, 4.56e9, 7e12, 8.9e15, 1e19]
    shown = ["1 ", "999 ", "1.23 k", "1.23 M", "4.56 G", "7 T", "8.9 P", "1e+04 P"]
    assert [bookkeeping._scaled(number) for number in numbers] == shown

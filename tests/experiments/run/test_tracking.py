"""What a run tells TensorBoard and Weights & Biases, read back."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from diffusion.experiments.run import tracking
from diffusion.recipe import ConfigError

ROW = {
    "step": 50,
    "loss": 0.25,
    "loss_by_t": [0.5, None],
    "count_by_t": [3, 0],
    "grad_norm_by_block": {"blocks/0": 2.0},
    "skipped": 1,
}
NUMBERS = {"loss": 0.25, "loss_by_t/0.0-0.5": 0.5, "grad_norm_by_block/blocks/0": 2.0, "skipped": 1}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "grid.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    return path


def events(path):
    """The events of a file: records of a length, its checksum, the event, its checksum."""
    content = path.read_bytes()
    found = []
    while content:
        size = int.from_bytes(content[:8], "little")
        event = content[12 : 12 + size]
        assert int.from_bytes(content[12 + size : 16 + size], "little") == masked_crc32c(event)
        found.append(Event.FromString(event))
        content = content[16 + size :]
    return found


def test_numbers_of_a_line_of_metrics():
    assert tracking.flat(ROW) == NUMBERS
    assert tracking.flat({"evaluate": {"fd": 2.5, "none": None}}) == {"evaluate/fd": 2.5}


def test_events_hold_numbers_and_pictures(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(tracking.time, "time", lambda: 1_700_000_000.25)
    with tracking.tracker(tmp_path, 40, {}) as track:
        track.numbers(50, NUMBERS)
        track.pictures(50, {"samples": picture})
    _, begun, numbers, pictures = events(*tmp_path.glob("events*"))
    assert begun.step == 41 and begun.session_log.status == SessionLog.START  # what lies beyond is void
    assert numbers.wall_time == pictures.wall_time == 1_700_000_000.25 and pictures.step == 50
    assert numbers.step == 50 and {value.tag: value.simple_value for value in numbers.summary.value} == NUMBERS
    (shown,) = pictures.summary.value
    assert shown.tag == "samples" and (shown.image.width, shown.image.height) == (4, 4)
    assert shown.image.colorspace == 3  # RGB, in TensorFlow's summary.proto
    assert shown.image.encoded_image_string == picture.read_bytes()


def test_starts_in_the_same_second_have_files_of_their_own(tmp_path, monkeypatch):
    """A run that fails at once and is started again: the second leaves the first's events as they are."""
    from tensorboardX import event_file_writer

    monkeypatch.setattr(event_file_writer.time, "time", lambda: 1_700_000_000.5)
    for start in range(11):
        with tracking.tracker(tmp_path, start, {}) as track:
            track.numbers(start + 1, {"loss": float(start)})
    found = [events(path)[-1] for path in sorted(tmp_path.glob("events*"))]  # TensorBoard reads them in this order
    assert [(event.step, event.summary.value[0].simple_value) for event in found] == [(i + 1, i) for i in range(11)]


class Stub(types.ModuleType):
    """Replaces the module wandb, and records its calls."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = importlib.util.spec_from_loader("wandb", None)
        self.begun, self.metrics, self.lines, self.ended = [], [], [], []

    def init(self, **about):
        self.begun.append(about)
        return self

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, line):
        self.lines.append(line)

    def finish(self, exit_code):
        self.ended.append(exit_code)

    Settings = staticmethod(lambda **about: about)
    Image = staticmethod(lambda path: ("picture", path))


def test_weights_and_biases_gets_the_same_over_the_training_step(tmp_path, picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", stub := Stub())
    for ends in (RuntimeError, None):
        monkeypatch.setattr(sys.stdout, "isatty", lambda speaks=ends is None: speaks)  # the second in a terminal
        try:
            with tracking.tracker(tmp_path, 0, {"seed": 3}, "digits") as track:
                track.numbers(50, NUMBERS)
                track.pictures(50, {"samples": picture})
                if ends:
                    raise ends
        except RuntimeError:
            pass
    first, again = stub.begun
    assert first["project"] == "digits" and first["config"] == {"seed": 3} and first["dir"] == str(tmp_path)
    assert first["id"] == again["id"] and again["resume"] == "allow" and first["name"] == tmp_path.name
    # The run prints and keeps its own lines: W&B captures none of them, and is silent where stdout is a file.
    assert [about["settings"] for about in stub.begun] == [{"console": "off", "silent": s} for s in (True, False)]
    assert stub.metrics[1] == ("*", "step")
    assert stub.lines[:2] == [{**NUMBERS, "step": 50}, {"samples": ("picture", str(picture)), "step": 50}]
    assert stub.ended == [1, 0]
    assert len(list(tmp_path.glob("events*"))) > 0


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_weights_and_biases_that_is_not_there_is_refused():
    tracking.check("")
    with pytest.raises(ConfigError, match="--wandb=digits needs the package wandb"):
        tracking.check("digits")


def logged(content):
    """The records of a file in LevelDB's log format: blocks of 32 KiB with their parts, after a header of 7 bytes."""
    place, record = 7, b""
    while place < len(content):
        if 32768 - place % 32768 < 7:  # too little for a header: filled up
            place += 32768 - place % 32768
            continue
        size = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path, picture, monkeypatch):
    """The package itself, where it is installed, without a network: its file holds the numbers and pictures."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracking.tracker(tmp_path, 0, {"seed": 3}, "digits") as track:
        track.numbers(50, NUMBERS)
        track.pictures(50, {"samples": picture})
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    found = {}
    for data in logged(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        found |= {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
    assert {name: float(found[name]) for name in NUMBERS} == NUMBERS and found["step"] == "50"
    assert found["samples._type"] == '"image-file"'
    assert list(path.parent.glob("files/media/images/samples_*.png"))

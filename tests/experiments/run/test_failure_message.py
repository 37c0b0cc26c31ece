"""What a user reads when a step fails: the last good checkpoint, and what to try."""

import pathlib

import pytest

from diffusion.experiments.run import failure

RUN = pathlib.Path("my run")


def message(monkeypatch, step=7, good=5, python=False, clip=None):
    monkeypatch.setattr(failure.checkpoints, "latest", lambda folder: good)
    monkeypatch.setattr(failure, "built_in_python", lambda config: python)
    return failure.message(step, RUN, {"optimizer": {"clip": clip}})


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_command_is_advised_to_go_on_in_a_new_folder(monkeypatch, clip):
    text = message(monkeypatch, clip=clip)
    assert "not finite in step 7" in text and "The last good checkpoint is step 5." in text
    assert ("--config.optimizer.clip=1.0" in text) == (clip is None) and "--config.optimizer.learning_rate" in text
    assert f"'--config.init_from.path={failure.checkpoints.folder(RUN) / '5'}'" in text and "The same command" in text


def test_without_a_checkpoint_there_is_none_to_begin_with(monkeypatch):
    text = message(monkeypatch, good=None)
    assert "There is no checkpoint yet." in text and "init_from" not in text
    assert "step 0." in message(monkeypatch, good=0) and "init_from" in message(monkeypatch, good=0)


def test_the_first_step_has_changed_nothing(monkeypatch):
    assert "No step has changed the weights yet" in message(monkeypatch, step=0)
    assert "No step has changed" not in message(monkeypatch, step=1)


def test_a_run_of_python_has_a_call_and_no_flags(monkeypatch):
    text = message(monkeypatch, python=True)
    assert "The same call" in text and "--config" not in text and "smaller learning rate" in text

"""The files of a tuned base: whose weights, named by what, in which folder."""

import shutil
import types

import pytest

from diffusion.experiments.run import tuned_files
from diffusion.recipe import ConfigError

CONFIG = {"data": {"text": {"prompt": "a photo of a cat"}}, "tuning": {"name": "lora"}}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """(calls, tuning): what was written by which part, of a tuning that the tests change."""
    calls = []

    def write(folder, weights, metadata):
        calls.append(("write", weights, metadata))
        (folder / "deep").mkdir()
        (folder / "deep" / "w.safetensors").write_text("w")
        return [folder / "deep" / "w.safetensors"]

    tuning = types.SimpleNamespace(words=("<dog>",), replaces=(), write=write)
    tuning.attach = lambda model, weights: (
        calls.append(("attach", model, weights))
        or types.SimpleNamespace(
            modules={"transformer": "module", "vae": "vae"},
            params={"transformer": "tuned", "vae": "own"},
            name="A pipeline",
        )
    )
    base = types.SimpleNamespace(path=str(tmp_path / "pixart"), model=types.SimpleNamespace(name="PixArt"))
    resolver = types.SimpleNamespace(tuned=types.SimpleNamespace(tuning=tuning, base=base))
    monkeypatch.setattr(tuned_files, "Resolver", lambda config: resolver)
    about = lambda workdir, step: {"base": {"sha256": f"of step {step}"}}
    monkeypatch.setattr(tuned_files.checkpoints, "read_about", about)
    card = lambda workdir, what, front, step: ("card", what, front, step)
    monkeypatch.setattr(tuned_files.model_card, "build_run_card", card)
    monkeypatch.setattr(tuned_files.model_card, "write", lambda folder, card, before: calls.append((*card, before)))
    monkeypatch.setattr(tuned_files.text_to_image, "load", lambda path: f"model of {path}")
    same = lambda model, folder, workdir, step: calls.append(("same", model, folder, step))
    monkeypatch.setattr(tuned_files.tuned_run, "require_same_base", same)
    save = lambda new, base, part, module, params, metadata: calls.append(("save", part, module, params, base))
    monkeypatch.setattr(tuned_files.model_folder, "save", save)
    complete = lambda new, base, name, metadata: calls.append(("complete", name, base, metadata["base_sha256"]))
    monkeypatch.setattr(tuned_files.model_folder, "complete", complete)
    (tmp_path / "run").mkdir()
    return calls, resolver, tmp_path


def test_files_say_of_which_base_and_step_they_are(run):
    calls, _, folder = run
    assert tuned_files.write(CONFIG, folder / "run", "average", 7) == [
        folder / "run" / "tuning" / "deep" / "w.safetensors"
    ]
    card, (name, weights, metadata) = calls
    assert card == ("card", "lora of pixart", {"base_model": "pixart", "library_name": "diffusers"}, 7,
                    folder / "run" / "tuning")  # fmt: skip
    assert (name, weights) == ("write", "average")
    assert metadata["base_model"] == "pixart (PixArt)" and metadata["base_sha256"] == "of step 7"
    assert metadata["trigger_words"] == "<dog>, a photo of a cat" and len(metadata["config_sha256"]) == 64
    tuned_files.write({**CONFIG, "data": {"text": {"prompt": ""}}}, folder / "run", "average", 7)
    assert calls[-1][2]["trigger_words"] == "<dog>" and calls[-1][2]["config_sha256"] != metadata["config_sha256"]


def test_the_files_of_an_earlier_end_are_not_those_of_this_one(run):
    """A run that is trained on may be killed after its last checkpoint, before it has written them again."""
    _, _, folder = run
    assert not tuned_files.is_written(folder / "run", 7)
    tuned_files.write(CONFIG, folder / "run", "average", 7)
    assert tuned_files.is_written(folder / "run", 7) and not tuned_files.is_written(folder / "run", 9)
    tuned_files.write(CONFIG, folder / "run", "average", 9, folder / "out")
    assert not tuned_files.is_written(folder / "run", 9)
    shutil.rmtree(folder / "run" / "tuning")
    assert not tuned_files.is_written(folder / "run", 7)


def test_parts_that_are_replaced_become_a_folder_of_a_model(run):
    calls, resolver, folder = run
    resolver.tuned.tuning.replaces = ("transformer",)
    assert tuned_files.write(CONFIG, folder / "run", "average", 7, folder / "out") == [folder / "out"]
    base = folder / "pixart"
    assert calls[2:] == [
        ("same", f"model of {base}", str(base), 7),
        ("attach", f"model of {base}", "average"),
        ("save", "transformer", "module", "tuned", base),
        ("complete", "A pipeline", base, "of step 7"),
    ]


def test_a_folder_that_is_there_is_refused_unless_it_is_the_run_s_own(run):
    calls, _, folder = run
    (folder / "there").mkdir()
    with pytest.raises(FileExistsError, match="there exists already; choose another name"):
        tuned_files.write(CONFIG, folder / "run", "average", 7, folder / "there")
    assert not calls
    for _ in range(2):
        tuned_files.write(CONFIG, folder / "run", "average", 7, folder / "run" / "tuning")
    (written,) = tuned_files.write(CONFIG, folder / "run", "average", 7, folder / "new")
    assert written == folder / "new" / "deep" / "w.safetensors" and written.read_text() == "w"


def test_a_run_without_a_base_has_none(run):
    _, resolver, folder = run
    resolver.tuned = None
    with pytest.raises(ConfigError, match="is not a run that tunes a base"):
        tuned_files.write(CONFIG, folder / "run", "average", 7)

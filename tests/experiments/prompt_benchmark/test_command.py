"""The command's flags, and what it prints, in this process."""

import json

import numpy as np
import pytest
from absl import flags

from diffusion.experiments.prompt_benchmark import __main__, clip_embedder, judging, making
from diffusion.experiments.run_folder import workdir
from diffusion.metrics.prompt_following import clustered, readers
from diffusion.recipe import ConfigError, names
from tests import command_flags
from tests.experiments.prompt_benchmark import test_prompt_benchmark as made
from tests.experiments.prompt_benchmark.test_prompt_benchmark import geneval  # noqa: F401

MODULE = "diffusion.experiments.prompt_benchmark"
NEEDED = ("--protocol=geneval", "--prompts=p", "--images=i", "--out=o")


@pytest.fixture
def named(monkeypatch):
    monkeypatch.setitem(names.DETECTORS, "made", lambda: made.detector)
    monkeypatch.setitem(names.EMBEDDERS, "made", lambda: made.EMBEDDER)


def test_flags_that_are_needed_are_enough_and_each_is_needed():
    with command_flags.of(MODULE, *NEEDED) as (values, _):
        assert (values.protocol, values.prompts, values.images, values.out) == ("geneval", "p", "i", "o")
        unset = ("model", "workdir", "detector", "answerer", "grammar", "depth", "embedder", "clip", "per_prompt")
        assert [values[name].value for name in (*unset, "steps", "guidance")] == [None] * 11
        assert (values.seed, values.batch_size) == (0, 8)
    for word in NEEDED:
        with pytest.raises(flags.IllegalFlagValueError, match=word[2:].partition("=")[0]):
            with command_flags.of(MODULE, *(other for other in NEEDED if other != word)):
                pass


@pytest.mark.parametrize(
    "least, below",
    [("per_prompt=1", "0"), ("seed=0", "-1"), ("steps=1", "0"), ("guidance=0", "-0.5"), ("batch_size=1", "0")],
)
def test_the_least_value_of_each_number(least, below):
    name = least.partition("=")[0]
    with command_flags.of(MODULE, *NEEDED, f"--{least}"):
        pass
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        with command_flags.of(MODULE, *NEEDED, f"--{name}={below}"):
            pass


def test_failures_are_said_in_one_sentence_and_programs_are_kept():
    with command_flags.of(MODULE, *NEEDED) as (_, start):
        assert readers.ReaderError in start.args[1] and set(workdir.FAILURES) <= set(start.args[1])
        assert start.kwargs == {"compiles": True}


def words(folder, *more):
    places = (f"--prompts={folder / 'prompts.jsonl'}", f"--images={folder / 'images'}", f"--out={folder / 'out'}")
    return ("--protocol=geneval", "--per_prompt=2", *places, *more)


def test_the_command_prints_the_figures_and_writes_them(geneval, named, capsys):  # noqa: F811
    with command_flags.of(MODULE, *words(geneval, "--detector=made", "--embedder=made")) as (_, start):
        start.args[0]([])
    content = json.loads((geneval / "out" / "benchmark.json").read_text())
    assert content["figures"]["overall"]["value"] == 0.375 and content["per_prompt"] == 2
    assert content["readers"]["detector"] == content["readers"]["embedder"] == "made"
    assert content["pictures"]["count"] == 6 and content["prompts"]["count"] == 3
    printed = capsys.readouterr().out
    assert "overall" in printed and "0.375" in printed and judging.FILE in printed
    (line,) = (line for line in printed.splitlines() if "single_object" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["single_object", "0.25 ± 0.25", "4", "2"]


def test_a_model_of_either_flag_gets_the_settings_that_are_set(geneval, named, monkeypatch):  # noqa: F811
    made_by = []
    (geneval / "images" / "00001" / "samples" / "0000.png").unlink()

    def make(benchmark, items, images, model, per_prompt, seed, settings):
        made_by.append((model, per_prompt, seed, settings))
        made.picture(images / "00001" / "samples" / "0000.png", 0)

    monkeypatch.setattr(making, "make", make)
    both = ("--detector=made", "--embedder=made")
    for more in (("--model=m", "--steps=7"), ("--model=m", "--guidance=0", "--seed=5")):
        (geneval / "images" / "00001" / "samples" / "0000.png").unlink(missing_ok=True)
        with command_flags.of(MODULE, *words(geneval, *both, *more)) as (_, start):
            start.args[0]([])
    assert made_by == [("m", 2, 0, {"steps": 7}), ("m", 2, 5, {"guidance": 0.0})]


def test_flags_that_contradict_each_other_are_refused(geneval, named, monkeypatch):  # noqa: F811
    monkeypatch.setattr(clip_embedder, "opened", lambda folder: (made.EMBEDDER, "d" * 64))
    for more, message in (
        (("--model=m", "--workdir=w"), "--model and --workdir both name a model"),
        (("--steps=7",), "--steps = 7 is only for generated pictures"),
        (("--guidance=0",), "--guidance = 0.0 is only for generated pictures"),
        (("--seed=5",), "--seed = 5 is only for generated pictures"),
        (("--detector=made", "--clip=c", "--embedder=made"), "--clip and --embedder both name an"),
        (("--detector=mad",), "--detector: unknown detector 'mad'. Did you mean 'made'"),
        (("--protocol=geneva",), "--protocol: unknown protocol 'geneva'. Did you mean 'geneval'"),
    ):
        with command_flags.of(MODULE, *words(geneval, *more)) as (_, start):
            with pytest.raises(ConfigError, match=message):
                start.args[0]([])
    with command_flags.of(MODULE, *words(geneval, "--detector=made", "--clip=folder/c")) as (_, start):
        start.args[0]([])
    content = json.loads((geneval / "out" / "benchmark.json").read_text())
    assert content["readers"]["embedder"] == {"clip": "c", "sha256": "d" * 64}


@pytest.mark.parametrize("right, error", [((1, 1, 1), None), ((0, 0, 0), None), ((1, 0, 1), 1 / 3), ((1,), None)])
def test_scores_that_are_all_equal_have_no_error_of_zero(right, error):
    """One picture of each prompt: of the shares 1, 0, 1 the error is sqrt(1/3 / 3)."""
    figure = __main__.figure(clustered.mean(right, range(len(right))))
    assert figure["standard_error"] == (None if error is None else pytest.approx(error))
    assert figure["value"] == np.mean(right) and figure["samples"] == figure["prompts"] == len(right)

"""The gallery and a run as functions, on a run of seconds."""

import types

import numpy as np
import pytest
from PIL import Image

from configs import digits
from diffusion import samplers, timesteps
from diffusion.data.transforms import to_uint8
from diffusion.experiments import train
from diffusion.experiments.sampling import generate, trained_run
from diffusion.recipe import ConfigError, Recipe
from tests import commands
from tools.docs import gallery, gallery_reports


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train.run(digits.get_config("tiny"), folder) == 0
    return folder


@pytest.mark.slow
def test_a_run_as_functions_makes_the_samples_of_the_command(run):
    found = trained_run.load(run, {"sample.steps": 3, "sample.guidance.scale": 2.0})
    labels = np.arange(6, dtype=np.int32)
    x, keys = found.noise(6)
    made = samplers.sample(found.sampler, found.denoise(labels), found.schedule, x, timesteps.plan(found.grid), keys)
    seeds = generate.seeds(found.config, 6)
    expected = generate.generator(Recipe.from_config(found.config, found.shape)).images(found.params, labels, seeds)
    assert np.ptp(expected) > 50 and np.abs(np.asarray(to_uint8(made)).astype(int) - expected).max() <= 1
    images, labels = found.real("test", 12)
    assert labels.tolist() == [*range(10), 0, 1] and images.shape == (12, 8, 8, 1)
    assert float(images.min()) == -1 and 0.9 < float(images.max()) <= 1
    with pytest.raises(ConfigError, match=r"config\.sample: unknown field 'stpes'\. Did you mean 'steps'"):
        trained_run.load(run, {"sample.stpes": 3})


@pytest.mark.slow
def test_every_picture_of_a_run(run, tmp_path):
    for words in (["experiments.sample", "--config.sample.number=100"], ["experiments.evaluate"]):
        done = commands.run("-m", *words, f"--workdir={run}", timeout=600)
        assert done.returncode == 0, done.stderr
    wanted = [name for name in gallery.PICTURES if name != "sweep"]  # which runs twelve more commands
    words = ("-m", "tools.docs.gallery", f"--workdir={run}", f"--out={tmp_path}", f"--only={','.join(wanted)}")
    done = commands.run(*words, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in [*wanted, "curves"]:
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert 300 < picture.width < 1200, name
            assert len(np.unique(np.asarray(picture.convert("L")))) > 30, name


@pytest.mark.slow
def test_a_picture_that_is_not_known_is_refused(tmp_path):
    done = commands.run("-m", "tools.docs.gallery", f"--workdir={tmp_path}", "--only=sampels")
    assert done.returncode == 2 and "Did you mean 'samples'" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_pictures_that_are_not_finite_are_refused():
    config = digits.get_config("tiny")
    run = types.SimpleNamespace(config=config)
    with pytest.raises(ConfigError, match=r"2 of 2 samples are not finite"):
        gallery.bytes_of(run, np.full((2, 8, 8, 1), np.nan))
    with pytest.warns(UserWarning, match=r"1 of 2 samples are not finite"):
        assert gallery.bytes_of(run, np.array([0.0, np.inf])[:, None]).tolist() == [[128], [255]]


def test_the_page_prints_the_functions_that_made_its_pictures():
    lines = gallery._python(gallery.edit, gallery.between)
    assert "    return editing.sdedit(run.sampler, run.denoise(labels), run.schedule, images" in lines
    assert lines.count("def ") == 2 and lines.startswith("```python\ndef edit(")
    page = (gallery_reports.PLACE / gallery_reports.PAGE).read_text()
    of_edits = (
        gallery._python(*made, steps=gallery.FINE) for made in ([gallery.inpaint, gallery.outpaint], [gallery.edit])
    )
    assert all(lines in page for lines in (*of_edits, gallery._python(gallery.between)))
    assert page.count('{"sample.steps": 50}') == 2


def test_a_picture_drawn_alone_leaves_the_rest_of_the_page():
    shown = gallery.Shown("```sh\ntrue\n```", "Words.\n\n| a |\n| --- |")
    sections = {name: gallery.section(name, shown) for name in gallery.PICTURES}
    text = gallery.page("runs/x", sections.values())
    assert text.count("\n## ") == len(sections) and gallery.page("runs/x", gallery.sections_of(text).values()) == text


def test_every_section_of_the_page_is_written_by_the_tools():
    text = (gallery_reports.PLACE / gallery_reports.PAGE).read_text()
    drawn = gallery.page("runs/digits", gallery.sections_of(text).values())
    assert gallery_reports.page(drawn, gallery_reports.PLACE) == text


def test_a_page_drawn_anew_keeps_the_sections_of_reports(tmp_path, monkeypatch):
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "report.md").write_text("figures")
    (tmp_path / gallery_reports.PAGE).write_text("# Gallery\n\n## Control of positions\n\nEarlier words.\n")
    asked = types.SimpleNamespace(workdir="runs/x", out=str(tmp_path), only=["samples"])
    drawn = lambda folder, place: gallery.Shown("```sh\ntrue\n```", "Words.")
    monkeypatch.setattr(gallery, "PICTURES", {"samples": ("Samples by class", drawn)})
    monkeypatch.setattr(gallery.flags, "FLAGS", asked)
    gallery.main([])
    text = (tmp_path / gallery_reports.PAGE).read_text()
    assert "\n## Samples by class\n" in text and "Earlier words" not in text
    assert text.count("\n## Control of positions\n") == 1

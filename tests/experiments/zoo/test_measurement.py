"""A row from its file to its figure: killed and gone on with, and what is refused before anything is compiled."""

import json
import os
import signal

import numpy as np
import pytest

from diffusion.experiments.zoo import measurement, published_rows
from diffusion.io import npz
from diffusion.metrics import statistics
from diffusion.metrics.statistics import StatisticsError
from diffusion.models import interchange
from diffusion.recipe import ConfigError
from tests import commands
from tests.experiments.test_encode import made
from tests.experiments.zoo import tiny_rows

EXTEND = "--extend=tests.experiments.zoo.tiny_rows"


class Killed(BaseException):
    """The process ends here."""


def killed(*arguments):
    """Ends the process."""
    raise Killed


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of features."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path


def needed(row, folder):
    """The files of a small row."""
    return measurement.Needs(str(tiny_rows.authors_file(row, folder)), str(tiny_rows.statistics(folder)))


def of_record(content):
    """What of row.json does not depend on the clock."""
    return {name: value for name, value in content.items() if name not in ("seconds", "record")}


@pytest.mark.extended
def test_a_killed_measurement_goes_on_with_the_same_pictures(cache, monkeypatch):
    row = published_rows.find("tiny_sit_xl_2_256_ode")
    needs = needed(row, cache)
    made = []

    def counting(recipe, mesh, generator=measurement.generate.generator):
        make = generator(recipe, mesh)
        return make._replace(
            images=lambda params, labels, seeds: made.append(seeds) or make.images(params, labels, seeds)
        )

    monkeypatch.setattr(measurement.generate, "generator", counting)

    whole = measurement.measure(measurement.check(row, needs, cache / "whole"), cache / "whole")
    assert [len(seeds) for seeds in made] == [4, 4]
    with pytest.raises(Killed):
        measurement.measure(measurement.check(row, needs, cache / "out"), cache / "out", killed)
    assert len(made) == 3 and not (cache / "out" / "samples.npz").exists()
    resumed = measurement.measure(measurement.check(row, needs, cache / "out"), cache / "out")
    assert len(made) == 4  # the batch that was there is not made again
    again = measurement.measure(measurement.check(row, needs, cache / "out"), cache / "out")
    assert len(made) == 4  # nor are the samples
    assert of_record(whole) == of_record(resumed) == of_record(again)
    images = [npz.load(cache / name / "samples.npz", ("images",))["images"] for name in ("whole", "out")]
    assert images[0].shape == (8, 8, 8, 1) and images[0].std() > 0
    np.testing.assert_array_equal(*images)
    assert resumed["figure"]["value"] > 0 and resumed["published"]["value"] == row.published.value
    assert json.loads((cache / "out" / "row.json").read_text()) == again


def test_pictures_of_another_decoder_or_of_a_killed_writer_are_made_again(cache, monkeypatch):
    """Without the network: what `_samples` keeps and makes again."""
    row = published_rows.find("tiny_sit_xl_2_256_ode")
    recipe = measurement.recipe_of(row)
    made = []

    def images(*arguments, work):
        made.append(len(made))
        return np.full((8, 8, 8, 1), len(made), np.uint8)

    monkeypatch.setattr(measurement.generate, "generator", lambda *_: measurement.generate.Generator(None, None, 2))
    monkeypatch.setattr(measurement.batches_on_disk, "images", images)
    samples = lambda decoder: measurement._samples(recipe, {}, "weights", decoder, cache, lambda done: None)
    first = samples("decoder")
    assert samples("decoder") == first and len(made) == 1
    # Killed once samples.npz of another decoder is there, before samples.json says so.
    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(measurement.json_files, "write", killed)
        samples("another decoder")
    assert len(made) == 2
    assert samples("decoder") == first and len(made) == 3
    assert npz.load(cache / "samples.npz", ("images",))["images"][0, 0, 0, 0] == 3


@pytest.mark.parametrize("infinite", [3, 8])
def test_samples_that_are_not_finite_are_counted(cache, monkeypatch, infinite):
    """They are black in samples.npz, and the row's figure would be of them."""
    row = published_rows.find("tiny_sit_xl_2_256_ode")
    recipe = measurement.recipe_of(row)
    counts = iter((infinite, 0))  # of the two batches

    def images(params, labels, seeds):
        counted[0] += np.array([0, 0, next(counts)])
        return np.zeros((len(seeds), 8, 8, 1), np.uint8)

    counted = [np.zeros(3, np.int64)]
    make = measurement.generate.Generator(images, None, 2, lambda: counted[0].copy())
    monkeypatch.setattr(measurement.generate, "generator", lambda *_: make)
    samples = lambda: measurement._samples(recipe, {}, "weights", "", cache, lambda done: None)
    if infinite == 8:
        with pytest.raises(ConfigError, match=r"8 of 8 samples are not finite"):
            samples()
        assert not (cache / "samples.npz").exists() and not list(cache.glob(".samples-*"))
    else:
        with pytest.warns(UserWarning, match=r"3 of 8 samples are not finite"):
            samples()
        assert json.loads((cache / "samples.json").read_text())["not_finite"] == 3


def test_another_number_of_samples_does_not_compare(cache):
    row = published_rows.find("tiny_sit_xl_2_256_ode")
    measured = {"figures": {"fd": {"value": 3.0, "standard_error": 0.1}}, "warnings": []}
    of_row = measurement.beside(row, measured, row.number)
    assert of_row["compares"] and of_row["difference"] == pytest.approx(3.0 - row.published.value)
    fewer = measurement.beside(row, measured, 4)
    assert not fewer["compares"] and fewer["why"] == ["the figure is of 4 samples, but the published one of 8"]


@pytest.mark.extended
def test_what_does_not_fit_is_refused_before_anything_is_compiled(cache):
    row = published_rows.find("tiny_dit_xl_2_256")
    needs = needed(row, cache)
    refused = lambda **changes: measurement.check(row, needs._replace(**changes), cache / "out")
    (cache / "others").mkdir()
    # Another model: the first tensor, in the network's order, that differs.
    other = tiny_rows.authors_file(published_rows.find("tiny_repa_sit_xl_2_256"), cache / "others")
    with pytest.raises(interchange.Mismatch, match=r"is not DiT-XL/2.*final_layer\.linear\.weight has the shape \[16"):
        refused(weights=str(other))
    # Another resolution: only the table of positions differs.
    wide = row._replace(changes={**row.changes, "data.shape": (16, 16, 1)})
    with pytest.raises(interchange.Mismatch, match=r"pos_embed has the shape \[1, 16, 16\], not \[1, 4, 16\]"):
        refused(weights=str(tiny_rows.authors_file(wide, cache / "others")))
    # Statistics of other features.
    stated = statistics.read(needs.reference)
    other_space = {**stated.description, "space": {"features": "those of another network"}}
    statistics.write(cache / "other.safetensors", stated._replace(description=other_space))
    with pytest.raises(StatisticsError, match=r"other\.safetensors.*those of another network"):
        refused(reference=str(cache / "other.safetensors"))
    with pytest.raises(ConfigError, match=r"is a pickle of its authors' classes.*--row=tiny_dit_xl_2_256 prints"):
        refused(weights="network.pkl")
    with pytest.raises(ConfigError, match=r"works on pixels\. Valid: no --autoencoder"):
        measurement.check(row, needs._replace(autoencoder="vae"), cache / "out")
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        refused(weights=str(cache / "gone.pt"))
    assert not (cache / "out").exists()


def test_an_autoencoder_of_other_latents_is_refused(cache):
    row = published_rows.ROWS["edm2_s_imagenet512"]
    folder = cache / "vae"
    folder.mkdir()
    needs = measurement.Needs("weights.safetensors", "img512.pkl", "inception", str(folder))
    with pytest.raises(ConfigError, match=r"has no config\.json\. Valid: the folder of stabilityai"):
        measurement.check(row, needs, cache / "out")
    (folder / "config.json").write_text(json.dumps({**row.autoencoder_config, "scaling_factor": 0.18215}))
    with pytest.raises(
        ConfigError, match=r"scaling_factor = 0\.18215, but the latents of edm2_s_imagenet512 need 0\.5"
    ):
        measurement.check(row, needs, cache / "out")


@pytest.mark.slow
def test_a_row_on_latents_is_decoded_by_its_autoencoder(cache):
    row = published_rows.find("tiny_sit_xl_2_256_ode")
    latents = {
        "data.latents.dir": "latents/imagenet256",
        "data.shape": (4, 4, 4),
        "model": {**tiny_rows.DIT, "patch": 2},
    }
    row = row._replace(autoencoder="made", changes={**row.changes, **latents})
    np.savez(cache / "real.npz", images=np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8))
    weights = str(tiny_rows.authors_file(row, cache))
    vae = str(made(cache / "vae", levels=2, channels=3))
    needs = measurement.Needs(weights, str(cache / "real.npz"), autoencoder=vae)
    with pytest.raises(ConfigError, match=r"works on latents\. Valid: --autoencoder=FOLDER of made"):
        measurement.check(row, needs._replace(autoencoder=""), cache / "out")
    other = str(made(cache / "other", levels=2, channels=3, latent_channels=8))
    with pytest.raises(ConfigError, match=r"other is not the autoencoder of tiny_sit_xl_2_256_ode: .*8"):
        measurement.check(row, needs._replace(autoencoder=other), cache / "out")
    content = measurement.measure(measurement.check(row, needs, cache / "out"), cache / "out")
    images = npz.load(cache / "out" / "samples.npz", ("images",))["images"]
    assert images.shape == (8, 8, 8, 3) and images.dtype == np.uint8 and images.std() > 0
    assert content["figure"]["value"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_rows.CHANGES)
def test_the_command_measures_a_row_of_each_kind_though_it_is_killed(name, tmp_path):
    """The whole command on made weights, killed once a batch is on the disk; the record is that of a whole run."""
    row = published_rows.find(f"tiny_{name}")
    needs = needed(row, tmp_path)
    env = {**os.environ, "DIFFUSION_CACHE": str(tmp_path / "cache")}
    words = lambda out: (EXTEND, f"--row={row.name}", f"--weights={needs.weights}", f"--reference={needs.reference}",
                         f"--out={tmp_path / out}")  # fmt: skip
    whole = commands.run("diffusion", "zoo", *words("whole"), env=env, timeout=600)
    assert whole.returncode == 0, whole.stderr
    assert f"published {row.published.value}" in whole.stdout and "stage 4 of 4, figures" in whole.stdout
    killed = commands.run("diffusion", "zoo", *words("out"), env={**env, "KILLED": "1"}, timeout=600)
    assert killed.returncode == -signal.SIGKILL
    assert [file.name for file in (tmp_path / "out").glob(".samples-*/*.npy")] == ["00000000.npy"]
    assert not (tmp_path / "out" / "row.json").exists()
    done = commands.run("diffusion", "zoo", *words("out"), env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / out / "row.json").read_text()) for out in ("whole", "out")]
    assert of_record(records[0]) == of_record(records[1])
    verified = commands.run("diffusion", "evaluate", f"--verify={tmp_path / 'out' / 'record.json'}", env=env)
    assert verified.returncode == 0, verified.stdout

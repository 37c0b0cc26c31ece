"""Measurements of files against references, their records, and measuring them again."""

import contextlib
import json
import os
import pathlib
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import diffusion
from configs import digits
from diffusion.data import fingerprints
from diffusion.experiments.evaluation import comparison, image_metrics, real_images, records, report, sample_metrics
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.metrics import (
    clip_protocols,
    features,
    frechet,
    image_sets,
    inception,
    inception_weights,
    kernel_distance,
    protocols,
    references,
)
from diffusion.metrics.image_sets import ImageSetError
from diffusion.metrics.inception_weights import WeightsError
from diffusion.metrics.statistics import StatisticsError
from diffusion.recipe import ConfigError
from tests import commands

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two sets of 300 images of 2 x 3 pixels: 18 features, fewer than images."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, top, (300, 2, 3, 3), dtype=np.uint8) for top in (256, 200))
    np.savez(tmp_path / "a.npz", a)
    np.savez(tmp_path / "b.npz", b)
    return tmp_path, a, b


def request(folder, **fields):
    passed = {"samples": f"{folder}/a.npz", "reference": f"{folder}/b.npz", "features": "pixels"}
    return comparison.Request(**passed | fields)


def flat(images):
    return images.reshape(len(images), -1) / np.float32(255)


def test_figures_are_those_of_the_features(files):
    folder, a, b = files
    result = comparison.run(request(folder, metrics=tuple(image_metrics.METRICS)))
    figures = result["figures"]
    x = flat(a).astype(np.float64)
    y = flat(b).astype(np.float64)
    cov = lambda rows: np.cov(rows, rowvar=False)
    values = np.linalg.eigvals(cov(x) @ cov(y))
    distance = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cov(x) + cov(y)) - 2 * np.sqrt(values.real).sum()
    assert figures["fd"]["value"] == pytest.approx(distance, rel=1e-6)
    assert (figures["fd"]["samples"], figures["fd"]["reference"], figures["fd"]["features"]) == (300, 300, 18)
    assert 0 < figures["fd"]["standard_error"] < distance
    whole = kernel_distance.mmd2(kernel_distance.cubic, x, y)
    assert figures["kd"]["value"] == pytest.approx(whole.value, rel=1e-6)
    for name in ("precision", "recall", "density", "coverage", "authenticity"):
        assert 0 <= figures[name]["value"] <= 2
    assert figures["cmmd"]["value"] > 0
    for name, why in [("is", "no logits"), ("sfid", "no statistics of spatial"), ("fd_infinity", "start at 5000")]:
        assert figures[name]["value"] is None and "value not measured: " in figures[name]["why"]
        assert why in figures[name]["why"]


def test_subsets_of_equal_numbers(files):
    """Against a reference of more images, precision and recall are of as many of each, the same ones every time."""
    folder, _, b = files
    more = np.concatenate([b, np.random.default_rng(3).integers(0, 256, (500, 2, 3, 3), dtype=np.uint8)])
    np.savez(folder / "b.npz", more)
    result = [comparison.run(request(folder, metrics=("pr", "kid", "fid")))["figures"] for _ in range(2)]
    assert result[0] == result[1]
    assert result[0]["recall"]["reference"] == 300 and result[0]["fd"]["reference"] == 800
    other = comparison.run(request(folder, metrics=("pr",), seed=1))["figures"]
    assert other["recall"]["value"] != result[0]["recall"]["value"]


def test_too_few_samples_are_said(files):
    folder, a, _ = files
    np.savez(folder / "a.npz", a[:18])
    (first,) = comparison.run(request(folder, metrics=("fid",)))["warnings"]
    assert "18 samples are too few for 18 features" in first and "far too high" in first
    np.savez(folder / "a.npz", a[:19])
    assert not comparison.run(request(folder, metrics=("fid",)))["warnings"]


def test_statistics_alone_give_the_distance_alone(files):
    folder, _, b = files
    whole = comparison.run(request(folder))["figures"]["fd"]
    y = flat(b).astype(np.float64)
    np.savez(folder / "b.npz", mu=y.mean(0), sigma=np.cov(y, rowvar=False))
    result = comparison.measure(
        image_sets.open_set(f"{folder}/a.npz"),
        references.open_reference(f"{folder}/b.npz"),
        named("18"),
        ("fid", "kid", "pr"),
    )
    assert result["figures"]["fd"]["value"] == pytest.approx(whole["value"], rel=1e-6)
    assert result["figures"]["fd"]["reference"] is None
    for name in ("kd", "pr"):
        assert "which holds only statistics" in result["figures"][name]["why"]
    assert any("does not record how it was made" in text for text in result["warnings"])


def test_the_images_of_a_reference_with_statistics_are_read_where_rows_are_needed_alone(files, monkeypatch):
    folder, _, b = files
    y = flat(b).astype(np.float64)
    np.savez(folder / "s.npz", mu=y.mean(0), sigma=np.cov(y, rowvar=False))
    both = references.open_reference(f"{folder}/s.npz")._replace(images=image_sets.open_set(f"{folder}/b.npz"))
    read = []
    gather = comparison._gather
    monkeypatch.setattr(
        comparison, "_gather", lambda what, images, *rest: read.append(what) or gather(what, images, *rest)
    )
    for metrics, expected in ((("fid",), ["the samples"]), (("fid", "kid"), ["the reference", "the samples"])):
        read.clear()
        result = comparison.measure(image_sets.open_set(f"{folder}/a.npz"), both, named("18"), metrics)
        assert read == expected
    assert result["figures"]["kd"]["value"] is not None


def named(tap):
    """Pixels as a tap of that name."""
    space = references.function_space(features.pixels(None, None))
    return space._replace(extract=lambda batch: {tap: space.extract(batch)["features"]}, taps=(tap,), main=tap)


def test_clip_mmd_is_of_clip_features(files):
    """In a space that is a function it is the published estimate; of Inception's features it is not taken.

    Jayasumana et al. 2024: all pairs, k(x, y) = exp(-|x - y|^2 / (2 10^2)) of embeddings of length 1, times 1,000.
    """
    folder, a, b = files
    sets = image_sets.open_set(f"{folder}/a.npz"), references.open_reference(f"{folder}/b.npz")
    result = comparison.measure(*sets, references.function_space(features.pixels(None, None)), ("cmmd",))["figures"][
        "cmmd"
    ]
    x, y = (flat(images).astype(np.float64) for images in (a, b))
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    mean = lambda p, q: np.exp(-np.square(p[:, None] - q).sum(-1) / 200).mean()
    assert result["value"] == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-6)
    assert "CLIP's embeddings" in comparison.measure(*sets, named("2048"), ("cmmd",))["figures"]["cmmd"]["why"]


def test_a_reference_for_other_programs_has_the_mean_and_the_covariance(files):
    folder, _, b = files
    comparison.make_reference(request(folder), folder / "made.npz")
    y = flat(b).astype(np.float64)
    with np.load(folder / "made.npz") as made:
        np.testing.assert_allclose(made["mu"], y.mean(0), rtol=1e-6)
        np.testing.assert_allclose(made["sigma"], np.cov(y, rowvar=False), rtol=1e-5, atol=1e-9)


@pytest.mark.extended
def test_a_reference_of_its_own(files, capsys):
    folder, _, _ = files
    whole = comparison.run(request(folder, metrics=("fid",)))["figures"]["fd"]
    made = comparison.make_reference(request(folder), folder / "b.safetensors")
    assert made.count == 300
    again = comparison.run(request(folder, metrics=("fid",), reference=f"{folder}/b.safetensors"))["figures"]["fd"]
    assert again == whole
    other = named("features")._replace(identity={"features": "others", "unit": "[0, 1]"})
    with pytest.raises(StatisticsError, match=r"features: made with 'pixels, flattened', but needed with 'others'"):
        comparison.measure(
            image_sets.open_set(f"{folder}/a.npz"), references.open_reference(f"{folder}/b.safetensors"), other
        )
    with pytest.raises(ConfigError, match=r"written as \.safetensors"):
        comparison.make_reference(request(folder), folder / "b.json")


@pytest.mark.parametrize("rows, dims", [(3, 27), (1, 9)])
def test_images_of_another_size_are_refused(files, rows, dims):
    folder, _, _ = files
    np.savez(folder / "b.npz", np.random.default_rng(1).integers(0, 256, (30, rows, 3, 3), dtype=np.uint8))
    with pytest.raises(StatisticsError, match=f"has {dims} features for each image, but the samples have 18"):
        comparison.run(request(folder))


@pytest.mark.parametrize("size", [(4, 3, 3), (2, 3, 1)])
def test_another_size_or_colour_than_the_references_is_said_where_features_hide_it(files, size):
    """Inception's features, like these moments, are as many for any picture, also in a file of statistics."""
    folder, a, b = files
    moments = lambda batch: np.stack([np.mean(np.float64(batch) ** k, axis=(1, 2, 3)) for k in (1, 2, 3)], axis=1)
    space = references.function_space(features.Extractor(moments, {"features": "moments", "sha256": None}))
    samples = image_sets.from_array(np.random.default_rng(1).integers(0, 256, (30, *size), dtype=np.uint8))
    gathered = references.gather(image_sets.from_array(b), space)
    comparison.statistics.write(folder / "b.safetensors", gathered.statistics)
    sides = [references.open_reference(f"{folder}/b.{kind}") for kind in ("npz", "safetensors")]
    for reference in sides:
        result = comparison.measure(samples, reference, space, ("fid",))
        assert any(f"{list(size)}, but the images of the reference [2, 3, 3]" in text for text in result["warnings"])
        assert result["reference"]["shape"] == [2, 3, 3]
        assert not comparison.measure(image_sets.from_array(a), reference, space, ("fid",))["warnings"]


def test_copies_among_the_samples_and_of_the_reference_are_said(files):
    folder, a, b = files
    np.savez(folder / "a.npz", np.concatenate([a, a[:7], b[:40]]))
    repeated, shared = comparison.run(request(folder, metrics=("fid", "kid")))["warnings"]
    assert repeated.startswith("7 of the 347 samples repeat an earlier one")
    assert shared.startswith("40 of the 347 samples are copies of images of the reference")


def test_seconds_and_progress_of_a_measurement(files, monkeypatch):
    """Figures take from 130 to 137 of a clock that began at 100; 200 of the 300 images took 4 s, 100 were stored."""
    folder, _, _ = files
    gather = comparison._gather
    timed = lambda *arguments: gather(*arguments)._replace(seconds=4.0, from_disk=100)
    monkeypatch.setattr(comparison, "_gather", timed)
    clock = iter([100.0, 130.0, 137.0])
    monkeypatch.setattr(comparison, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    done = []
    monkeypatch.setattr(comparison.progress, "bar", lambda *words: contextlib.nullcontext(done.append))
    sets = image_sets.open_set(f"{folder}/a.npz"), references.open_reference(f"{folder}/b.npz")
    space = references.function_space(features.pixels(None, None))
    result = comparison.measure(*sets, space, ("fid", "sfid"))
    assert done[-2:] == [1, 2]
    assert result["seconds"] == {
        "reference": 4.0, "samples": 4.0, "figures": 7.0, "total": 37.0, "images_per_second": 50.0
    }  # fmt: skip
    assert result["samples"]["count"] == 300 and result["samples"]["shape"] == [2, 3, 3]


def said(count=5, usual=0, real=5, space="pixels", same=False, shape=(8, 8, 3), rows=(), real_rows=()):
    """The warnings about so many samples of four features, beside so many real images."""
    side = lambda count, rows: types.SimpleNamespace(
        statistics=types.SimpleNamespace(
            moments={"main": types.SimpleNamespace(mean=np.zeros(4))},
            count=count,
            description={"space": space, "images": shape and {"shape": list(shape)}},
        ),
        rows={"main": np.float32(rows)},
    )
    sets = types.SimpleNamespace(
        samples=side(count, rows),
        reference=side(real, real_rows),
        space=types.SimpleNamespace(main="main", usual=usual),
    )
    samples = types.SimpleNamespace(count=count, fingerprint="a", shape=(8, 8, 3))
    images = types.SimpleNamespace(fingerprint="a" if same else "b")
    return comparison.warnings(samples, types.SimpleNamespace(spec="b.npz", images=images), sets)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({}, []),
        ({"count": 4}, ["4 samples are too few for 4 features"]),
        ({"usual": 5}, []),
        (
            {"usual": 10},
            ["published figures are of 10 samples. With 5 samples the Frechet distance of the same model is higher."],
        ),
        (
            {"usual": 10, "count": 20},
            ["published figures are of 10 samples. With 20 samples the Frechet distance of the same model is lower."],
        ),
        ({"usual": 10, "count": 4}, ["4 samples are too few for 4 features"]),
        ({"real": 4}, ["the 4 images of the reference are too few for 4 features"]),
        ({"real": None}, []),
        ({"space": None}, ["b.npz does not record how it was made"]),
        ({"same": True}, ["the samples are the reference itself"]),
        ({"same": True, "rows": [[1.0], [1]], "real_rows": [[1.0]]}, ["the samples are the reference itself"]),
        ({"shape": None}, []),
        ({"shape": (8, 8, 1)}, ["the samples have the shape [8, 8, 3], but the images of the reference [8, 8, 1]. "]),
        ({"rows": [[1.0], [2], [1], [1]]}, ["2 of the 4 samples repeat an earlier one"]),
        ({"rows": [[1.0], [2]], "real_rows": [[3.0], [2]]}, ["1 of the 2 samples are copies of images of the ref"]),
    ],
)
def test_what_makes_figures_biased_or_not_comparable_is_said(fields, words):
    texts = said(**fields)
    assert len(texts) == len(words) and all(text.startswith(start) for text, start in zip(texts, words))


@pytest.mark.parametrize("logits, taps", [(True, ("2048", "logits", "spatial")), (False, ("2048", "spatial"))])
def test_logits_are_read_where_the_network_has_them(monkeypatch, logits, taps):
    net = types.SimpleNamespace(logits=logits, digest="abc")
    monkeypatch.setattr(inception, "load", lambda path: net)
    monkeypatch.setattr(inception, "record", lambda net: {"sha256": net.digest})
    monkeypatch.setattr(references, "inception_space", lambda net, protocol, taps: (protocol.name, taps))
    asked = request("", features="inception", protocol="adm", inception="file", metrics=("fid", "is", "sfid"))
    space, described = comparison.space_of(asked._replace(inception_sha256="abc"))
    assert space == ("adm", taps) and described["weights"] == {"sha256": "abc"}
    with pytest.raises(WeightsError, match="has the digest abc, not the abd"):
        comparison.space_of(asked._replace(inception_sha256="abd"))


@pytest.mark.parametrize("tap, digest, warns", [("2048", "", True), ("2048", "known", False), ("other", "", False)])
def test_other_weights_than_the_published_are_said(files, monkeypatch, tap, digest, warns):
    digest = digest and next(iter(inception_weights.KNOWN))
    described = {"protocol": {"score_splits": "ten, in order"}, "weights": {"sha256": digest}}
    monkeypatch.setattr(comparison, "space_of", lambda asked: (named(tap), described))
    result = comparison.run(request(files[0], metrics=("fid",)))
    assert any("not those of the published figures" in text for text in result["warnings"]) == warns


def test_records_of_clips_are_read_row_by_row(files, monkeypatch):
    """The protocol's frames and the request's seed go on; record i has i in its first value."""
    folder, _, _ = files
    clips = [{"image": np.full((4, 8, 8, 3), row, np.uint8)} for row in range(5)]
    spec = types.SimpleNamespace(shape=(4, 8, 8, 3), dtype="uint8", size=5, entry="image")
    source = types.SimpleNamespace(spec=spec, fingerprint=lambda: {"records": 5})
    monkeypatch.setattr(comparison.data, "named", lambda text: source)
    monkeypatch.setattr(comparison.pipeline, "fetch", lambda source, rows: [clips[row] for row in rows])
    seen = []
    monkeypatch.setattr(comparison.clip_sets, "from_records", lambda *arguments: seen.append(arguments))
    name, protocol = next(iter(clip_protocols.PROTOCOLS.items()))
    comparison.opened('{"name": "clips"}', request(folder, protocol=name, seed=7))
    ((spec_text, shape, read, mark, *rest),) = seen
    assert spec_text == '{"name": "clips"}' and shape == (5, 4, 8, 8, 3) and "records" in mark
    assert read(1, 4)[:, 0, 0, 0, 0].tolist() == [1, 2, 3]
    assert rest == [protocol.frames, protocol.every, 7]
    monkeypatch.setattr(comparison.clip_sets, "open_set", lambda *arguments: arguments)
    of_files = comparison.opened("clips", request(folder, protocol=name, size=16, seed=7))
    assert of_files == ("clips", protocol.frames, protocol.every, 16, 7)


def test_the_entry_of_a_source_is_a_set_of_its_pictures(tmp_path):
    """The reference of a run on one's own folder is such an entry. The pictures are those that were written."""
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    for number, picture in enumerate(pictures):
        (tmp_path / "photos" / "ab"[number // 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "photos" / "ab"[number // 3] / f"{number}.png")
    spec = json.dumps({"name": "class_folders", "path": str(tmp_path / "photos")}) + "@train"
    opened = comparison.opened(spec, comparison.Request(protocol="edm"))
    assert (opened.count, opened.shape) == (6, (4, 4, 3)) and opened.record["images"] == spec
    np.testing.assert_array_equal(opened.read(1, 5), pictures[1:5])
    Image.fromarray(pictures[::-1][0]).save(tmp_path / "photos" / "a" / "0.png")
    assert comparison.opened(spec, comparison.Request(protocol="edm")).fingerprint != opened.fingerprint
    with pytest.raises(ImageSetError, match=r"Valid: pictures of bytes .*without --size"):
        comparison.opened(spec, comparison.Request(protocol="edm", size=8))
    points = tmp_path / "points.npz"
    np.savez(points, x=np.zeros((5, 2), np.float32))
    with pytest.raises(ImageSetError, match="Valid: pictures of bytes"):
        comparison.opened(json.dumps({"name": "arrays", "path": str(points)}) + "@train", comparison.Request())


def test_features_of_clips_that_have_changed_are_not_those_on_disk(tmp_path):
    """A fingerprint is of 256 records, so that the features of another clip that changed were read from disk."""
    clips = np.random.default_rng(0).integers(0, 256, (300, 16, 4, 4, 3), np.uint8)
    row = next(row for row in range(300) if row not in fingerprints.rows(300))
    name = next(name for name, protocol in clip_protocols.PROTOCOLS.items() if protocol.frames == 16)
    flat = lambda batch: {"main": np.float32(batch).reshape(len(batch), -1)[:, :2]}
    space = references.Space(flat, ("main",), "main", "clip(x * 127.5 + 128)", {"weights": "a"})
    spec = json.dumps({"name": "arrays", "path": str(tmp_path / "clips.npz")}) + "@train"
    for value in (0, 200):
        clips[row] = value
        np.savez(tmp_path / "clips.npz", image=clips)
        os.utime(tmp_path / "clips.npz", (value, value))
        opened = comparison.opened(spec, comparison.Request(protocol=name))
        gathered = references.gather(opened, space, folder=tmp_path / "features")
        expected = np.float64(flat(opened.read(0, 300))["main"]).mean(0)
        np.testing.assert_allclose(gathered.statistics.moments["main"].mean, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"metrics": ("fdi",)}, "'fdi'. Did you mean 'fid'"),
        ({"metrics": ()}, "^--metrics is empty. Valid: one or several of fid, "),
        ({"seed": -1}, "^--seed=-1. Valid: at least 0"),
        ({"features": "dino"}, "unknown features 'dino'"),
        ({"features": "inception"}, "--protocol is missing"),
        ({"features": "inception", "protocol": "admm"}, "Did you mean 'adm'"),
        ({"features": "inception", "protocol": "adm"}, "--inception is missing"),
        ({"protocol": "adm"}, "takes neither --protocol nor --inception"),
    ],
)
def test_mistakes(files, fields, match):
    with pytest.raises(ConfigError, match=match):
        comparison.run(request(files[0], **fields))


def test_a_cache_that_cannot_be_written(files, monkeypatch):
    (files[0] / "file").write_text("")
    monkeypatch.setenv("DIFFUSION_CACHE", f"{files[0]}/file")
    with pytest.raises(WorkdirError, match="DIFFUSION_CACHE"):
        comparison.run(request(files[0]))


# ==== Records ====


def measured(folder, **fields):
    wanted = request(folder, **fields)
    return records.measure(wanted)


@pytest.mark.extended
def test_a_record_says_it_all(files, capsys):
    folder, _, _ = files
    content = measured(folder)
    assert {"figures", "samples", "reference", "request", "git_commit", "seconds", "command"} <= content.keys()
    assert content["versions"]["jax"] == jax.__version__
    assert content["versions"]["diffusion"] == diffusion.__version__
    assert content["samples"]["count"] == 300 and len(content["samples"]["sha256"]) == 64
    records.write(folder / "r.json", content)
    assert records.read(folder / "r.json") == content
    records.show(content)
    text = capsys.readouterr().out
    assert "fd" in text and "fid" not in text and "300 samples against 300, pixels" in text


def test_the_samples_own_record_is_taken_over(files):
    folder, a, _ = files
    np.savez(folder / "samples.npz", images=a, labels=np.zeros(300))
    made = {"nfe": 99, "sample": {"seed": 7, "guidance": {"scale": 2.0}}, "checkpoint": {"step": 5}, "config": "abc"}
    (folder / "samples.json").write_text(json.dumps(made))
    content = measured(folder, samples=f"{folder}/samples.npz")
    assert content["sampling"] == made and content["config_hash"] == "abc"
    assert measured(folder)["sampling"] is None  # a.npz is another file


def test_verify(files):
    folder, a, _ = files
    records.write(folder / "r.json", measured(folder))
    assert records.verify(folder / "r.json") == []
    a[:100] = 255 - a[:100] // 2
    np.savez(folder / "a.npz", a)
    result = records.verify(folder / "r.json")
    assert result[0].startswith("samples.sha256: ") and any(line.startswith("figures.fd.value") for line in result)


def test_verify_takes_the_features_of_the_samples_anew(files, monkeypatch):
    folder, _, _ = files
    content = measured(folder, metrics=("fid",), seed=3)
    records.write(folder / "r.json", content)
    seen = []
    monkeypatch.setattr(records, "measure", lambda request, fresh: seen.append((request, fresh)) or content)
    assert records.verify(folder / "r.json") == []
    assert seen == [(request(folder, metrics=("fid",), seed=3), True)]


@pytest.mark.parametrize("rate, said", [(12.34, "1.2 s, 12.3 images/s\n"), (None, "1.2 s\n")])
def test_a_record_is_shown_with_its_title_figures_and_speed(capsys, rate, said):
    figure = {"value": 41.5, "standard_error": 0.5, "samples": 400, "reference": 1258}
    asked = {"samples": "", "autoencoder": "vae", "reference": "b.npz"}
    content = {"request": asked, "protocol": {"name": "adm"}, "figures": {"rfid": figure}, "warnings": ["few"],
               "seconds": {"total": 1.23, "images_per_second": rate}}  # fmt: skip
    records.show(content)
    text = capsys.readouterr().out
    assert text.strip().startswith("vae against b.npz, protocol adm") and text.endswith(f"note: few\n{said}")
    cells = [cell.strip() for line in text.splitlines() if "rfid" in line for cell in line.split("│")[1:-1]]
    assert cells == ["rfid", "41.5 ± 0.5", "400 samples against 1,258"]
    plain = {"samples": "a.npz", "autoencoder": "", "reference": "b.npz"}
    records.show(content | {"request": plain, "protocol": None, "features": {"features": "pixels, flattened"}})
    assert capsys.readouterr().out.strip().startswith("a.npz against b.npz, pixels, flattened")


def test_a_record_of_an_earlier_version_is_measured_again(files):
    """It called a Frechet distance of pixels "fid"; that name is FID's own now."""
    content = measured(files[0])
    old = dict(content) | {
        "figures": {
            {"fd": "fid", "kd": "kid"}.get(name, name): {key: part for key, part in result.items() if key != "space"}
            for name, result in content["figures"].items()
        }
    }
    assert old["figures"].keys() != content["figures"].keys()
    assert records.compare(old, content) == []


@pytest.mark.parametrize("name, off, differs", [("fd", 1e-4, False), ("fd", 2e-2, True), ("recall", 0.01, True)])
def test_tolerances(files, name, off, differs):
    before = measured(files[0])
    after = json.loads(json.dumps(before))
    after["figures"][name]["value"] += off
    result = records.compare(before, after)
    assert [line.split(":")[0] for line in result] == ([f"figures.{name}.value"] if differs else [])
    after["figures"][name]["value"] = None
    assert records.compare(before, after)[0].endswith("None now")


@pytest.mark.parametrize("change, words", [
    ({"figures": 1.5}, "figures.figures"), ({"figures": {"fid": 3}}, r"figures\.fid"), ({"samples": [1]}, "samples"),
    ({"figures": {"fid": {"value": "1"}}}, r"figures\.fid\.value"), ({"protocol": 7}, "protocol"),
])  # fmt: skip
def test_a_record_of_another_form_is_refused_whatever_its_checksum(change, words, tmp_path):
    """It ended in a traceback while it was compared."""
    content = {"format": records.FORMAT, "figures": {}, "request": {}, "protocol": None} | change
    path = tmp_path / "fid.json"
    records.write(path, {**content, "sha256": records._digest(content)})
    with pytest.raises(records.ResultError, match=rf"fid\.json has another form than .*: {words}"):
        records.read(path)


def test_a_figure_that_this_version_lacks_differs():
    of = lambda value: {"protocol": {}, "figures": {"odd": {"value": value}}}
    assert records.compare(of(1.0), of(1.0)) == ["figures.odd: this version has no such figure"]


ALLOWED = {  # absolute, and relative to the record's value
    ("fid", "sfid", "is", "rfid", "fd", "fvd", "cd_fvd"): (1e-3, 1e-4),
    ("fid_infinity",): (1e-2, 1e-3),
    ("kid",): (1e-6, 1e-3),
    ("cmmd",): (1e-4, 1e-3),
    ("mind",): (1e-3, 1e-3),
    ("precision", "recall", "coverage", "authenticity"): (2e-3, 0),
    ("density",): (2e-3, 2e-3),
    ("psnr",): (1e-2, 0),
    ("ssim",): (1e-4, 0),
}


@pytest.mark.parametrize("value", [0.5, -20.0])
def test_a_figure_may_be_off_by_its_tolerance(value):
    """Just below it and just above; of a negative figure, which an unbiased KID is by chance, as of a positive one."""
    for names, (absolute, relative) in ALLOWED.items():
        allowed = absolute + relative * abs(value)
        for name, share in ((name, share) for name in names for share in (-1.01, -0.99, 0.99, 1.01)):
            before, after = (
                {"protocol": {}, "figures": {name: {"value": value + off}}} for off in (0, share * allowed)
            )
            assert bool(records.compare(before, after)) == (abs(share) > 1), (name, share)


def test_every_figure_has_a_tolerance(files):
    content = measured(files[0], metrics=tuple(image_metrics.METRICS))
    assert content["figures"].keys() <= records.TOLERANCES.keys()


def test_an_altered_record_is_refused(files):
    folder, _, _ = files
    path = folder / "r.json"
    records.write(path, measured(folder))
    whole = path.read_text()
    path.write_text(whole.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(records.ResultError, match="was altered"):
        records.read(path)
    for text, match in [
        (whole[:200], "not valid JSON"),
        ("[1]", "is not a record of a measurement"),
        ("{}", "is not a record of a measurement"),
        (whole.replace('"format": 1', '"format": 2'), "has format 2"),
    ]:
        path.write_text(text)
        with pytest.raises(records.ResultError, match=match):
            records.read(path)
    with pytest.raises(records.ResultError, match="cannot be read"):
        records.read(folder / "none.json")


def test_a_record_with_hostile_fields_executes_nothing(files):
    """Its checksum is in order, as anyone can make it; its fields are no request."""
    folder, _, _ = files
    content = measured(folder)
    for change in ({"samples": ["a"]}, {"metrics": "fid"}, {"seed": "0; touch x"}, {"seed": True}, {"extra": 1}):
        hostile = {**content, "request": {**content["request"], **change}, "command": "touch executed"}
        hostile.pop("sha256")
        records.write(folder / "h.json", {**hostile, "sha256": records._digest(hostile)})
        with pytest.raises(records.ResultError, match="its request"):
            records.verify(folder / "h.json")


def test_the_command_is_rebuilt_from_fields(files):
    wanted = request("/tmp/a b", metrics=("fid", "is"), seed=3)
    assert records.command(wanted) == (
        "diffusion evaluate '--samples=/tmp/a b/a.npz' '--reference=/tmp/a b/b.npz' "
        "--features=pixels --metrics=fid,is --seed=3"
    )
    assert comparison.parse(json.loads(json.dumps(wanted._asdict()))) == wanted


def test_the_report_shows_inception_figures():
    rows = report.metric_rows(
        {
            "fid": {"value": 3.14159, "standard_error": 0.02, "samples": 50000, "reference": None},
            "is": {"value": None, "why": "value not measured: no logits"},
        }
    )
    assert rows == [("fid", "3.1416 ± 0.02", "50,000 samples"), ("is", "—", "value not measured: no logits")]


@pytest.mark.extended
def test_inception_features_in_the_loop(tmp_path, monkeypatch):
    """The features of the real images, which are slow to take, are taken once."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    calls = []

    def extract(batch):
        calls.append(len(batch))
        return batch.reshape(len(batch), -1)[:, 20:30].astype(np.float32)

    fake = features.Extractor(extract, {"features": "slow ones", "sha256": "0"}, keep=True)
    monkeypatch.setattr(sample_metrics, "inception_features", lambda path, protocol: fake)
    config = digits.get_config()
    config.evaluate.features, config.model.num_classes = ("inception",), 0
    images = np.random.default_rng(0).integers(0, 17, (50, 8, 8, 1), dtype=np.uint8) * 15
    result = [sample_metrics.evaluate_samples(images, np.zeros(50, int), config, "test") for _ in range(2)]
    assert result[0] == result[1] and result[0]["fd_inception"] > 0
    train, real = (real_images.split_of(config, name).images for name in ("train", "test"))
    assert sum(calls) == len(train) + len(real) + 2 * (50 + 50)  # of the samples and of noise, every time
    x = images.reshape(50, -1)[:, 20:30]
    whole = frechet.update(frechet.init(10), real.reshape(len(real), -1)[:, 20:30])
    expected = frechet.frechet_distance(frechet.update(frechet.init(10), x), whole)
    assert result[0]["fd_inception"] == pytest.approx(expected, rel=1e-9)


# ==== The command line ====


def command(*arguments, cache):
    environment = os.environ | {"DIFFUSION_CACHE": str(cache)}
    return commands.run("-m", "experiments.evaluate", *arguments, env=environment, timeout=600)


@pytest.mark.extended
def test_the_command_measures_and_verifies(files):
    folder, a, _ = files
    cache = folder / "cache"
    result = command(
        f"--samples={folder}/a.npz",
        f"--reference={folder}/b.npz",
        "--features=pixels",
        f"--out={folder}/r.json",
        cache=cache,
    )
    assert result.returncode == 0 and "fd" in result.stdout and "fid" not in result.stdout, result.stderr
    a[0] ^= 1
    np.savez(folder / "a.npz", a)
    result = command(f"--verify={folder}/r.json", cache=cache)
    assert result.returncode == 1 and "differs: samples.sha256" in result.stdout


def test_a_record_without_any_value_is_refused_with_its_reason(files):
    folder, _, _ = files
    none = records.measure(request(folder, metrics=("is",)))
    with pytest.raises(records.ResultError, match=r"no figure in r\.json has a value: .*has no logits"):
        records.require_value(none, pathlib.Path("r.json"))
    records.require_value(records.measure(request(folder, metrics=("is", "fid"))), pathlib.Path("r.json"))


@pytest.mark.extended
def test_the_command_fails_where_no_metric_has_a_value(files):
    folder = files[0]
    words = (f"--samples={folder}/a.npz", f"--reference={folder}/b.npz", "--features=pixels", "--metrics=is")
    result = command(*words, f"--out={folder}/r.json", cache=folder / "cache")
    assert result.returncode == 1 and "no figure in" in result.stderr and (folder / "r.json").is_file()


@pytest.mark.slow
def test_inception_end_to_end(files):
    """With weights of the right form that are not the published ones: refused, unless their digest is named."""
    folder, a, b = files
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in inception_weights.CONVOLUTIONS.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        tensors[f"{name}.weight"] = (rng.normal(size=shape) * scale).astype(np.float32)
        tensors |= {
            f"{name}.{part}": np.full(shape[:1], value, np.float32)
            for part, value in (("beta", 0.1), ("mean", 0.0), ("var", 1.0))
        }
    tensors["output.weight"] = rng.normal(size=(1008, 2048)).astype(np.float32)
    tensors["output.bias"] = np.zeros(1008, np.float32)
    path = folder / "w.safetensors"
    safetensors.numpy.save_file(tensors, path)
    np.savez(folder / "a.npz", np.repeat(a[:20], 4, 1))
    np.savez(folder / "b.npz", np.repeat(b[:20], 4, 1))
    wanted = request(folder, features="inception", protocol="pytorch-fid", inception=str(path), metrics=("fid", "is"))
    with pytest.raises(WeightsError, match="published numbers are computed with"):
        comparison.run(wanted)
    with pytest.raises(WeightsError, match="that --inception_sha256 names"):
        comparison.run(wanted._replace(inception_sha256="0" * 64))
    net = inception.load(path)
    wanted = wanted._replace(inception_sha256=net.digest)
    result = comparison.run(wanted)
    assert any("not those of the published figures" in text for text in result["warnings"])
    x = np.repeat(a[:20], 4, 1)
    prepared = protocols.preprocess(protocols.PROTOCOLS["pytorch-fid"], x)
    rows = np.asarray(inception.features(net.params, prepared)["2048"])
    mean = result["figures"]["fid"]
    assert mean["space"] == "Inception-v3" and (mean["samples"], mean["reference"]) == (20, 20)
    moments = frechet.update(frechet.init(2048), rows)
    other = protocols.preprocess(protocols.PROTOCOLS["pytorch-fid"], np.repeat(b[:20], 4, 1))
    real = frechet.update(frechet.init(2048), np.asarray(inception.features(net.params, other)["2048"]))
    assert mean["value"] == pytest.approx(frechet.frechet_distance(moments, real), rel=1e-4)
    assert result["figures"]["is"]["value"] > 1
    comparison.make_reference(wanted, folder / "b.safetensors")
    with pytest.raises(StatisticsError, match="resize: made with 'bilinear_torch', but needed with 'bicubic_pil'"):
        comparison.run(wanted._replace(protocol="clean-fid", reference=str(folder / "b.safetensors")))
    with pytest.raises(ImageSetError, match="does not exist"):
        comparison.run(wanted._replace(samples="none.npz"))


def test_only_clips_of_bytes_are_records_for_a_protocol_of_clips(files, monkeypatch):
    folder, _, _ = files
    name = next(iter(clip_protocols.PROTOCOLS))
    for dtype, shape, size in (("float32", (4, 8, 8, 3), 0), ("uint8", {"x": (3,)}, 0), ("uint8", (4, 8, 8, 3), 16)):
        source = types.SimpleNamespace(spec=types.SimpleNamespace(shape=shape, dtype=dtype, size=5))
        monkeypatch.setattr(comparison.data, "named", lambda spec, source=source: source)
        with pytest.raises(ImageSetError, match="Valid: clips of bytes"):
            comparison.opened('{"name": "clips"}', request(folder, protocol=name, size=size))


def test_the_kept_features_of_the_samples_are_used_unless_fresh_ones_are_wanted(files):
    folder, _, _ = files
    comparison.run(request(folder, metrics=("fid",)))
    rates = [comparison.run(request(folder, metrics=("fid",)), *fresh)["seconds"] for fresh in ((), (True,))]
    assert rates[0]["images_per_second"] in (0, None) and rates[1]["images_per_second"] > 0

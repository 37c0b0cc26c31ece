"""Which parts of an evaluation receive what, with functions that a test can read in place of networks and files."""

import pathlib
import types

import numpy as np
import pytest

from diffusion import discrete
from diffusion.experiments.evaluation import (
    backbone_figures,
    comparison,
    held_out,
    model_card,
    protocol_table,
    real_images,
    reconstructions,
    sample_metrics,
    sample_pictures,
    series_files,
    sound_metrics,
    subject,
    symbol_bounds,
)
from diffusion.metrics import image_sets
from diffusion.objectives import Restores
from diffusion.recipe import ConfigError
from diffusion.recipe.values import from_json
from tests.experiments.evaluation import charts


def named(**parts):
    return types.SimpleNamespace(**parts)


# ==== Samples as files ====


def test_clips_are_drawn_with_their_classes_at_the_rate_of_the_data(monkeypatch):
    monkeypatch.setattr(sample_pictures.clip_pictures, "draw", lambda *arguments: arguments)
    samples = sample_pictures.Samples(None, "x", "labels", "classes", False, "out")
    assert sample_pictures._clips(samples, named(rate=12.0)) == ("x", "classes", "out", 12.0)
    assert sample_pictures._clips(samples, None) == ("x", "classes", "out", sample_pictures.clip_pictures.RATE)


def test_symbols_are_a_line_each_whose_breaks_are_written_out(tmp_path):
    samples = sample_pictures.Samples(None, np.array([[0, 2, 1], [1, 1, 0]]), None, None, False, tmp_path)
    (path,) = sample_pictures._symbols(samples, named(spec=named(vocabulary=("a", "b", "\n"))))
    assert path == tmp_path / "samples.txt" and path.read_bytes() == b"a\\nb\nbba\n"


def test_chains_are_written_by_their_numbers_and_classes_and_drawn_by_their_second_atoms(monkeypatch, tmp_path):
    saved, drawn = [], []
    monkeypatch.setattr(backbone_figures.backbone, "atoms_of", lambda frames: frames)
    monkeypatch.setattr(backbone_figures.backbone, "with_oxygen", lambda atoms: atoms + 1)
    monkeypatch.setattr(backbone_figures.pdb, "save", lambda path, chain: saved.append((path.name, chain)))
    monkeypatch.setattr(backbone_figures, "draw", lambda *arguments: drawn.append(arguments))
    frames = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    labels = np.array([1, 0])
    assert backbone_figures.write(frames, labels, ("strand", "helix"), tmp_path) == [
        tmp_path / "pdb", tmp_path / "samples.png",
    ]  # fmt: skip
    assert [name for name, _ in saved] == ["00000_helix.pdb", "00001_strand.pdb"]
    np.testing.assert_array_equal(saved[1][1], frames[1] + 1)
    ((ca, to_labels, names, path),) = drawn
    np.testing.assert_array_equal(ca, frames[:, :, 1] + 1)
    assert to_labels.tolist() == [1, 0] and names == ("strand", "helix") and path == tmp_path / "samples.png"


def test_chains_of_one_class_fill_columns_and_have_one_scale(monkeypatch):
    figures = charts.kept(monkeypatch, backbone_figures)
    points = np.arange(42.0).reshape(7, 2, 3) ** 2
    backbone_figures.draw(points, np.zeros(7, int), (), "unused.png")
    axes = figures[0].axes
    spans = [each.get_subplotspec() for each in axes]
    assert {span.get_gridspec().get_geometry() for span in spans} == {(2, 6)}
    at = sorted((span.rowspan.start, span.colspan.start) for span in spans)
    assert at == [*((0, column) for column in range(6)), (1, 0)]
    assert not any(each.get_title() for each in axes)
    for each in axes:
        assert np.ptp(each._box_aspect) == 0


# ==== Symbols ====


def test_the_deviation_of_a_draw_is_over_the_times_of_a_sequence(monkeypatch):
    """Sequence k of two symbols costs 2 k + j at its time j: over j = 0 .. 31, the mean of k + j / 2."""
    recipe = named(objective=named(process=None))
    monkeypatch.setattr(symbol_bounds, "recipe_of_run", lambda subject: recipe)
    bound = lambda params, labels, keys, x0, t: 2.0 * x0[:, 0] + np.arange(32)
    monkeypatch.setattr(symbol_bounds, "bound_of", lambda recipe, params: ("its name", bound))
    rows = np.array([[1, 0], [2, 0], [6, 0]])
    run = named(config=named(evaluate=named(number=9)), workdir="run", real=named(images=rows, labels=np.zeros(3, int)))
    monkeypatch.setattr(symbol_bounds.checkpoints, "load_ema", lambda folder: (1.0, 7))
    found = symbol_bounds.bits_per_symbol(run)
    assert found["nats_per_symbol"]["value"] == pytest.approx(3 + 15.5 / 2)
    protocol = found["nats_per_symbol"]["protocol"]
    assert protocol["deviation_of_a_draw"] == pytest.approx(np.std(np.arange(32) / 2, ddof=1))
    assert protocol["sequences"].startswith("3 of the 3 held-out sequences") and protocol["step"] == 7


@pytest.mark.parametrize("null", [None, 4])
def test_a_bound_is_of_the_network_with_the_process_of_the_run(monkeypatch, null):
    process = discrete.absorbing(discrete.linear(), 4)
    monkeypatch.setattr(symbol_bounds, "_named", lambda process, block: (f"of {block}", lambda *parts: parts))
    monkeypatch.setattr(symbol_bounds.symbol_samples, "process_of", lambda reads, params: ("trained", params))
    monkeypatch.setattr(discrete, "predictor", lambda network, *parts: (network, *parts))
    objective = named(reads=Restores(process, "reading"), network=named(causal=2))
    network = named(apply=lambda *arguments: arguments)
    config = named(objective=named(name="made"))
    recipe = named(objective=objective, examples=named(by_record=False, null=null), network=network, config=config)
    name, nats = symbol_bounds.bound_of(recipe, "params")
    (predict, trained, *rest) = nats("new", np.array([1, 2]), "keys", "x0", "t")
    assert name == "of 2" and trained == ("trained", "new") and rest == ["keys", "x0", "t"]
    applied, to_process, reading, condition = predict
    assert applied("x", "t", "condition") == ("new", "x", "t", "condition")
    assert (to_process, reading) == (trained, "reading")
    assert condition is None if null is None else np.asarray(condition).tolist() == [1, 2]


# ==== Sets of pictures ====


def test_reconstructions_are_known_by_what_the_autoencoder_is_in_any_order(monkeypatch):
    monkeypatch.setattr(reconstructions.autoencoder_folders, "latent", lambda autoencoder, shape: None)
    monkeypatch.setattr(reconstructions.autoencoder_folders, "reconstruction", lambda autoencoder: None)
    originals = image_sets.from_array(np.zeros((2, 4, 4, 3), np.uint8))
    module = named(picture_channels=3)
    fingerprint = lambda record: (
        reconstructions.reconstruct(named(path="vae", module=module, record=record), originals).images.fingerprint
    )
    record = {"sha256": "a", "config": {"width": 1, "depth": 2}}
    turned = {"config": {"depth": 2, "width": 1}, "sha256": "a"}
    assert fingerprint(record) == fingerprint(turned) != fingerprint(record | {"sha256": "b"})


@pytest.mark.parametrize("of_clips", [False, True])
def test_a_network_of_a_protocol_is_described_beside_its_space(monkeypatch, of_clips):
    kind = comparison.ClipProtocol if of_clips else comparison.EncoderProtocol
    module = comparison.clip_protocols if of_clips else comparison.encoder_protocols
    protocol = named(name="made", network="its network", dimensions=5)
    monkeypatch.setattr(comparison, "ClipProtocol", type(protocol) if of_clips else kind)
    loaded = named(name="loaded", dimensions=7)
    monkeypatch.setattr(module, "load", lambda protocol, folder: loaded if folder == "a folder" else None)
    monkeypatch.setattr(module, "described", lambda protocol: ("described", protocol.name))
    monkeypatch.setattr(module, "record", lambda network: ("record", network.name))
    monkeypatch.setattr(module, "space", lambda *parts: ("space", parts[-1].name))
    request = named(inception="", encoder="a folder")
    space, description = comparison._network_space(protocol, request)
    features = ("loaded", 7) if of_clips else ("its network", 5)
    assert space == ("space", "loaded")
    assert description == {
        "features": dict(zip(("features", "dimensions"), features)), "protocol": ("described", "made"),
        "weights": ("record", "loaded"),
    }  # fmt: skip
    for wrong, message in (({"inception": "a"}, "takes no --inception"), ({"encoder": ""}, "--encoder is missing")):
        with pytest.raises(ConfigError, match=message):
            comparison._network_space(protocol, named(**{"inception": "", "encoder": "a folder", **wrong}))


@pytest.mark.parametrize("ending, name", [(".npz", "npz"), (".pkl", "pickle"), (".safetensors", "own")])
def test_a_reference_is_written_for_the_program_of_its_ending(monkeypatch, ending, name):
    written, asked = [], []
    space = named(main="features", edm2="fid", name="a space")
    gathered = named(statistics="statistics", rows={"features": "rows"})
    monkeypatch.setattr(comparison, "space_of", lambda request: (space, None))
    monkeypatch.setattr(comparison, "opened", lambda spec, request: "images")
    monkeypatch.setattr(comparison, "_gather", lambda what, images, space, taps, *_: asked.append(taps) or gathered)
    for function, kind in (("write_npz", "npz"), ("write_pickle", "pickle"), ("write", "own")):
        keep = lambda *arguments, kind=kind: written.append((kind, *arguments))
        monkeypatch.setattr(comparison.statistics, function, keep)
    out = pathlib.Path(f"a{ending}")
    assert comparison.make_reference(named(reference="a"), out) == "statistics"
    more = {"npz": ("features", "rows"), "pickle": ("features", "fid"), "own": ()}[name]
    assert written == [(name, out, "statistics", *more)]
    assert asked == [("features",) if name == "npz" else ()]
    space.edm2 = ""
    if name == "pickle":
        with pytest.raises(ConfigError, match=r"Valid: \.safetensors, \.npz"):
            comparison.make_reference(named(reference="a"), out)


# ==== Runs ====


@pytest.mark.parametrize("dtype, classes", [("int32", 0), ("float32", 0), ("float32", 3)])
def test_other_examples_than_pictures_are_measured_by_their_kind(monkeypatch, dtype, classes):
    calls, parts = [], []
    for module in ("symbol_metrics", "vector_metrics"):
        measure = lambda *arguments, module=module: calls.append((module, arguments)) or {"measured": 1}
        monkeypatch.setattr(sample_metrics, module, named(measure=measure))
    monkeypatch.setattr(sample_metrics.held_out, "require", lambda *_: held_out.TrainedOn(1, 9))
    real = named(spec=named(num_classes=5, pictures=False, dtype=dtype))
    config = {"evaluate": {"features": ()}, "model": {"num_classes": classes}}
    effort = sample_metrics.Effort(11, 12)
    found = sample_metrics.measure("x", "labels", config, "test", effort, parts.append, ("train", real))
    assert found == {"measured": 1, "trained_on": {"count": 1, "of": 9}} and parts == [2]
    name = "symbol_metrics" if dtype == "int32" else "vector_metrics"
    assert calls == [(name, ("x", config, "train", real, 11, 12, "labels" if classes else None))]


def test_the_features_of_inception_are_of_the_file_and_the_protocol_of_the_config(monkeypatch):
    monkeypatch.setattr(sample_metrics, "inception_features", lambda *arguments: arguments)
    config = {"evaluate": {"inception": "a file", "protocol": "adm"}}
    assert sample_metrics.extractor_of("inception", config, None) == ("a file", "adm")


def test_a_classifier_is_trained_on_the_training_pictures_with_a_seed(monkeypatch):
    cached = lambda images, labels, training: training(images, labels, 4)
    monkeypatch.setattr(sample_metrics.classifier, "cached", cached)
    monkeypatch.setattr(
        sample_metrics.classifier, "train", lambda images, labels, seed, advance: (images, labels, seed)
    )
    assert sample_metrics.trained_classifier(named(images="images", labels="labels")) == ("images", "labels", 4)


def test_kept_features_of_real_images_are_read_from_the_cache(monkeypatch):
    moments = named(mean=np.zeros(3))
    gathered = named(statistics=named(moments={"features": moments}))
    calls = []
    monkeypatch.setattr(sample_metrics.references, "function_space", lambda extractor: "space")
    monkeypatch.setattr(sample_metrics.references, "cache_folder", lambda: "folder")
    monkeypatch.setattr(sample_metrics.references, "gather", lambda *arguments: calls.append(arguments) or gathered)
    monkeypatch.setattr(sample_metrics.frechet, "distance_to", lambda reference: reference)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    distance, effort = sample_metrics.distance_to(named(keep=True), named(images=images), sample_metrics.Effort(1, 1))
    assert distance is moments and effort == (1, 1)
    ((to_images, *rest),) = calls
    assert to_images.count == 2 and rest == ["space", ("features",), "folder"]


def run_of(built=None, **config):
    real = named(images=np.zeros((7, 8, 8, 1)), spec=named(shape=(8,)))
    return subject.Subject(config, "run", None, None, None, real, built)


def test_a_run_of_plain_data_is_described_by_its_records(monkeypatch):
    monkeypatch.setattr(subject.pytrees, "is_shape", lambda shape: False)
    monkeypatch.setattr(subject.checks, "validate", lambda config: ("checked", config))
    monkeypatch.setattr(subject.checks, "with_data", lambda *arguments: arguments)
    run = run_of(a=1)
    assert subject.recipe_of_run(run) == (("checked", {"a": 1}), run.real.spec)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_model_says_whether_it_has_classes(classes):
    assert subject.has_classes(run_of(model={"num_classes": classes})) is bool(classes)
    built = named(examples=named(num_classes=classes))
    assert subject.has_classes(run_of(built, model={"num_classes": 3 - classes})) is bool(classes)
    assert subject.has_classes(run_of(model={})) is False


@pytest.mark.parametrize("in_python", [False, True])
def test_a_density_is_of_the_run_without_guidance_and_guides(monkeypatch, in_python):
    config = from_json(
        '{"sample": {"guidance": {"name": "interval", "scale": 4.0}, "guides": [1], "cache": {"name": "taylor"}, '
        '"merge": 0.5, "steps": 9}}'
    )
    changed = []
    monkeypatch.setattr(subject, "recipe_of_run", lambda run: run.config)
    monkeypatch.setattr(subject.guidance_entry, "guided", lambda *arguments: arguments)
    built = named(
        config=config, schedule="schedule", with_parts=lambda **parts: changed.append(parts) or parts["config"]
    )
    run = run_of(built if in_python else None)._replace(config=None if in_python else config)
    plain = subject.unguided(run).sample
    assert plain.guidance.to_dict() == {"name": "classifier_free", "scale": 1.0}
    assert (tuple(plain.guides), plain.cache.name, plain.merge, plain.steps) == ((), "", 0.0, 9)
    assert config.sample.merge == 0.5 and len(changed) == in_python
    if in_python:
        (parts,) = changed
        assert parts.pop("guidance")("branches") == (parts.pop("config"), "schedule", "branches")
        assert parts == {"conditions": None, "depths": False, "guides": (), "cache": None, "merge": 0.0}


def test_a_split_without_validation_is_measured_in_the_loop_on_the_evaluated_one(monkeypatch):
    def source(config, split):
        if split not in config["has"]:
            raise ConfigError(f"no {split}")
        return split

    monkeypatch.setattr(held_out.data, "source", source)
    monkeypatch.setattr(held_out, "_by_number", lambda other, train: 3 if other == "validation" else 0)
    config = {"evaluate": {"split": "test"}, "data": {"split": "train"}, "has": ("train", "test")}
    assert held_out.split_in_the_loop(config) == "test"
    with pytest.raises(ConfigError, match="no test"):
        held_out.split_in_the_loop(config | {"has": ("train",)})
    assert held_out.split_in_the_loop(config | {"has": ("train", "test", "validation")}) == "test"
    monkeypatch.setattr(held_out, "_by_number", lambda other, train: 0)
    assert held_out.split_in_the_loop(config | {"has": ("train", "test", "validation")}) == "validation"


def test_sources_of_one_fingerprint_share_all_records(monkeypatch):
    class Records(list):
        def fingerprint(self):
            return len(self)

    monkeypatch.setattr(held_out, "_by_number", lambda other, train: None)
    monkeypatch.setattr(held_out.real_images, "records", lambda source: pytest.fail("the records were read"))
    assert held_out._count(Records("abc"), Records("xyz")) == 3
    monkeypatch.setattr(held_out, "COMPARED", 3)
    assert held_out._count(Records("abc"), Records("abcd")) is None
    monkeypatch.setattr(held_out, "_by_number", lambda other, train: 2)
    assert held_out._count(Records("abc"), Records("xyz")) == 2


def test_pictures_of_several_sizes_are_read_at_the_size_of_the_recipe(monkeypatch):
    monkeypatch.setattr(real_images, "_read", lambda source, damaged, sizes: (source, damaged, sizes))
    monkeypatch.setattr(real_images.python_objects, "source_of", lambda records, classes, split: (records, split))
    data = named(buckets=named(area=0))
    recipe = named(
        data="mine", held_out="others", config=named(data=data), examples=named(shape=(8, 12, 3), num_classes=2)
    )
    splits = real_images.read_splits(recipe)
    assert splits == ((("mine", "train"), "stop", ()), (("others", "held out"), "stop", ()))
    data.buckets.area = 96
    assert [sizes for *_, sizes in real_images.read_splits(recipe)] == [(8, 12)] * 2
    monkeypatch.setattr(real_images, "splits_of", lambda config: ("of", config))
    recipe.data = None
    assert real_images.read_splits(recipe) == ("of", recipe.config)


# ==== Reports ====


def test_a_card_names_what_was_encoded_and_the_augmentation():
    data = {"split": "train", "latents": {"dir": "/a/latents"}, "text": {"dir": ""}, "augment": [{"name": "flip"}]}
    assert model_card._data(data, "birds").splitlines() == [
        "- dataset: `birds`, split `train`",
        "- latents: `latents`, encoded before the training",
        '- augmentation: `[{"name": "flip"}]`',
    ]
    plain = {"latents": {"dir": ""}, "text": {"dir": "b/captions"}, "augmentation": {"crop": 2}}
    assert model_card._data(plain, "birds").splitlines() == [
        "- dataset: `birds`, split `None`",
        "- captions: `captions`, encoded before the training",
        '- augmentation: `{"crop": 2}`',
    ]


def test_a_card_shows_warnings_of_protocols_and_samples_of_other_classes(monkeypatch):
    parts = (("adm", {"warnings": ["few samples"]}), ("edm", {}))
    monkeypatch.setattr(model_card.run_report, "under_protocols", lambda content: parts)
    distances = {
        "far": {"ratio": 3.25, "ratio_interval": (1.5, 4)},
        "near": {"ratio": 1.1, "ratio_interval": (1, 2)},
        "wide": {"ratio": 9, "ratio_interval": None},
    }
    content = {"figures": {"asked_class": {"share": 0.875}, "frechet": distances}}
    assert list(model_card._shown(content)) == [
        "- 12.5% of the samples are not recognised as the requested class.",
        "- The Frechet distance of the samples to real examples (far) is 3.25 times that of other real examples.",
        "- adm: few samples",
    ]
    content["figures"]["asked_class"]["share"] = 1
    assert len(list(model_card._shown(content))) == 2 and list(model_card._shown(None)) == []


def test_a_table_of_protocols_is_shown_with_each_warning_once(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(protocol_table.report, "show", lambda *arguments: shown.append(arguments))
    row = {"figure": "fid", "value": None, "why": "no file", "warnings": ["few", "small"]}
    rows = {"adm": row, "edm": row | {"warnings": ["small", "grey"]}}
    protocol_table.show(rows, named(samples="a", reference="b"), pathlib.Path("out"))
    ((title, header, cells),) = shown
    assert title == "a against b under every protocol" and header is protocol_table.HEADER
    assert cells == [("adm", "fid", "—", "", "no file"), ("edm", "fid", "—", "", "no file")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["note: few", "note: small", "note: grey"]
    assert lines[3].startswith(str(pathlib.Path("out") / protocol_table.FILE))


def test_series_without_a_filled_value_are_no_file(tmp_path):
    assert series_files.write("another source", np.zeros(3), tmp_path) == []
    source = object.__new__(series_files.StandardSeries)
    whole = {"a": np.array([[1.0, np.nan]])}
    vars(source).update(series=whole, filled=lambda samples: {"a": np.array([[1.0, np.nan]])})
    assert series_files.write(source, np.zeros(3), tmp_path) == [] and not list(tmp_path.iterdir())


def test_sounds_without_a_pitch_are_heard(monkeypatch):
    sound = named(form=named(pitched=False))
    monkeypatch.setattr(sound_metrics, "held_out_source", lambda subject: named(sound=sound))
    assert sound_metrics.sound_of(None, "sound") is sound
    sound.form.pitched = True
    with pytest.raises(ConfigError, match="--metrics=sound does not support notes with a pitch"):
        sound_metrics.sound_of(None, "sound")
    monkeypatch.setattr(sound_metrics, "held_out_source", lambda subject: named())
    with pytest.raises(ConfigError, match="--metrics=sound is for runs on sound, but birds holds none"):
        sound_metrics.sound_of(named(real=named(spec=named(name="birds"))), "sound")

"""The evaluation of a run folder: figures that order good and bad samples, the report, and what bad input gets."""

import functools
import hashlib
import json
import pathlib
import re

import numpy as np
import pytest

from configs import digits as recipe
from diffusion.data.digits import digits
from diffusion.experiments import evaluate
from diffusion.experiments.evaluation import real_images, run_report, sample_metrics
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sampling.sample_files import read_samples
from diffusion.io import json_files
from diffusion.metrics import classifier, encoder_protocols, protocols
from diffusion.recipe import ConfigError
from diffusion.recipe.values import config_hash, to_json
from tests import commands, kept_programs

UPDATE = classifier._update
QUICK = sample_metrics.Effort(draws=20, subsets=3)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """A cache of classifiers trained for a fifth of the steps, apart from the user's; kept as compiled programs are."""
    train, update = functools.partial(classifier.train, steps=120), classifier._update

    def updated(*arguments):
        with kept_programs.compiled_as_in_use():  # without XLA's optimizations a step takes twice as long
            return update(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        kept = kept_programs.folder()
        version = hashlib.sha256(pathlib.Path(classifier.__file__).read_bytes()).hexdigest()[:16]
        cache = kept / f"classifiers-{version}" if kept else tmp_path_factory.mktemp("cache")
        patch.setenv("DIFFUSION_CACHE", str(cache))
        patch.setattr(classifier, "train", train)
        patch.setattr(classifier, "_update", updated)
        patch.setattr(classifier, "_in_memory", {})
        real_images._read_split.cache_clear()
        yield
        real_images._read_split.cache_clear()


@pytest.fixture(scope="module")
def brief_cache(tmp_path_factory):
    """A cache of classifiers of two steps."""
    return tmp_path_factory.mktemp("brief")


@pytest.fixture
def brief_classifier(brief_cache, monkeypatch):
    """Classifiers are trained for two steps, where none need be good."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(brief_cache))
    monkeypatch.setattr(classifier, "train", functools.partial(classifier.train, steps=2))
    monkeypatch.setattr(classifier, "_update", UPDATE)
    monkeypatch.setattr(classifier, "_in_memory", {})


@pytest.fixture
def config():
    return recipe.get_config()


def samples(split, per_class):
    """Real digits in the samples' order of classes."""
    images, labels, splits = digits()
    order = np.random.default_rng(0).permutation(len(labels))
    rows = [order[(splits[order] == split) & (labels[order] == label)][:per_class] for label in range(10)]
    chosen = np.stack(rows, 1).ravel()
    return images[chosen], labels[chosen]


def noise(images, seed=0):
    return np.random.default_rng(seed).integers(0, 256, images.shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, config):
    """A run folder with real training digits as its samples."""
    images, labels = samples("train", 40)
    write(tmp_path, config, images=images, labels=labels, seeds=np.arange(400))
    return tmp_path


def write(folder, config, **arrays):
    (folder / "config.json").write_text(to_json(config))
    np.savez(folder / "samples.npz", **arrays)


@pytest.mark.slow
def test_real_digits_reach_the_floor_and_noise_does_not(config):
    images, labels = samples("train", 40)
    good = sample_metrics.measure(images, labels, config, "test", QUICK)
    assert good["count"] == 359  # the whole test split
    assert good["asked_class"]["share"] > 0.95 and good["asked_class"]["real"]["count"] == 359
    for name in ("pixels", "classifier"):
        figure = good["frechet"][name]
        assert 0.7 < figure["ratio"] < 1.5
        assert figure["ratio"] == pytest.approx(figure["distance"] / figure["floor"]["mean"])
        assert figure["interval"][0] < figure["distance"] < figure["interval"][1]
        assert figure["noise"] > 10 * figure["distance"]
    assert good["neighbours"]["samples"]["exact_duplicates"] == 400  # copies show

    bad = sample_metrics.measure(noise(images), labels, config, "test", QUICK)
    assert bad["asked_class"]["share"] < 0.3
    for name, figure in bad["frechet"].items():
        assert figure["distance"] == pytest.approx(figure["noise"], rel=0.2), name
    assert bad["neighbours"]["samples"]["exact_duplicates"] == 0


@pytest.mark.extended
def test_a_wrong_class_is_not_the_requested_one(config):
    images, labels = samples("test", 10)
    assert sample_metrics.measure(images, (labels + 1) % 10, config, "test", QUICK)["asked_class"]["share"] < 0.05


@pytest.mark.extended
def test_a_missing_mode_costs_distance(config):
    """Samples that are one image a class: right classes, no variety."""
    images, labels = samples("train", 40)
    first = images[:10][labels]
    figure = sample_metrics.measure(first, labels, config, "test", QUICK)["frechet"]["pixels"]
    assert figure["ratio"] > 3


@pytest.mark.extended
def test_same_samples_same_figures(config):
    images, labels = samples("validation", 10)
    measure = lambda: json_files.plain(sample_metrics.measure(images, labels, config, "test", QUICK))
    assert measure() == measure()


def test_in_loop_figures_are_plain_numbers(brief_classifier, config):
    images, labels = samples("test", 6)
    flat = sample_metrics.evaluate_samples(images, labels, config)
    assert set(flat) == {
        "asked_class",
        "fd_pixels",
        "fd_pixels_over_floor",
        "fd_classifier",
        "fd_classifier_over_floor",
        "nearest_over_held_out",
    }
    assert json.loads(json.dumps(flat)) == flat and all(np.isfinite(value) for value in flat.values())
    assert all(type(value) is float for value in flat.values())


def test_an_unconditional_model_has_no_requested_class(brief_classifier, config):
    config.model.num_classes = 0
    images, _ = samples("validation", 10)
    flat = sample_metrics.evaluate_samples(images, np.zeros(len(images), int), config)
    assert "asked_class" not in flat and flat["fd_pixels_over_floor"] < 3


def test_a_protocol_states_what_it_measures():
    """MIND's and those of encoders their own figures, the others the command's; the flag's help names them all."""
    assert evaluate.measured_by("mind") == ("mind",)
    assert evaluate.measured_by("cmmd") == ("cmmd",) and evaluate.measured_by("fdr-convnext") == ("fid",)
    assert evaluate.measured_by("adm") == evaluate.measured_by(None) == evaluate.measured_by("other") == ()
    source = pathlib.Path(evaluate.__file__).read_text()
    flag = source[source.index('"protocol",') : source.index('        "encoder",')]
    words = set(re.findall(r"[\w-]+", flag))
    assert {*protocols.PROTOCOLS, *encoder_protocols.PROTOCOLS} <= words


@pytest.mark.parametrize("protocol, entry", [("adm", "inception"), ("cmmd", "encoders"), ("all", "protocols")])
def test_the_samples_of_a_run_are_measured_under_a_protocol(protocol, entry, config, tmp_path, monkeypatch):
    """The record lies beside the samples."""
    requests = []
    record = {"figures": {"fid": {"value": 2.0}}, "warnings": [], "reference": {"count": 9}}
    monkeypatch.setattr(evaluate.records, "measure", lambda request: requests.append(request) or record)
    monkeypatch.setattr(evaluate.held_out, "count_in_reference", lambda *_: 4)
    rows = lambda request, out: requests.append(request) or [str(out)]
    monkeypatch.setattr(evaluate.protocol_table, "measure", rows)
    values = dict.fromkeys((*evaluate.comparison.Request._fields, "out")) | {"protocol": protocol}
    monkeypatch.setattr(evaluate.flags, "FLAGS", Values(values))
    measured = evaluate.measure_protocol(config, tmp_path, ())
    assert measured.keys() == {entry} and requests[0].samples == str(tmp_path / "samples.npz")
    assert requests[0].reference == f"{config.data.name}@train"
    if protocol == "all":
        assert measured["protocols"] == [str(tmp_path / "protocols")]
        return
    part = measured["inception"] if protocol == "adm" else measured["encoders"]["cmmd"]
    assert part["figures"] == record["figures"] and part["records"] == {
        "split": "digits@train",
        "count": 9,
        "trained_on": 4,
    }
    assert json.loads(pathlib.Path(part["record"]).read_text()) == record


class Values(dict):
    """Flags by their names, as attributes too."""

    __getattr__ = dict.__getitem__


def test_balanced_order_takes_turns():
    labels = np.array([2, 2, 0, 1, 2, 0, 1, 0])
    order = real_images.balanced_order(labels)
    assert order.tolist() == [2, 3, 0, 5, 6, 1, 7, 4]


@pytest.mark.extended
def test_report(folder, config, capsys):
    (folder / "samples.png").write_bytes(b"")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    sampling = {
        "sample": json.loads(to_json(config.sample)),  # lists, where the config has tuples
        "nfe": 39,
        "checkpoint": {"step": 7, "weights": "ema"},
        "config": "abc",
        "command": "diffusion sample --workdir=x",
    }
    (folder / "samples.json").write_text(json.dumps(sampling))
    content = evaluate.run(config, folder, "diffusion evaluate --workdir=x", QUICK)
    assert json.loads((folder / "report.json").read_text()) == content
    protocol = content["protocol"]
    assert protocol["dataset"] | {"split": "test", "split_size": 359, "train_size": 1258} == protocol["dataset"]
    assert protocol["config_hash"] == config_hash(config) and protocol["sampling"] == sampling
    assert protocol["distance"]["N"] == 359 and protocol["versions"]["jax"]
    text = (folder / "report.md").read_text()
    ratio = content["figures"]["frechet"]["pixels"]["ratio"]
    for part in (
        "(samples.png)",
        "(curves.png)",
        f"**{ratio:.2f}",
        "39 network evaluations",
        f"ema of step 7 of {config.train.steps}",
        "scale 1.05",
        "diffusion sample --workdir=x",
        "diffusion evaluate --workdir=x",
        "1,258",
        "359",
    ):
        assert part in text, part
    assert "(trajectory.png)" not in text  # which is not there
    run_report.show(content, folder, run="runs/of")
    shown = capsys.readouterr().out
    assert "diffusion sample --workdir=runs/of --config.sample.steps" in shown  # and not the samples' folder
    assert f"{ratio:.2f}" in shown and "Look at:" in shown and "Try next:" in shown and "report.md" in shown
    left = {path.name for path in folder.iterdir()}
    assert not {name for name in left if name.endswith((".tmp", ".new"))}
    figure = {"value": 41.5, "standard_error": 0.5, "samples": 400, "reference": 1258, "space": "DINOv2 ViT-L/14"}
    part = {
        "figures": {"fd": figure},
        "warnings": ["too few."],
        "protocol": "dgm-eval",
        "reference": "b",
        "record": "c",
    }
    part["network"] = "DINOv2 ViT-L/14"
    text = run_report.markdown(content | {"encoders": {"dgm-eval": part}}, folder)
    assert "41.5" in text and "DINOv2 ViT-L/14, protocol dgm-eval, against b; c" in text
    assert "- **DINOv2 ViT-L/14**: too few." in text


def test_a_report_keeps_the_figures_of_other_protocols_of_the_same_samples():
    content = {"figures": 1, "protocol": {"samples": {"sha256": "a"}}}
    before = {"figures": 0, "protocol": {"samples": {"sha256": "a"}}, "encoders": {"cmmd": {}}, "inception": {}}
    assert evaluate.with_earlier(content, before) == content | {"encoders": {"cmmd": {}}, "inception": {}}
    other = {**before, "protocol": {"samples": {"sha256": "b"}}}
    assert evaluate.with_earlier(content, other) == evaluate.with_earlier(content, {}) == content


def test_without_samples_json_the_report_says_so(brief_classifier, folder, config):
    evaluate.run(config, folder, "command", QUICK)
    assert "no samples.json" in (folder / "report.md").read_text()


def test_the_report_of_another_run_is_not_replaced(tmp_path, config):
    """`--samples` of run B with --workdir of run A wrote the report of A's model into B."""
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints/20").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(to_json(config))
    ended = commands.run("diffusion", "evaluate", "--workdir=a", "--samples=b", cwd=tmp_path)
    assert ended.returncode == 2 and "--samples=b is the folder of another run than --workdir=a" in ended.stderr
    ended = commands.run("diffusion", "evaluate", "--workdir=a", "--metrics=warmth", cwd=tmp_path)
    assert ended.returncode == 2 and "unknown metric 'warmth'" in ended.stderr
    assert "To add one of your own: --extend=FILE, see docs/extend.md#a-metric." in ended.stderr


def test_missing_samples_name_the_command(folder):
    (folder / "samples.npz").unlink()
    with pytest.raises(WorkdirError, match=r"diffusion sample --workdir="):
        read_samples(folder)


class Explosive:
    """Unpickling this would run code."""

    def __reduce__(self):
        return (print, ("unpickled",))


def test_samples_that_cannot_be_read(folder, config, capsys):
    path = folder / "samples.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkdirError, match="cannot be read"):
        read_samples(folder)
    path.write_bytes(b"")
    with pytest.raises(WorkdirError, match="cannot be read"):
        read_samples(folder)
    np.savez(path, images=np.array([Explosive()], object), labels=np.zeros(1, int))
    with pytest.raises(WorkdirError, match="cannot be read"):
        read_samples(folder)
    assert "unpickled" not in capsys.readouterr().out
    images, labels = samples("validation", 2)
    write(folder, config, images=images)
    with pytest.raises(WorkdirError, match=r"lacks labels; it holds only \['images'\]"):
        read_samples(folder)
    write(folder, config, images=images, labels=labels / 2)
    with pytest.raises(WorkdirError, match=r"labels are float64\. Valid: integers"):
        read_samples(folder)


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda x, y: (x / np.float32(255), y), r"float32\. Valid: uint8"),
        (lambda x, y: (x[:, :4], y), r"\[20, 4, 8, 1\]\. Valid: \[N, 8, 8, 1\]"),
        (lambda x, y: (x[..., 0], y), r"\[20, 8, 8\]"),
        (lambda x, y: (x, y[:5]), r"20 images, but labels of shape \[5\]"),
        (lambda x, y: (x[:1], y[:1]), "at least 2"),
        (lambda x, y: (x, y + 1), r"labels \[10\].*0 to 9"),
        (lambda x, y: (x, y - 1), r"labels \[-1\]"),
        (lambda x, y: (x, y % 5), r"have none of the classes \[5, 6, 7, 8, 9\]"),
    ],
)
def test_samples_that_do_not_fit(config, change, match):
    images, labels = change(*samples("validation", 2))
    with pytest.raises(WorkdirError, match=match):
        sample_metrics.measure(images, labels, config, "test", QUICK)


def test_names_that_are_not_known(config):
    images, labels = samples("validation", 2)
    config.evaluate.features = ("pixels", "clasifier")
    with pytest.raises(ConfigError, match="'classifier'"):
        sample_metrics.measure(images, labels, config, "test", QUICK)
    config.evaluate.features = ("pixels",)
    with pytest.raises(ConfigError, match="tset"):
        sample_metrics.measure(images, labels, config, "tset", QUICK)
    with pytest.raises(ConfigError, match="trained on"):
        sample_metrics.measure(images, labels, config, "train", QUICK)


@pytest.mark.extended
def test_command_line(folder):
    def call(*args):
        return commands.run("-m", "experiments.evaluate", *args)

    shown = call("--help")
    assert "diffusion evaluate --workdir=runs/digits" in shown.stdout
    (folder / "samples.npz").unlink()
    missing = call(f"--workdir={folder}")
    assert missing.returncode == 1 and "diffusion sample" in missing.stderr
    assert "Traceback" not in missing.stderr

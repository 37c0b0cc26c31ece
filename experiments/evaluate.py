"""Measures the samples of a run, or any images, against real images.

    diffusion evaluate --workdir=runs/digits
    diffusion evaluate --workdir=runs/digits --samples=runs/digits/guided --config.evaluate.split=validation
    diffusion evaluate --workdir=runs/digits --metrics=cas,copying,bpd
    diffusion evaluate --workdir=runs/sphere --metrics=nll
    diffusion evaluate --workdir=runs/forecast --metrics=crps
    diffusion evaluate --workdir=runs/series --metrics=process
    diffusion evaluate --workdir=runs/spectrum --metrics=sound
    diffusion evaluate --workdir=runs/clouds --metrics=clouds
    diffusion evaluate --workdir=runs/frames --metrics=backbone
    diffusion evaluate --samples=a.npz --reference=b.npz --protocol=pytorch-fid \\
        --inception=inception.safetensors --out=result.json
    diffusion evaluate --samples=a.npz --reference=b.npz --protocol=all --inception=inception.safetensors \\
        --out=protocols
    diffusion evaluate --autoencoder=sd-vae --reference=cifar10@test --protocol=adm \\
        --inception=inception.safetensors --out=result.json
    diffusion evaluate --ratio=fid.json,fdd.json --floors=real_fid.json,real_fdd.json --out=fdr.json
    diffusion evaluate --verify=result.json

With --workdir, the command reads config.json of the run, and samples.npz, which diffusion sample writes (--samples here
is --out of diffusion sample). It trains a classifier on real images, and measures the share of samples that it
recognizes as the requested class. It computes the Frechet distance to the real images of config.evaluate.split in each
feature space of config.evaluate.features, and compares it with the distances of real images and of noise. It also finds
the nearest neighbours in the training set. It plots the metrics of the training in curves.png, and writes report.md and
report.json into the folder of the samples. With --protocol and --inception it also writes the metrics with Inception
features to inception.json. With --metrics=cas,copying,bpd it also measures the classifier accuracy score, tests for
copies, and bits per dimension.

Without --workdir, the command computes FID, KID, precision, recall and other metrics (--metrics) of any images against
any reference, under a published protocol, with the network of FID (--inception) or of FDD or CMMD (--encoder). It
writes the results to a record (--out). --verify measures a record again, and ends with status 1 if a value differs.
With only --reference, the command writes the statistics of the reference (--out=FILE.safetensors). With --autoencoder,
it measures PSNR, SSIM and, with --inception, rFID of the reconstructions of the reference. --ratio names records of
samples in several feature spaces, and --floors records of held-out real images in the same spaces. From these the
command computes FDr^k, the mean ratio of their Frechet distances. See docs/evaluation.md.
"""

from absl import flags

from diffusion.experiments import command_line, config_flag, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    unread = ("optimizer.*", *config_flag.RECORDING_FIELDS)
    config_flag.saved_flag(unless=("reference", "ratio", "verify"), unread=unread)
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/digits")
    flags.DEFINE_string(
        "samples",
        None,
        "with --workdir, the folder of samples.npz, by default the run folder; without it, images: an "
        ".npz file, a folder of pictures, an .array_record file, or NAME@SPLIT",
    )
    flags.DEFINE_string(
        "reference",
        None,
        "reference images in the same forms, or their statistics: a .safetensors file, an .npz file with "
        "mu and sigma or reps, or a .pkl file of EDM2; with --workdir, by default the dataset of the run "
        "at the split of the protocol",
    )
    flags.DEFINE_string("autoencoder", None, "folder or file of an autoencoder whose reconstructions are measured")
    flags.DEFINE_string(
        "protocol",
        None,
        "published protocol, which fixes how images are prepared: adm, edm, pytorch-fid, torch-fidelity, "
        "mind, clean-fid, tf-gan; with the features of another network (--encoder): dgm-eval, "
        "edm2-dinov2, cmmd, cmmd-siglip2, fdr-convnext, fdr-mae; for clips: fvd, stylegan-v, "
        "stylegan-v-128, cd-fvd; all writes a table of the Frechet distance under each protocol",
    )
    flags.DEFINE_string(
        "encoder",
        None,
        "encoder of the protocol: a folder or .safetensors file as transformers writes it, or the file of"
        " FVD's I3D; with --protocol=all, NAME=FOLDER,NAME=FOLDER",
    )
    flags.DEFINE_string("inception", None, "file of FID's Inception-v3, as .pth, TorchScript or .safetensors")
    flags.DEFINE_string(
        "inception_sha256",
        None,
        "expected sha256 of the Inception network; by default that of the network of 2015-12-05",
    )
    flags.DEFINE_string("features", None, "feature space for a comparison without --workdir: inception, pixels")
    flags.DEFINE_list(
        "metrics",
        None,
        "metrics to compute: fid,sfid,fid_infinity,kid,cmmd,mind,pr,dc,is,authenticity; by default fid,kid,pr; under "
        "a protocol with --encoder, by default the figures of the protocol; with --workdir also "
        "cas,copying,bpd,nll,crps,process,sound,clouds,backbone,symbols, in the report. nll is for runs on "
        "manifolds, crps for series that are given in part, process for complete series, sound for runs on sound, "
        "clouds for shapes, backbone for proteins, and symbols for bits per symbol",
    )
    flags.DEFINE_string("data_dir", None, "folder of prepared datasets; by default TFDS_DATA_DIR")
    flags.DEFINE_integer(
        "size",
        None,
        "side length of the squares to which the pictures of a dataset or a folder are cropped and resized, "
        "as in ADM's code; by default 0, for pictures of one size",
        lower_bound=0,
    )
    flags.DEFINE_integer("seed", None, "seed for random subsets; 0 by default")
    flags.DEFINE_string(
        "out", None, "file for the record (.json), or for the statistics of a reference (.safetensors, .npz, .pkl)"
    )
    flags.DEFINE_list("ratio", None, "records of samples in several feature spaces, for which to compute FDr^k")
    flags.DEFINE_list(
        "floors",
        None,
        "records of held-out real images for --ratio, with the same number of images and the same feature spaces",
    )
    flags.DEFINE_string("verify", None, "record to measure again and compare with its stored values")
    command_line.begin()

import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from diffusion.experiments.evaluation import (
    comparison,
    figures,
    held_out,
    image_metrics,
    model_metrics,
    plots,
    protocol_table,
    real_images,
    records,
    representation_ratios,
    run_report,
    sample_metrics,
    vector_metrics,
)
from diffusion.experiments.evaluation.sample_metrics import FULL, Effort
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.experiments.sampling.sample_files import read_samples
from diffusion.io import json_files, json_lines
from diffusion.metrics import clip_protocols, protocols
from diffusion.recipe import ConfigError, data, unknown
from diffusion.recipe.extensions import printed
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import plain
from diffusion.training.runtime import progress

# The flags of a measurement; --verify and --ratio read them from records.
MEASURED = ("workdir", "samples", "reference", "autoencoder", "protocol", "encoder", "inception", "inception_sha256")
MEASURED += ("features", "metrics", "data_dir", "size", "seed")
ROUNDING = "floor(clip(127.5 x + 128, 0, 255))"
SELECTION = "the first N samples, of which the classes take turns, 0, 1, .., 0, 1, .., while they have samples"


def evaluate(
    recipe: Recipe,
    folder: str | pathlib.Path,
    effort: Effort = FULL,
    metrics: Sequence[str | model_metrics.Metric] = (),
    run_folder: str | pathlib.Path | None = None,
) -> dict:
    """Evaluates the samples in a folder and writes report.json and report.md there (and curves.png, in a run folder).

    Args:
        recipe: the recipe of the run; one with its own records has `held_out` records too.
        folder: the run folder, or another that `sample` wrote to.
        effort: the numbers of bootstrap resamples and random subsets.
        metrics: further metrics: names of `model_metrics.METRICS`, or functions of a `model_metrics.Subject`.
        run_folder: the run folder, whose checkpoint the further metrics read; None for `folder`.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: for a metric that is unknown, needs pictures where there are none, or returns another form than
            `model_metrics.check_figures` accepts.
    """
    for name in metrics:
        if not callable(name) and name not in model_metrics.METRICS:
            raise unknown("metrics", name, model_metrics.METRICS, "metric")
    folder = pathlib.Path(folder)
    train, real = splits = real_images.read_splits(recipe)
    for name in metrics:
        if model_metrics.takes_pictures_alone(model_metrics.metric_of(name)) and not real.spec.pictures:
            held = f"{real.spec.name} holds {real.spec.dtype} {real.spec.shape}"
            raise ConfigError(f"the metric {name!r} is for pictures, but {held}. Valid: a metric of any examples.")
    call = "diffusion.experiments.evaluate.evaluate(recipe, folder)"
    content = run(recipe.config, folder, call, effort, splits)
    if metrics:
        built = recipe if recipe.data is not None else recipe.on(train.spec)
        place = pathlib.Path(run_folder or folder)
        content["model"] = model_figures(recipe.config, place, folder, metrics, splits, built)
        run_report.write(content, folder)
    return content


def run(
    config: Mapping,
    folder: str | pathlib.Path,
    command: str,
    effort: Effort = FULL,
    splits: Sequence[real_images.Split] | None = None,
) -> dict:
    """Evaluates the samples in a folder, and writes report.json, report.md and pictures there.

    Args:
        config: the config of the run.
        folder: the folder with samples.npz.
        command: the command line that the report names as its origin.
        effort: the numbers of bootstrap resamples and random subsets.
        splits: (training split, reference split); None for the splits that the config names.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: if the reference has records that the run was trained on, and the config does not accept this.
    """
    folder = pathlib.Path(folder)
    images, labels = read_samples(folder)
    train, real = splits or real_images.splits_of(config)
    held_out.require(config, train, real)  # before a classifier learns
    if "classifier" in config["evaluate"]["features"] and train.spec.num_classes:
        sample_metrics.trained_classifier(train)
    with progress.bar("evaluating", len(config["evaluate"]["features"]) + 2, "parts") as advance:
        measured = sample_metrics.measure(images, labels, config, real.spec.split, effort, advance, (train, real))
    if not real.spec.pictures and real.spec.dtype != "int32":
        draw_beside(real, images, labels if config["model"].get("num_classes", 0) else None, folder)
    if (folder / "metrics.jsonl").is_file():
        plots.curves(folder / "metrics.jsonl", folder / "curves.png")
    conditional = bool(config["model"].get("num_classes", 0))
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    protocol = {
        "dataset": {
            "name": real.spec.name,
            "version": real.spec.version,
            "train_split": train.spec.split,
            "train_size": len(train.images),
            "split": real.spec.split,
            "split_size": len(real.images),
        },
        "samples": {
            "number": len(images),
            "sha256": digest,
            "rounding": ROUNDING if images.dtype == np.uint8 else "none",
        },
        "distance": {
            "N": measured["count"],
            "selection": SELECTION if conditional else "the first N samples",
            "seed": sample_metrics.SEED,
            "level": 0.95,
        },
        **run_report.provenance(config, folder, command),
    }
    loss = figures.last_loss(json_lines.rows(folder / "metrics.jsonl"))
    content = json_files.plain({"figures": measured, "held_out_loss": loss, "protocol": protocol})
    run_report.write(content, folder)
    return content


def draw_beside(real: real_images.Split, samples: np.ndarray, labels: np.ndarray | None, folder: pathlib.Path) -> None:
    """Draws real examples and samples as points, into beside.png; does nothing if an example is a single number.

    Args:
        real: the split of real examples.
        samples: samples, `[N, ...]`.
        labels: their classes, int `[N]`; None for a model without classes.
        folder: the folder of the file.
    """
    most = vector_metrics.MOST
    flat = lambda x: x[:most].reshape(len(x[:most]), -1).astype(np.float64)
    if flat(real.images).shape[1] > 1:
        one_kind = lambda x: np.zeros(len(x[:most]), int)
        both = (one_kind(real.images), one_kind(samples)) if labels is None else (real.labels[:most], labels[:most])
        names = () if labels is None else real.spec.classes
        plots.beside(flat(real.images), flat(samples), both, folder / "beside.png", names)


def split_metrics(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names in --metrics with --workdir: (names of `image_metrics.METRICS`, names of `model_metrics.METRICS`)."""
    valid = {**image_metrics.METRICS, **model_metrics.METRICS}
    for name in names:
        if name in model_metrics.REMOVED:
            raise ConfigError(f"--metrics={name} is no longer valid: {model_metrics.REMOVED[name]}.")
        if name not in valid and name.removesuffix(figures.FLOOR) in sample_metrics.figure_names():
            raise ConfigError(
                f"--metrics={name}: a run's samples are measured by it without --metrics, in the features that "
                f"config.evaluate.features names. Valid: no --metrics here, and --figures={name} in compare and sweep."
            )
        if name not in valid:
            raise ConfigError(
                f"{unknown('--metrics', name, valid, 'metric')} To add one of your own: --extend=FILE, see "
                "docs/extend.md#a-metric."
            )
    image_names = [name for name in names if name in image_metrics.METRICS]
    if image_names and flags.FLAGS.protocol == protocol_table.ALL:
        raise ConfigError(
            f"--metrics={image_names[0]}: --protocol=all measures only the Frechet distance, under each protocol. "
            f"Valid with it: {', '.join(model_metrics.METRICS)}."
        )
    if image_names and not flags.FLAGS.protocol:
        raise ConfigError(
            f"--metrics={image_names[0]} is measured in the features of Inception or of an encoder. Name --protocol "
            f"with --inception, or --protocol with --encoder. Valid without them: {', '.join(model_metrics.METRICS)}."
        )
    return image_names, [name for name in names if name in model_metrics.METRICS]


def requested(**changes) -> comparison.Request:
    """The request of the command line, with changes of its fields."""
    fields = comparison.Request._fields
    values = {name: getattr(flags.FLAGS, name) for name in fields if name in flags.FLAGS} | changes
    values = {name: value for name, value in values.items() if value is not None}
    if values.get("autoencoder") and {"samples", "metrics"} & values.keys():
        raise ConfigError(
            "an --autoencoder is measured by psnr, ssim and rfid of its reconstructions of --reference; leave out "
            "--samples and --metrics."
        )
    if "metrics" in values:
        values["metrics"] = tuple(values["metrics"])
    elif measures := measured_by(values.get("protocol")):
        values["metrics"] = measures
    return comparison.Request(**values)


def measured_by(protocol: str | None) -> tuple[str, ...]:
    """The figures that a protocol measures if --metrics names none; () leaves the choice to the command."""
    if network := comparison.find_protocol(protocol):
        return network.reports
    return protocols.PROTOCOLS[protocol].measures if protocol in protocols.PROTOCOLS else ()


def reference_of(config: ConfigDict, split: str) -> str:
    """The name of the run's data at a split: NAME@SPLIT of TFDS, or the entry of another source as JSON."""
    return f"{config.data.name if data.is_tfds(config) else json.dumps(plain(config.data.source))}@{split}"


def require_pictures(
    config: ConfigDict, metrics: Sequence[str], protocol: str = "", networks: Sequence[str] = ()
) -> None:
    """Refuses metrics and protocols of pictures for a run on other examples; a run on clips may have one of clips.

    Args:
        config: the run's config.
        metrics: the names of --metrics.
        protocol: the name of --protocol; "" where there is none.
        networks: the flags that name a network of pictures, such as "inception".

    Raises:
        ConfigError: names the first flag that is only for pictures.
    """
    table = model_metrics.METRICS
    others = [name for name, metric in table.items() if not model_metrics.takes_pictures_alone(metric)]
    wrong = [f"--metrics={name}" for name in metrics if name not in others]
    wrong += [f"--{name}" for name in (*(["protocol"] if protocol else []), *networks)]
    spec = real_images.split_of(config, config.evaluate.split).spec if wrong else None
    if spec is not None and spec.clips and protocol in clip_protocols.PROTOCOLS:
        return
    if spec is not None and not spec.pictures:
        raise ConfigError(
            f"{wrong[0]} is for pictures, but {spec.name} holds {spec.dtype} {spec.shape}. Valid: no --protocol, and "
            f"--metrics of {', '.join(others)}; without --protocol the distances compare the numbers as they are."
        )


def with_earlier(content: dict, before: Mapping) -> dict:
    """The report, with figures under published protocols from an earlier report of the same samples."""
    if before.get("protocol", {}).get("samples") != content["protocol"]["samples"]:
        return content
    return content | {name: before[name] for name in ("inception", "encoders", "protocols") if name in before}


def model_figures(
    config: Mapping,
    run_folder: pathlib.Path,
    folder: pathlib.Path,
    metrics: Sequence[str | model_metrics.Metric],
    splits: Sequence[real_images.Split] | None = None,
    built: Recipe | None = None,
) -> dict[str, dict]:
    """The figures of further metrics, as report.json holds them.

    Args:
        config: the run's config.
        run_folder: the run folder.
        folder: the folder of the samples.
        metrics: names of `model_metrics.METRICS`, or functions of a `model_metrics.Subject`.
        splits: (training split, reference split); None for the splits that the config names.
        built: the recipe that Python built; None if the config names every part.

    Raises:
        ConfigError: for a metric that returns another form than `model_metrics.check_figures` accepts.
    """
    train, real = splits or real_images.splits_of(config)
    subject = model_metrics.Subject(config, run_folder, *read_samples(folder), train, real, built)
    measured: dict[str, dict] = {}
    for name in metrics:
        figures_of_metric = json_files.plain(model_metrics.metric_of(name)(subject))
        model_metrics.check_figures(name, figures_of_metric)
        measured |= figures_of_metric
    return measured


def measure_protocol(config: ConfigDict, folder: pathlib.Path, metrics: Sequence[str]) -> dict:
    """Measures the samples in a folder under --protocol, and writes the record.

    Args:
        config: the run's config.
        folder: the folder of the samples.
        metrics: the names of image metrics in --metrics; () for the figures of the protocol.

    Returns:
        The entry for report.json: {"protocols": rows} for --protocol=all, {"encoders": {NAME: figures}} for the
        protocol of an encoder or of clips, and {"inception": figures} for any other.
    """
    values = flags.FLAGS
    if values.protocol == protocol_table.ALL:
        request = requested(
            samples=str(folder / "samples.npz"),
            reference=values.reference or reference_of(config, "train"),
            metrics=None,
            data_dir=values.data_dir or config.data.dir,
        )
        return {"protocols": protocol_table.measure(request, pathlib.Path(values.out or folder / "protocols"))}
    encoder = comparison.find_protocol(values.protocol)
    protocol = encoder or protocols.PROTOCOLS.get(values.protocol)
    request = requested(
        samples=str(folder / "samples.npz"),
        reference=values.reference or reference_of(config, protocol.split if protocol else "train"),
        metrics=metrics or measured_by(values.protocol) or None,
        data_dir=values.data_dir or config.data.dir,
    )
    name = encoder.name if encoder else "inception"
    out = pathlib.Path(values.out or folder / f"{name}.json")
    record = records.measure(request)
    records.write(out, record)
    figures_of_protocol = {
        "figures": record["figures"],
        "warnings": record["warnings"],
        "protocol": request.protocol,
        "reference": request.reference,
        "record": str(out),
        "records": {
            "split": request.reference,
            "count": record["reference"]["count"],
            "trained_on": held_out.count_in_reference(config, request.reference, request.data_dir),
        },
    }
    if encoder:
        return {"encoders": {encoder.name: {**figures_of_protocol, "network": encoder.network}}}
    return {"inception": figures_of_protocol}


def evaluate_run() -> None:
    """Evaluates the samples of the run in --workdir, with the further figures that other flags name."""
    config = flags.FLAGS.config
    run_folder = pathlib.Path(flags.FLAGS.workdir)
    folder = pathlib.Path(flags.FLAGS.samples or run_folder)
    if workdir.is_other_run(folder, run_folder):
        raise ConfigError(
            f"--samples={folder} is the folder of another run than --workdir={run_folder}, and its report would become "
            f"one of this run. Valid: --workdir={folder} alone, or a folder of samples that holds no run."
        )
    image_names, model_names = split_metrics(flags.FLAGS.metrics or ())
    networks = [name for name in ("inception", "encoder") if flags.FLAGS[name].value]
    if flags.FLAGS.protocol == protocol_table.ALL:
        protocol_table.requests(requested(metrics=None))  # a missing network is refused before anything is measured
    require_pictures(config, flags.FLAGS.metrics or (), flags.FLAGS.protocol or "", networks)
    if flags.FLAGS.protocol not in (None, "", protocol_table.ALL) and not networks:
        comparison.space_of(requested(metrics=None))  # likewise: the error names the network
    held_out.require_trained_split(config, workdir.read_config(run_folder))
    held_out.require_trained_data(config, run_folder)
    before = figures.read_report(folder)
    content = run(config, folder, workdir.command("diffusion evaluate"))
    content = with_earlier(content, before)
    run_report.write(content, folder)
    if model_names:
        content["model"] = model_figures(config, run_folder, folder, model_names)
        run_report.write(content, folder)
    if flags.FLAGS.protocol or flags.FLAGS.inception or flags.FLAGS.encoder:
        measured = measure_protocol(config, folder, image_names)
        encoders = content.get("encoders", {}) | measured.get("encoders", {})
        content = content | measured | ({"encoders": encoders} if encoders else {})
        run_report.write(content, folder)
    run_report.show(content, folder, run=run_folder)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    if flags.FLAGS.verify:
        flag_errors.refuse(
            (*MEASURED, "out", "ratio", "floors"),
            "has no effect with --verify, which measures what its record states. Valid with --verify: no other flag.",
        )
        differences = records.verify(pathlib.Path(flags.FLAGS.verify))
        lines = [f"differs: {line}" for line in differences] or [f"{flags.FLAGS.verify}: every figure agrees"]
        print("\n".join(lines))
        sys.exit(bool(differences))
    if flags.FLAGS.ratio:
        flag_errors.refuse(
            MEASURED, "has no effect with --ratio, which reads records. Valid with --ratio: --floors and --out."
        )
        content = representation_ratios.measure(
            *(list(map(pathlib.Path, names or ())) for names in (flags.FLAGS.ratio, flags.FLAGS.floors))
        )
        if flags.FLAGS.out:
            records.write(pathlib.Path(flags.FLAGS.out), content)
        return representation_ratios.show(content)
    flag_errors.refuse(("floors",), "is only for --ratio. Valid: no --floors, or --ratio=RECORDS.")
    if flags.FLAGS.workdir:
        return evaluate_run()
    if not flags.FLAGS.out:
        raise ConfigError(
            "--out is missing: name the file to write, e.g. --out=result.json (with --samples), or "
            "--out=reference.safetensors (for a --reference alone)."
        )
    out = pathlib.Path(flags.FLAGS.out)
    if flags.FLAGS.protocol == protocol_table.ALL:
        if not flags.FLAGS.samples or flags.FLAGS.metrics:
            raise ConfigError(
                "--protocol=all measures the distance of --samples under each protocol; leave --metrics out."
            )
        rows = protocol_table.measure(requested(), out)
        return protocol_table.show(rows, requested(), out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not (flags.FLAGS.samples or flags.FLAGS.autoencoder):
        statistics = comparison.make_reference(requested(), out)
        print(f"{out}: statistics of {statistics.count:,} images")
        return
    record = records.measure(requested())
    records.write(out, record)
    records.show(record)
    records.require_value(record, out)
    print(f"{out}; measure it again by: {printed('evaluate', f'--verify={out}')}")


if __name__ == "__main__":
    command_line.run(
        main,
        (*workdir.FAILURES, *comparison.FAILURES, *autoencoder_folders.FAILURES, records.ResultError),
        compiles=True,
    )

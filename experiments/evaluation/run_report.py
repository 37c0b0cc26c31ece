"""The report of a run's evaluation: its rows, as Markdown for report.md and as a summary on the terminal."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion.experiments.evaluation import backbone_figures, figures, held_out, loss_report, protocol_table, report
from diffusion.experiments.sampling import sample_files
from diffusion.metrics import ngrams
from diffusion.recipe.extensions import printed
from diffusion.recipe.values import config_hash, plain

PICTURES = {
    "samples.png": "Samples, grouped by class if they have classes",
    "views.png": "A sample of each class from six sides",
    "turntable.gif": "Two samples of each class, turning",
    "trajectory.png": "From noise to image: the sample x_t, and the prediction of x_0, over the steps",
    "beside.png": "Real examples and samples; beyond two dimensions, along two principal axes of the real examples",
    "fans.png": "Partly given series: intervals of samples (blue), and exact intervals where known (orange)",
    "process.png": "Samples, and their covariance at each lag (blue) with the exact one (orange)",
    "curves.png": "Training loss against the step, and against t",
}
VECTORS = [
    "- **Distances** are squared, in the units of the examples, and between the unchanged samples and real examples. "
    "Lower is better. A distance is never 0, and depends on N.",
    "- **Floor**: the same distance for N real training examples; mean and standard deviation over random subsets.",
    "- **Noise**: the same distance for independent normal numbers with the real means and standard deviations, a "
    "model that knows the scale of each number but not their joint distribution.",
    "- **Intervals** (95 %) are percentile bootstrap intervals over the samples for fixed real examples, shifted by "
    "the bias of resampling with replacement. They do not include the variation between training runs.",
]
SYMBOLS = [
    "- **Divergences** are in bits, between the samples and real sequences. Lower is better. A divergence is never 0, "
    "and depends on N.",
    "- **Floor**: the same divergence for N real training sequences; mean and standard deviation over random subsets.",
    "- **Noise**: the same divergence for symbols that are equally likely at every position.",
    VECTORS[-1].replace("examples", "sequences"),
]
MODEL_METRICS = {  # how each figure was measured, for the table; see experiments/evaluation/model_metrics.py
    "cas": "classifier accuracy score: a classifier trained only on samples, tested on real held-out images",
    "cas_of_real_images": "the same, trained on as many real training images, as an upper bound",
    "data_copying": "C_T; below -3, samples are nearer to the training images than held-out images are",
    "authenticity": "share of samples whose nearest training image has another training image closer than the sample",
    "authenticity_of_held_out": "the same share for real held-out images",
    "negative_log_likelihood": "nats per point with respect to the volume of the manifold, exact divergence; protocol "
    "in report.json",
    "exact_negative_log_likelihood": "the same for the true density of the data; its mean is the entropy",
    "excess_negative_log_likelihood": "the difference at the same points, an estimate of KL(data, model)",
    "nats_per_symbol": "a bound on -log p of held-out sequences; report.json names the estimator",
    "bits_per_symbol": "the same divided by log 2: bits per character if symbols are characters",
    "perplexity": "exp of the nats: the number of equally likely symbols with the same entropy",
    "crps": "continuous ranked probability score of the hidden values, fair estimate; protocol in report.json",
    "crps_excess": "the difference to the CRPS of the exact conditional distribution, for the same series",
    "crps_quantile_form": "as CSDI reports it: from 19 quantiles, divided by the mean absolute target",
    "crps_sum": "the same of the sum over channels",
    "coverage_50": "share of hidden values in the central 50 % of their samples",
    "coverage_90": "share of hidden values in the central 90 % of their samples",
    "crps_exact": "CRPS of the exact conditional distribution of the process, in closed form, as a lower bound",
    "exact_draws_crps": "CRPS of as many samples from the exact conditional distribution",
    "exact_draws_crps_quantile_form": "the same, as CSDI reports it",
    "exact_draws_crps_sum": "the same of the sum over channels",
    "exact_draws_coverage_50": "the share of the exact distribution's draws",
    "exact_draws_coverage_90": "the share of the exact distribution's draws",
    "crps_marginal": "CRPS of values drawn at random from the training data of the channel, a forecast that ignores "
    "the series",
    **{
        f"{prefix}process_{figure}": f"{how}{subject}"
        for figure, how in {
            "cross_entropy": "nats per value, mean of -log p(sample) under the exact process; the optimum is its "
            "entropy",
            "distance": "squared 2-Wasserstein distance between a Gaussian fit of the samples and the exact process",
            "covariance_error": "error of the covariance of the samples, Frobenius norm divided by that of the "
            "exact covariance",
        }.items()
        for prefix, subject in {
            "": "",
            "exact_draws_": "; for as many exact samples, the floor",
            "noise_": "; for white noise",
        }.items()
    },
    "process_entropy": "nats per value, in closed form",
    "heard_as_its_class": "a classifier of spectrograms, trained only on real training notes; Wilson's interval",
    "real_heard_as_its_class": "the same for real held-out notes",
    "frechet_distance_of_judge": "in the classifier's last hidden layer, to real held-out notes",
    "frechet_distance_of_real": "the floor: for as many real training notes; mean and standard deviation over subsets",
    **{
        f"{figure}_{distance}{suffix}": f"{what}{subject}"
        for figure, what in {
            "1nna": "share of clouds whose nearest other cloud is from the same set; 1/2 is the optimum",
            "coverage": "share of held-out clouds that are the nearest neighbour of some cloud",
            "minimum_matching": "mean distance of held-out clouds to the nearest cloud",
        }.items()
        for distance in ("chamfer", "earth_movers")
        for suffix, subject in {
            "": "",
            "_of_real_shapes": "; for training clouds in place of samples, the floor",
            "_of_scattered_points": "; for points mixed from all training clouds, which have no shape",
        }.items()
    },
    "in_one_piece": "share of solids whose inner cells are connected through their faces",
    "in_one_piece_of_real_shapes": "the same for training solids",
    **{
        f"{name}{suffix}": f"{how}{subject}"
        for name, how in backbone_figures.HOW.items()
        for suffix, subject in (
            ("", ""),
            ("_of_real", "; for held-out chains"),
            ("_of_noise", "; for the noise from which samples start"),
        )
    },
    "bits_per_dim": "probability flow ODE, Hutchinson's estimator, uniform dequantization of bytes; protocol in "
    "report.json",
}


def provenance(config: Mapping, folder: pathlib.Path, command: str) -> dict:
    """The origin of the samples in a folder, and of the report that `command` writes; unknown values are None."""
    sampling = sample_files.read_record(folder) or {  # samples of another program: config.json is the best source
        "sample": plain(config["sample"]),
        "nfe": None,
        "checkpoint": None,
        "note": "no samples.json: the settings are those of config.json",
    }
    return {
        "sampling": sampling,
        "config_hash": config_hash(config),
        "planned_steps": config["train"]["steps"],
        **report.software(),
        "commands": {"sample": sampling.get("command"), "evaluate": command},
    }


def write(content: dict, folder: pathlib.Path) -> None:
    """Writes {"figures", "protocol"} from `experiments.evaluate.run` as report.json and report.md."""
    report.write(folder, content, lambda content: markdown(content, folder))


def rows(content: dict) -> Iterator[tuple[str, str, str, str, str]]:
    """The figures as text: (name, value of the samples, reference, how it was measured, the records behind it)."""
    on_split = figures.split_records(content)
    for *cells, records in _rows(content):
        known = on_split if records is SPLIT else records
        what, value, beside, how = cells
        text = known if isinstance(known, str) else figures.records_text(known) if known else "not known"
        yield what, value, beside, how, text


SPLIT = object()  # in place of a row's records: the records of the split that samples are compared with


def _rows(content: dict) -> Iterator[tuple[str, str, str, str, Any]]:
    """The rows of `rows`; the last entry is SPLIT, a text, or an argument of `figures.records_text`."""
    measured = content["figures"]
    data = content["protocol"]["dataset"]
    split = data["split"]
    shared = overlap_text(measured)
    if accuracy := measured["asked_class"]:
        beside = f"{accuracy['real']['share']:.1%} of real {split} images"
        how = (
            f"{accuracy['count']:,} samples; classifier trained only on the {data['train_size']:,} real "
            f"{data['train_split']} images (sha256 {accuracy['classifier_sha256'][:12]}); Wilson's 95 % interval"
        )
        yield "requested class recognised", report.percent(accuracy), beside, how, SPLIT
    for name, distance in measured["frechet"].items():
        every = distance["all_samples"]
        effort, subsets = distance["effort"], distance["effort"]["subsets"]
        weights = distance["extractor"]["sha256"]
        how = (
            f"N = {content['protocol']['distance']['N']:,} against all {data['split_size']:,} {split} images; "
            f"{distance['dimensions']} features{f' (sha256 {weights[:12]})' if weights else ''}; {effort['draws']} "
            f"resamples, {'all training images' if distance['floor']['std'] is None else f'{subsets} subsets'}"
        )
        number = content["protocol"].get("samples", {}).get("number")  # reports of earlier versions may lack it
        if every["std"] is None or content["protocol"]["distance"]["N"] == number:
            how_of_ratio = "of all samples"  # the only subset is all of them
        else:
            error = every["std"] / distance["floor"]["mean"]
            how_of_ratio = f"mean over {subsets} random subsets of all samples: {every['ratio']:.2f} ± {error:.2f}"
        yield from _beside_floor(f"Frechet distance ({name})", distance["distance"], distance, how, how_of_ratio)
    for name, distance in measured.get("distances", {}).items():
        against = f"N = {measured['count']:,} against {measured['reference']:,} {split} examples"
        how = f"{distance['how']}; {against}; {measured['dimensions']} numbers each"
        yield from _beside_floor(name.replace("_", " "), distance["value"], distance, how, "")
    if near := measured["neighbours"]:
        for row in _near(near, data, f"{split} images" if shared else "held-out images"):
            yield (*row, SPLIT)
    if shared:
        how = "the number of records in the comparisons above on which the model was trained"
        yield f"{split} records", shared, "none of those held out", how, SPLIT
    if loss := loss_report.row(content.get("held_out_loss") or {}):
        yield loss
    model = content.get("model", {})
    others = dict(_other_weights(content))
    for row in report.metric_rows(model):
        how = model[row[0]].get("how") or MODEL_METRICS.get(row[0], "")
        yield (*row, "; ".join(filter(None, (how, others.get(row[0])))), SPLIT)
    for name, part in under_protocols(content):
        how = f"{name}, protocol {part['protocol']}, against {part['reference']}; {part['record']}"
        for row in report.metric_rows(part["figures"]):
            yield (*row, how, part.get("records"))


def _beside_floor(
    name: str, value: float, distance: Mapping, how: str, how_of_ratio: str
) -> Iterator[tuple[str, str, str, str, object]]:
    """The rows of a distance: its value beside the floor and noise, and its ratio to the floor."""
    floor = distance["floor"]
    beside = f"{report.floor_text(floor, '.3g')}; noise {distance['noise']:.3g}"
    yield name, f"{value:.3g}{report.span(distance['interval'])}", beside, how, SPLIT
    ratio = f"{distance['ratio']:.2f}{report.span(distance['ratio_interval'], '.2f')}"
    yield "… times the floor", ratio, f"1; noise {distance['noise'] / floor['mean']:.0f}", how_of_ratio, SPLIT


def under_protocols(content: Mapping) -> Iterator[tuple[str, Mapping]]:
    """The figures under published protocols, by the networks whose features they compare."""
    if "inception" in content:
        yield "Inception", content["inception"]
    for name, part in content.get("encoders", {}).items():
        yield part.get("network", name), part


def _notes(content: Mapping) -> Iterator[tuple[str, str]]:
    """The warnings about the figures: pairs (network or figure, text)."""
    yield from _other_weights(content)
    for name, part in under_protocols(content):
        yield from ((name, text) for text in part.get("warnings", ()))


def _other_weights(content: Mapping) -> Iterator[tuple[str, str]]:
    """Figures of the model that were measured with other weights than the samples: pairs (figure, both in words)."""
    samples = figures.checkpoint_of_samples(content)
    for name, figure in content.get("model", {}).items():
        step = (figure.get("protocol") or {}).get("step")
        if step is not None and samples and (samples["weights"], samples["step"]) != ("ema", step):
            yield name, f"of ema of step {step}, the samples of {samples['weights']} of step {samples['step']}"


def overlap_text(measured: Mapping) -> str:
    """The number of reference records that the model was trained on, such as "trained on: 9 of 60"; "" for none."""
    shared = measured.get("trained_on") or {"count": 0}  # reports of earlier versions do not say it
    return str(held_out.TrainedOn(**shared)) if shared["count"] else ""


def _near(near: Mapping, data: Mapping, others: str) -> Iterator[tuple[str, str, str, str]]:
    """The rows of the nearest training images."""
    samples = near["samples"]
    real = near["held_out"]
    beside = f"{real['quantiles']['0.5']:.3g} from real {data['split']} images"
    how = f"Euclidean, pixels in [0, 1]; {samples['count']:,} samples, {real['count']:,} {others}"
    yield "nearest training image, median", f"{samples['quantiles']['0.5']:.3g}", beside, how
    how = f"share of samples below these quantiles of the distances of {others}"
    yield f"… nearer than 1 % / 5 % of {others}", report.nearer(near), "1 % / 5 % without copying", how
    beside = f"{report.exact_copies(real)} {others}"
    how = f"the same bytes as one of the {data['train_size']:,} training images"
    yield "… exact copies", report.exact_copies(samples), beside, how


def markdown(content: dict, folder: pathlib.Path) -> str:
    """The report as Markdown; pictures that are in the folder are embedded by relative links."""
    frechet = content["figures"]["frechet"]
    vectors = "distances" in content["figures"]
    protocol = content["protocol"]
    data = protocol["dataset"]
    distance = protocol["distance"]
    shown = [(what, f"**{value}**", *others) for what, value, *others in rows(content)]
    means = {name: figure["floor"]["unbalanced_mean"] for name, figure in frechet.items()}
    unbalanced = ", ".join(f"{mean:.3g} ({name})" for name, mean in means.items() if mean is not None)
    balanced = (
        ", in which all classes are equally frequent, as among the samples. Without this balance the floor is higher: "
    )
    how_to_read = [
        f"- **Distance**: squared Frechet distance between Gaussian fits, in float64 with unbiased covariances; "
        f"N = {distance['N']:,}: {distance['selection']}. Lower is better. The distance is never 0, and depends on N.",
        "- **Floor**: the same distance for N real training images; mean and standard deviation over random subsets"
        f"{balanced + unbalanced if unbalanced else ''}.",
        "- **Noise**: the same distance for N images of uniform random bytes.",
        "- **Intervals** (95 %) of distances are percentile bootstrap intervals over the samples, class by class, for "
        "fixed real images, shifted by the bias of resampling with replacement. They do not include the variation "
        "between training runs, or the variation of the floor.",
    ]
    if vectors:
        how_to_read = SYMBOLS if ngrams.NAMES[0] in content["figures"]["distances"] else VECTORS
    if "classifier" in frechet:
        how_to_read.append(
            "- **Classifier features** come from a network that was trained on the training images. It is more "
            "certain about these than about new images, which raises the floor, so a ratio below 1 is possible."
        )
    how_to_read += [f"- **{name}**: {text}" for name, text in _notes(content)]
    commands = [command for command in protocol["commands"].values() if command]
    parts = [
        f"# Report: {data['name']}",
        report.table(("", "samples", "reference", "measured", "records"), shown),
        *report.pictures(folder, PICTURES),
        *loss_report.by_t(content.get("held_out_loss") or {}),
        *protocol_section(content),
        "## How to read the figures",
        "\n".join(how_to_read),
        "## Protocol",
        report.table(("", ""), _protocol_rows(protocol)),
        "Commands:",
        "\n".join(["```", *commands, "```"]),
    ]
    return report.page(parts)


def protocol_section(content: Mapping) -> list[str]:
    """The paragraphs of one figure under every protocol; [] without --protocol=all."""
    rows = content.get("protocols")
    return ["## The same samples under every protocol", protocol_table.markdown(rows).rstrip()] if rows else []


def _protocol_rows(protocol: Mapping) -> list[tuple[str, str]]:
    data = protocol["dataset"]
    sampling = protocol["sampling"]
    samples = protocol["samples"]
    settings = sampling.get("sample") or {}
    checkpoint = sampling.get("checkpoint") or {}
    guidance = settings.get("guidance") or {}
    steps = protocol.get("planned_steps")  # reports of earlier versions do not say it
    planned = f" of {steps}" if steps and isinstance(checkpoint.get("step"), int) else ""
    versions = ", ".join(f"{name} {version}" for name, version in protocol["versions"].items())
    rows = {
        "data": f"{data['name']} {data['version']}: {data['train_split']} ({data['train_size']:,}), "
        f"{data['split']} ({data['split_size']:,})",
        "weights": f"{checkpoint['weights']} of step {checkpoint['step']}{planned}" if checkpoint else "not recorded",
        "sampler": f"{_entry(settings.get('sampler'))}, grid {_entry(settings.get('grid'))}, shift "
        f"{settings.get('shift')}, {settings.get('steps')} steps, "
        f"{sampling.get('nfe') or 'as many as the driver needs'} network evaluations",
        "guidance": f"scale {guidance.get('scale')}, interval {guidance.get('interval')}",
        "samples": f"{samples['number']:,}, seed {settings.get('seed')}, sha256 {samples['sha256'][:12]}, "
        f"bytes {samples['rounding']}",
        "evaluation": f"seed {protocol['distance']['seed']}",
        "config": f"{protocol['config_hash']} (config.json); of the samples {sampling.get('config')}",
        "code": f"commit {protocol['git_commit']}; {versions}",
        "device": protocol["device"],
    }
    if "note" in sampling:
        rows["note"] = sampling["note"]
    return list(rows.items())


def _entry(spec) -> str:
    if not isinstance(spec, Mapping):
        return str(spec)
    arguments = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
    return f"{spec.get('name')}({arguments})"


def show(content: dict, folder: str | pathlib.Path, run: str | pathlib.Path = "") -> None:
    """Prints the figures of a report, the files to look at, and commands to try next on the run folder `run`."""
    folder = pathlib.Path(folder)
    run = pathlib.Path(run or folder)
    title = f"{folder}: {content['protocol']['dataset']['name']}, samples against real data"
    cells = ((what, value, beside, records) for what, value, beside, _, records in rows(content))
    report.show(title, ("", "samples", "reference", "records"), cells)
    for name, text in _notes(content):
        print(f"note: {name}: {text}")
    print(f"Look at:\n  {folder / 'report.md'}  (figures and how they were measured)")
    for name in PICTURES:
        if (folder / name).is_file():
            print(f"  {folder / name}")
    print("Try next:")
    if accuracy := content["figures"]["asked_class"]:
        labels = ",".join(list(accuracy["by_class"])[3:9:5])
        guided = ("--config.sample.guidance.scale=3", f"--out={run / 'guided'}")
        print(f"  {printed('sample', f'--workdir={run}', f'--labels={labels}', *guided)}")
    if steps := (content["protocol"]["sampling"].get("sample") or {}).get("steps"):
        fast = (f"--config.sample.steps={max(1, steps // 4)}", f"--out={run / 'fast'}")
        print(f"  {printed('sample', f'--workdir={run}', *fast)}   (fewer steps)")
    print("  diffusion train --help")

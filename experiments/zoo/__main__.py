"""Lists published networks with their scores, and measures one of them from its file to its score.

    diffusion zoo
    diffusion zoo --row=dit_xl_2_256
    diffusion zoo --row=dit_xl_2_256 --weights=DiT-XL-2-256x256.pt --autoencoder=sd-vae-ft-ema \\
        --reference=VIRTUAL_imagenet256_labeled.npz --inception=inception.safetensors --out=runs/zoo/dit
    diffusion zoo --page=rows.md

Without flags, the command prints one line for each row. With --row, it prints the files, commands and config of the
row, and the time that it takes. With --row and --weights, it measures the row in stages: it loads the weights,
generates samples, and computes the score under the protocol of the row. The same command continues after an
interruption, with the same samples. OUT then contains samples.npz, record.json and row.json, which compares the score
with the published one. --page writes all rows in Markdown. See docs/zoo.md.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("row", None, "name of a row, as diffusion zoo lists them")
    flags.DEFINE_string("weights", None, "published file of the row, or the folder that diffusion convert made from it")
    flags.DEFINE_string("reference", None, "reference statistics or images for the metric")
    flags.DEFINE_string("inception", "", "file of FID's Inception-v3, for protocols that use its features")
    flags.DEFINE_string(
        "encoder", "", "folder or file of the encoder, for protocols that use the features of an encoder"
    )
    flags.DEFINE_string("autoencoder", "", "folder or file of the autoencoder, for rows on latents")
    flags.DEFINE_string("out", None, "folder for the samples and the records")
    flags.DEFINE_integer(
        "number",
        0,
        "number of samples; by default that of the published figure, which is the only comparable number",
        0,
    )
    flags.DEFINE_integer("batch_size", 0, "number of samples at once; by default that of the recipe", 0)
    flags.DEFINE_integer("seed", 0, "seed of the samples; different seeds share no samples", 0)
    flags.DEFINE_string("page", None, "file for a Markdown table of all rows with their commands")
    command_line.begin()

import pathlib

from diffusion.experiments.evaluation import comparison, report
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.experiments.zoo import markdown, measurement, published_rows
from diffusion.experiments.zoo.row import Row
from diffusion.io.files import write_text
from diffusion.recipe import ConfigError
from diffusion.recipe.extensions import printed
from diffusion.training.runtime import progress

FAILURES = (*workdir.FAILURES, *comparison.FAILURES, *autoencoder_folders.FAILURES)


def listed() -> None:
    """Prints a line for each row."""
    lines = [
        (
            row.name,
            row.method,
            row.checkpoint.repository,
            row.checkpoint.file,
            markdown.published(row),
            markdown.ours(row),
        )
        for row in published_rows.ROWS.values()
    ]
    report.show("The zoo", ("row", "method", "authors' repository", "file", "published", "ours"), lines)


def explained(row: Row) -> str:
    """The instructions to measure a row."""
    text = markdown.section(row, markdown.facts(row))
    return f"{text}\nexport.py:\n\n{row.checkpoint.export}" if row.checkpoint.export else text


def measured(row: Row) -> None:
    """Measures a row with the flags of the command, and prints its figure and the published one."""
    values = flags.FLAGS
    valid = f"--{row.network}" if row.network else "neither --inception nor --encoder"
    others = [flag for flag in ("inception", "encoder") if flag != row.network]
    flag_errors.refuse(others, f"has no effect on {row.name}. Valid: {valid}.")
    for name in ("reference", "out"):
        if not values[name].value:
            raise ConfigError(f"--{name} is missing. The command for this row: {row.measure()}")
    network = {"encoder": values.encoder, "inception": values.inception}.get(row.network, "")
    needs = measurement.Needs(values.weights, values.reference, network, values.autoencoder)
    out = workdir.output_folder(values.out)
    with workdir.lock(out, "--out"):
        checked = measurement.check(row, needs, out, values.number, values.batch_size, values.seed)
        content = measurement.measure(checked, out)
    figure = content["figure"]
    value = "not measured" if figure["value"] is None else f"{figure['value']:.4g}"
    error = f" ± {figure['standard_error']:.2g}" if figure["standard_error"] is not None else ""
    print(
        f"{row.method}: {row.published.metric} {value}{error}; published {row.published.value} ({row.published.source})"
    )
    for text in figure["why"]:
        print(f"note: {text}")
    total = progress.duration(sum(content["seconds"].values()))
    again = printed("evaluate", f"--verify={out / 'record.json'}")
    print(f"{out / 'row.json'}, in {total}; measure again by: {again}")


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    measures = ("reference", "inception", "encoder", "autoencoder", "out", "number", "batch_size", "seed")
    if values.page:
        flag_errors.refuse(["row", "weights", *measures], "has no effect with --page, which writes every row.")
        write_text(pathlib.Path(values.page), markdown.page(published_rows.ROWS.values()))
        print(f"{values.page}: {len(published_rows.ROWS)} rows")
        return
    if not values.row:
        if values.weights:
            raise ConfigError(f"--row is missing: name the row to which --weights={values.weights} belongs.")
        flag_errors.refuse(measures, "has no effect without --row and --weights, which name what to measure.")
        listed()
        return
    row = published_rows.find(values.row)
    if values.weights:
        measured(row)
    else:
        flag_errors.refuse(measures, "has no effect without --weights, the file to measure.")
        print(explained(row))


if __name__ == "__main__":
    command_line.run(main, FAILURES, compiles=True)

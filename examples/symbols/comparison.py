"""Compares models of characters: masked and uniform diffusion, discrete flow, autoregressive, n-grams and xz.

    python -m examples.symbols.comparison --out=runs/symbols

All neural models have the same layers, optimizer, number of steps and batches. The command writes report.md,
report.json, symbols.png and the trained weights. A second call continues with the first model whose weights are
missing. It does not check that the flags are those of the first call, so choose a new --out for other flags.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("out", None, "folder for the report and the weights", required=True)
    flags.DEFINE_integer("steps", 2000, "number of training steps per model", lower_bound=1)
    flags.DEFINE_integer("batch", 32, "number of windows per step", lower_bound=1)
    flags.DEFINE_integer("length", 96, "number of characters per window", lower_bound=12)
    flags.DEFINE_integer("width", 128, "number of features per character, a multiple of 32", lower_bound=32)
    flags.DEFINE_integer("depth", 4, "number of layers", lower_bound=1)
    flags.DEFINE_integer("windows", 200, "number of held-out windows to measure", lower_bound=2)
    flags.DEFINE_integer("times", 32, "number of times at which each window is noised", lower_bound=1)
    flags.DEFINE_integer("number", 128, "number of samples for each number of evaluations", lower_bound=2)
    flags.DEFINE_list(
        "evaluations", "8,16,32,64,128,256", "numbers of network evaluations per sample, separated by commas"
    )
    command_line.require_counts("evaluations")
    command_line.require_multiple("width", 32)
    command_line.begin()

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from diffusion.data import english_prose as prose
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run_folder import workdir
from diffusion.io import json_files
from diffusion.metrics import ngrams
from examples.symbols import bits_report, character_runs, characters, text_models

LETTERS = text_models.LETTERS
LONGEST = (4, 5, 6, 7, 8, 9)  # candidate lengths of the longest runs
LINE = "the function returns an array of the ______ ____ as the _____ of the matrix"
SHOWN = 2  # samples of each model on the page
TITLE = "Characters of prose: diffusion compared with other models"


def chosen_runs(text: np.ndarray) -> tuple[list[character_runs.Counts], int]:
    """The counts of runs up to the length that is best on the last tenth of a training text, and this length."""
    cut = len(text) // 10 * 9
    rows = text[cut:][: (len(text) - cut) // 96 * 96].reshape(-1, 96)
    counts = character_runs.fit(text[:cut], max(LONGEST), LETTERS)
    best = min(LONGEST, key=lambda n: character_runs.bits(counts[:n], rows, LETTERS).mean())
    return character_runs.fit(text, best, LETTERS), best


def quality(x: np.ndarray, real: np.ndarray, words: frozenset[str], counts: list[character_runs.Counts]) -> dict:
    """How near samples are to prose.

    Args:
        x: the samples, int `[N, L]`.
        real: held-out text, int `[M, L]`.
        words: the words of the training text.
        counts: the counts of runs in the training text.

    Returns:
        {"trigrams": the divergence between the trigrams of the samples and of `real`, in bits, "words": the share of
        complete words that occur in the training text, "judged": bits per character by the counts of runs, "entropy":
        the entropy of the samples' characters in bits. Samples that repeat themselves have a low "judged" and a low
        "entropy"}.
    """
    runs = np.concatenate([ngrams.codes(rows, 3, LETTERS).ravel() for rows in (real, x)])
    both, places = np.unique(runs, return_inverse=True)
    cut = len(real) * (real.shape[1] - 2)
    histograms = [np.bincount(part, minlength=len(both)) for part in (places[:cut], places[cut:])]
    complete = [word for row in x for word in prose.decode(row).split(" ")[1:-1] if word]
    shares = np.bincount(x.ravel(), minlength=LETTERS) / x.size
    return {
        "trigrams": ngrams.divergence(*histograms),
        "words": float(np.mean([word in words for word in complete])) if complete else 0.0,
        "judged": float(character_runs.bits(counts, x, LETTERS).mean()),
        "entropy": float(-np.sum(shares * np.log2(np.where(shares > 0, shares, 1)))),
    }


def measured(out: pathlib.Path) -> dict[str, Any]:
    """All figures and texts of the report."""
    values, data = flags.FLAGS, prose.read()
    length = values.length
    windows = characters.held_out_windows(data.held_out, values.windows, length)
    held_out = windows.ravel()
    counts, longest = chosen_runs(data.train)
    words = frozenset(prose.decode(data.train).split(" "))
    frequencies = np.bincount(data.train, minlength=LETTERS) / len(data.train)
    by_runs = character_runs.bits(counts, windows, LETTERS).mean(1)
    rows: dict[str, dict] = {
        f"runs of up to {longest} characters": {
            "bits": float(by_runs.mean()), "error": float(by_runs.std(ddof=1) / len(by_runs) ** 0.5),
            "estimator": "exact"},
        "frequencies of the characters": {"bits": float(-np.log2(frequencies[held_out]).mean()), "estimator": "exact"},
        "xz": {"bits": characters.xz_bits(held_out), "estimator": "its own file, without a training text"},
    }  # fmt: skip
    real = data.held_out[: len(data.held_out) // length * length].reshape(-1, length)
    part = data.train[: len(data.train) // length * length].reshape(-1, length)
    rng = np.random.default_rng(0)
    samples = {"training text": {"": quality(part[rng.permutation(len(part))[: values.number]], real, words, counts)}}
    texts, filled = {}, {}
    keys = jax.random.split(jax.random.key(2), values.number)
    windows_of = characters.windows_of(data.train, values.batch, length)
    for name, model in text_models.all_models(values.width, values.depth).items():
        first = characters.initial(model.network, length, seed=0)
        params, rows[name] = bits_report.measured(
            out / f"{name}.safetensors", model, first, windows_of, windows, values.times
        )
        samples[name] = {}
        for steps in _steps(model, length):
            x = np.asarray(jax.jit(model.sample, static_argnums=(2, 3))(params, keys, length, steps))
            samples[name][str(steps)] = quality(x, real, words, counts)
            texts[name] = [prose.decode(row) for row in x[:SHOWN]]
        if model.filled is not None:
            filled[name] = model.filled(params, LINE, jax.random.key(3))
    protocol = bits_report.protocol("steps", "batch", "length", "width", "depth", "windows", "times", "number")
    protocol |= {"text": data.versions, "windows": len(windows)}
    return json_files.plain(
        {"bits": rows, "samples": samples, "texts": texts, "filled": filled, "protocol": protocol,
         "characters": [len(data.train), len(data.held_out)]}
    )  # fmt: skip


def _steps(model: text_models.TextModel, length: int) -> list[int]:
    """The numbers of evaluations of a model; the autoregressive model has only one, its length."""
    return [length] if model.filled is None else [int(number) for number in flags.FLAGS.evaluations]


def draw(content: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws two panels: the bits per character of each model, and the divergence of samples by evaluations."""
    figure = plots.blank(10, 4, "constrained")
    left, right = figure.subplots(1, 2)
    bits = dict(sorted(content["bits"].items(), key=lambda item: -item[1]["bits"]))
    colours = dict(zip(content["texts"], plots.COLOURS))
    errors = [2 * row.get("error", 0.0) for row in bits.values()]
    left.barh(list(bits), [row["bits"] for row in bits.values()], xerr=errors,
              color=[colours.get(name, "#bbbbbb") for name in bits])  # fmt: skip
    left.set_xlabel("bits per character of held-out text (lower is better)")
    for name, colour in colours.items():
        by_steps = content["samples"][name]
        figures = [one["trigrams"] for one in by_steps.values()]
        if len(figures) > 1:
            right.plot([int(steps) for steps in by_steps], figures, "o-", color=colour, label=name)
        else:
            right.plot([int(steps) for steps in by_steps], figures, "s", color=colour, label=name)
    (floor,) = content["samples"]["training text"].values()
    right.axhline(floor["trigrams"], color="#444444", linestyle="--", label="training text")
    right.set_xscale("log", base=2)
    right.set_xlabel("evaluations of the network per sample")
    right.set_ylabel("divergence of trigrams, bits")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, loc="lower left")
    for axes in (left, right):
        plots.style(axes)
    plots.save(figure, path)


def markdown(content: Mapping[str, Any]) -> str:
    """The page."""
    return bits_report.page(_parts(content), content["protocol"])


def _parts(content: Mapping[str, Any]) -> Iterator[str]:
    """The paragraphs, tables and pictures of the report."""
    protocol = content["protocol"]
    versions = " and ".join(f"{name} {version}" for name, version in protocol["text"].items())
    yield f"# {TITLE}"
    yield (
        f"The text is the prose in the documentation of {versions}, reduced to 26 letters and the space. It has "
        f"{content['characters'][0]:,} characters for training and {content['characters'][1]:,} held-out characters, "
        f"split by paragraph. All neural models have {protocol['depth']} layers of width {protocol['width']}, and were "
        f"trained for {protocol['steps']:,} steps on {protocol['batch']} windows of {protocol['length']} characters, "
        "in the same order. The models of uniform noise also receive the time, which needs more parameters."
    )
    yield "![Bits per character, and divergence against evaluations](symbols.png)"
    yield "## Held-out text"
    yield (
        f"The table shows bits per character on {protocol['windows']} windows of {protocol['length']} characters, each "
        "without the text before it, with the standard error over the windows. A bound can be larger than the true "
        "bits of its model, so the order of two rows with different estimators proves nothing. Bounds are in "
        f"continuous time, with {protocol['times']} times per window."
    )
    yield bits_report.table(content["bits"], "character")
    yield "## Samples by evaluations"
    yield (
        f"{protocol['number']} samples each. Divergence: the Jensen-Shannon divergence between the trigrams of the "
        "samples and of the held-out text. Words: the share of complete words that occur in the training text. Judged: "
        "bits per character by the n-gram counts. A sampler can lower this number by repeating itself, which also "
        "lowers the entropy of its characters."
    )
    yield report.table(
        ("model", "evaluations", "divergence", "words", "judged", "entropy"),
        [
            (name, steps, f"{one['trigrams']:.3f}", f"{100 * one['words']:.0f} %", f"{one['judged']:.2f}",
             f"{one['entropy']:.2f}")
            for name, by_steps in content["samples"].items() for steps, one in by_steps.items()
        ],
    )  # fmt: skip
    yield "## Texts"
    yield "Two samples of each model at its greatest number of evaluations, and a line whose gaps were filled in:"
    for name, lines in content["texts"].items():
        filled = [f"{LINE}\n{content['filled'][name]}"] if name in content["filled"] else []
        yield f"{name}:\n\n```text\n" + "\n".join([*lines, *filled]) + "\n```"


def main(argv: list[str]) -> None:
    """Runs the command line."""
    out = pathlib.Path(flags.FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    content = measured(out)
    draw(content, out / "symbols.png")
    report.write(out, content, markdown)
    print(f"{out}/report.md and symbols.png")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)

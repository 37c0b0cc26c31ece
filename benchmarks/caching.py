"""Measures the error and the time of caches and of token merging, on a trained run.

    python -m benchmarks.caching --workdir=runs/demo --out=docs/images/inference_speed
    python -m benchmarks.caching --workdir=runs/unet --out=/tmp/unet

The command samples a run's guided network along one plan: without a cache, with each cache that the network offers at
several thresholds, and without a cache in fewer steps, which a cache must beat. It first measures the ratios of
MagCache and the polynomial of TeaCache on the run (`caching.measured`), and prints them as entries of a config. The
error is the root mean square distance from the pictures without a cache, in the data's units [-1, 1]. The Frechet
distance is between the pixels of the samples and of the training pictures. The share of blocks is the number of blocks
that ran, divided by their number in a trajectory without a cache. Seconds are CPU seconds of all threads, since
wall-clock seconds depend on the other programs on the machine; the table shows the least of some rounds.

The command prints a table, and writes OUT.md, OUT.json and OUT.png.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/demo", required=True)
    flags.DEFINE_integer("steps", 32, "number of steps of the whole trajectory")
    flags.DEFINE_integer("images", 500, "number of samples")
    flags.DEFINE_integer("rounds", 3, "number of rounds of each timing")
    flags.DEFINE_string("out", "docs/images/inference_speed", "path of the output files, without a suffix")
    command_line.begin()

import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from diffusion import caching, samplers
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, run_denoiser
from diffusion.metrics import frechet, image_sets
from diffusion.models import facts
from diffusion.recipe import checks
from diffusion.recipe.recipe import Recipe
from diffusion.training.checkpointing import checkpoints

FEWER = (8, 12, 16, 24)  # steps of the whole network
DEGREE = 2  # degree of TeaCache's polynomial; thirty steps of one run do not determine a higher one


class Way(NamedTuple):
    """A setting of a method of sampling.

    Attributes:
        method: the name of the method, which has one curve in the figure.
        number: the method's threshold, interval, share or number of steps.
        recipe: the run's recipe with this setting.
    """

    method: str
    number: float
    recipe: Recipe


class Measured(NamedTuple):
    """The cost and the result of a setting.

    Attributes:
        method, number: the method and the number of the setting.
        blocks: the share of the blocks of the whole trajectory that ran.
        seconds: the CPU seconds for all samples.
        error: the root mean square distance from the whole network's samples.
        frechet: the distance of the samples' pixels from the training pictures'.
    """

    method: str
    number: float
    blocks: float
    seconds: float
    error: float
    frechet: float


def recipe_of(folder: str, steps: int) -> Recipe:
    """The recipe of a run whose sampler takes `steps` steps, without a cache or merging of its own."""
    config = workdir.read_config(pathlib.Path(folder))
    config.sample.steps = steps
    config.sample.update({"cache": {"name": ""}, "merge": 0.0})
    return checks.validate(config).at(workdir.example_shape(config))


def ways(whole: Recipe, measures: caching.Measures | None) -> Iterator[Way]:
    """All settings of all methods that the network offers."""
    offered = facts.reuses(whole.network)
    steps = len(whole.sampling.plan.t)
    cached = lambda method, number, cache: Way(method, number, whole.with_parts(cache=cache))
    if "blocks" in offered and measures is not None:
        for threshold in (0.1, 0.2, 0.4):
            yield cached("first block", threshold, caching.first_block(threshold))
        coefficients = caching.fitted(measures, DEGREE)
        for threshold in (0.05, 0.2):
            yield cached("TeaCache", threshold, caching.tea_cache(threshold, coefficients, steps))
        ratios = tuple(np.asarray(measures.ratios, np.float64))
        for threshold in (0.06, 0.2):
            yield cached("MagCache", threshold, caching.mag_cache(threshold, ratios))
        for order in (0, 1):
            for interval in (2, 4):
                yield cached(f"TaylorSeer, order {order}", interval, caching.taylor_seer(interval, order))
    if "deep" in offered:
        for branch in (0, 2):
            for interval in (2, 3, 4, 6, 8):
                yield cached(f"DeepCache, branch {branch}", interval, caching.deep_cache(interval, branch))
    if "blocks" in offered:
        for share in (0.25, 0.5):
            yield Way("token merging", share, whole.with_parts(merge=share))


def program(recipe: Recipe) -> Any:
    """A compiled function (params, labels, keys of the noise, other keys) -> (samples, the last memory)."""

    def run(params, labels, first, rest):
        x = samplers.prior(recipe.schedule, first, recipe.examples.shape)
        denoise = run_denoiser.denoiser(recipe)(params, labels)
        return samplers.sample_with_memory(
            recipe.sampling.sampler, denoise, recipe.schedule, x, recipe.sampling.plan, rest
        )

    return jax.jit(run)


def measure(way: Way, arguments: tuple, rounds: int) -> tuple[np.ndarray, float, float]:
    """(samples, the share of the plan's blocks that ran, seconds)."""
    run = program(way.recipe)
    x, memory = jax.block_until_ready(run(*arguments))
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        jax.block_until_ready(run(*arguments))
        seconds.append(time.process_time() - began)
    work = caching.work(memory)
    if work is None:
        return np.asarray(x), 1.0, min(seconds)
    length = facts.feature_blocks(way.recipe.network)
    return np.asarray(x), int(work.run) / (int(work.evaluations) * length), min(seconds)


def draw(rows: list[Measured], whole: Measured, path: str) -> None:
    """Draws the error and the Frechet distance against seconds and the share of blocks, a curve for each method."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    methods = list(dict.fromkeys(row.method for row in rows))
    styles = dict(zip(methods, [*plt.get_cmap("tab10").colors, "black"]))
    for down, (field, name) in enumerate((("error", "rms distance from the whole network"), ("frechet", "Frechet"))):
        for across, (cost, label) in enumerate((("seconds", "CPU seconds"), ("blocks", "share of blocks that ran"))):
            axis = axes[down, across]
            for method in methods:
                few = sorted((row for row in rows if row.method == method), key=lambda row: getattr(row, cost))
                style = {"ls": "--", "color": "0.4", "marker": "s"} if method == "fewer steps" else {}
                style = {"color": styles[method], "marker": "o", **style}
                axis.plot(
                    [getattr(row, cost) for row in few], [getattr(row, field) for row in few], label=method, **style
                )
            if field == "frechet":
                axis.axhline(whole.frechet, color="0.7", lw=1)
                axis.plot(getattr(whole, cost), whole.frechet, "*k", ms=10, label="whole")
            axis.set(xlabel=label, ylabel=name, yscale="log")
            axis.grid(alpha=0.3, which="both")
    axes[1, 1].legend(fontsize=8)
    figure.savefig(f"{path}.png", dpi=110)
    plt.close(figure)


def main(argv: list[str]) -> None:
    """Measures, prints and draws."""
    values = flags.FLAGS
    uncached = recipe_of(values.workdir, values.steps)
    params, _ = checkpoints.load_ema(pathlib.Path(values.workdir), None)
    labels = generate.balanced_labels(values.images, uncached.examples.num_classes)
    arguments = (params, labels, *generate.keys(generate.seeds(uncached.config, values.images)))
    source: Any = uncached.config["data"]
    real = image_sets.open_set(f"{source['name']}@train", source["dir"])
    moments = lambda x: frechet.moments(x.reshape(len(x), -1))
    data = moments(real.read(0, real.count) / 127.5 - 1)
    distance = lambda x: float(frechet.frechet_distance(moments(x), data))

    measures = None
    if "blocks" in facts.reuses(uncached.network):
        measuring = uncached.with_parts(cache=caching.measured(len(uncached.sampling.plan.t)))
        measures = program(measuring)(*arguments)[1].calls[0]
        print("mag_cache ratios:", tuple(round(float(ratio), 4) for ratio in measures.ratios))
        print("tea_cache coefficients:", tuple(round(c, 4) for c in caching.fitted(measures, DEGREE)))
    x, _, seconds = measure(Way("whole", 0, uncached), arguments, values.rounds)
    plain = Measured("whole", 0, 1.0, seconds, 0.0, distance(x))
    fewer = [Way("fewer steps", steps, recipe_of(values.workdir, steps)) for steps in FEWER if steps < values.steps]
    rows = []
    for way in (*ways(uncached, measures), *fewer):
        samples, blocks, seconds = measure(way, arguments, values.rounds)
        blocks *= len(way.recipe.sampling.plan.t) / len(uncached.sampling.plan.t)
        error = float(np.sqrt(np.mean((samples - x) ** 2)))
        rows.append(Measured(way.method, way.number, blocks, seconds, error, distance(samples)))
        print(rows[-1], flush=True)
    write(rows, plain, values)


def write(rows: list[Measured], whole: Measured, values: Any) -> None:
    """Writes OUT.json, OUT.md and OUT.png."""
    out = pathlib.Path(values.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    conditions = {
        "steps": values.steps,
        "images": values.images,
        "device": jax.devices()[0].device_kind,
        "load": os.getloadavg()[0],
        "jax": jax.__version__,
    }
    table = {"about": conditions, "rows": [row._asdict() for row in (whole, *rows)]}
    out.with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n")
    lines = [
        "| method | number | blocks run | CPU seconds | error | Frechet |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {row.method} | {row.number:g} | {100 * row.blocks:.0f} % | {row.seconds:.2f} | {row.error:.4f} | "
            f"{row.frechet:.3f} |"
            for row in (whole, *rows)
        ),
    ]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    draw(rows, whole, str(out))
    print(f"{out}.md, .json and .png: {values.images} samples, {values.steps} steps, load {conditions['load']:.1f}")


if __name__ == "__main__":
    command_line.run(main)

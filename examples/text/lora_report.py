"""Compares a few-step LoRA with its base model of drawings: scores for several numbers of steps, and pictures.

    diffusion train --config=tuning/drawings_fast --workdir=runs/drawings_fast
    python -m examples.text.lora_report --model=drawings --out=runs/drawings_fast/report \\
        --lora=runs/drawings_fast/tuning/pytorch_lora_weights.safetensors

The captions and the reference pictures are new: none is in the dataset `shapes` or in a source of drawings. The judge
of `examples.text.report` reads the pictures. Its features give the Frechet distance, and the variety of four pictures
per caption as a share of the variety of real pictures. The base model uses its default sampler and guidance. With the
LoRA, the sampler is `lcm`, without guidance. The command writes table.md, report.json and samples.png into --out.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string(
        "model", "drawings", "base model: its folder, or the name of a model that ships with the package"
    )
    flags.DEFINE_string("lora", None, "file of the LoRA")
    flags.DEFINE_list("steps", ["1", "2", "4", "8"], "numbers of sampling steps with the LoRA")
    flags.DEFINE_list("base_steps", ["4", "8", "20", "50"], "numbers of sampling steps of the base model")
    command_line.require_counts("steps")
    command_line.require_counts("base_steps")
    flags.DEFINE_integer("number", 400, "number of captions", lower_bound=10)
    flags.DEFINE_string("out", None, "folder for the report")
    flags.mark_flags_as_required(["lora", "out"])
    command_line.begin()

import json
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion import text_to_image
from diffusion.experiments.evaluation import plots, report, sample_metrics
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.text import model as model_folder
from diffusion.io import json_files
from diffusion.io.files import write_text
from diffusion.metrics.attribute_reader import Reader
from examples.text import judge, prompt_metrics

EFFORT = sample_metrics.Effort(0, 10)
NEW = 2_000  # reference pictures of the distances, and as many for the floor
SHOWN = 10  # pictures in a row
WRAPPED = 9  # letters in a line above a picture
BATCH = 50


def measured(model: text_to_image.TextToImage, reader: Reader, number: int, **how: Any) -> tuple[dict, np.ndarray]:
    """Figures of a model, and its pictures of the captions.

    Args:
        model: the model.
        reader: the judge.
        number: the number of captions with one picture each; an eighth of them have four for the variety.
        **how: settings of the pictures, as of `text_to_image.generate`.
    """
    pictures, captions = prompt_metrics.new_drawings(2 * NEW)
    make = lambda prompts, seeds, *_: text_to_image.generate(model, prompts, seeds=seeds, batch_size=BATCH, **how)
    images = make(captions[:number], range(number))
    features = prompt_metrics.judge_features(reader)
    frechet = prompt_metrics.distance_to(features, images, pictures[:NEW], pictures[NEW:], EFFORT)
    verdicts = prompt_metrics.verdicts(reader, captions[:number], images)
    sweep = prompt_metrics.sweep(prompt_metrics.Subject(make, reader), captions[: max(8, number // 8)], (1.0,))
    figures = {
        "fd_judge": frechet["all_samples"]["mean"],
        "floor_judge": frechet["floor"]["mean"],
        "attributes": judge.score(verdicts)["attributes"]["share"],
        "variety": sweep[0]["variety"],
    }
    return figures, images


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown; in brackets, distances are divided by the base model's distance at its most steps."""
    reference = max((row for row in rows if row["name"] == "base"), key=lambda row: row["steps"])
    cells = [
        [
            row["name"],
            row["steps"],
            f"{row['fd_judge']:.4g} ({row['fd_judge'] / reference['fd_judge']:.2f})",
            f"{100 * row['attributes']:.1f} %",
            f"{row['variety']:.2f}",
        ]
        for row in rows
    ]
    return report.table(["model", "steps", "FD judge", "attributes right", "variety"], cells) + "\n"


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    out = pathlib.Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    base = model_folder.load(values.model)
    fast = text_to_image.with_loras(base, {values.lora: 1.0})
    settings = [("LoRA", fast, int(steps), {"sampler": "lcm", "guidance": 1.0}) for steps in values.steps]
    settings += [("base", base, int(steps), {}) for steps in values.base_steps]
    reader = judge.reader()
    rows, shown = [], []
    for name, model, steps, how in settings:
        figures, images = measured(model, reader, values.number, steps=steps, **how)
        rows.append({"name": name, "steps": steps, **figures})
        shown.append(images[:SHOWN])
        print(f"{name}, {steps} steps: {json.dumps(figures)}", flush=True)
    captions = [textwrap.fill(text, WRAPPED) for text in prompt_metrics.new_drawings(SHOWN)[1]]
    plots.mosaic([np.stack(shown)], [f"{row['name']}, {row['steps']}" for row in rows], [captions], out / "samples.png")
    record = {"model": values.model, "number": values.number, "rows": rows, **report.software()}
    json_files.write(out / "report.json", record)
    write_text(out / "table.md", table(rows))
    print(table(rows))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)

"""Measures a text-to-image model, or its pictures, on GenEval, DPG-Bench, T2I-CompBench or T2I-CompBench++.

    diffusion prompt_benchmark --protocol=geneval --prompts=evaluation_metadata.jsonl --images=theirs \\
        --extend=my_readers.py --detector=mask2former --clip=clip-vit-large-patch14 --out=runs/geneval
    diffusion prompt_benchmark --protocol=dpg-bench --prompts=dpg_bench.csv --images=theirs \\
        --extend=my_readers.py --answerer=mplug --out=runs/dpg
    diffusion prompt_benchmark --protocol=t2i-compbench --prompts=examples/dataset --images=runs/a/compbench \\
        --model=stable-diffusion-v1-5 --extend=my_readers.py --detector=unidet --answerer=blip_vqa \\
        --grammar=spacy --clip=clip-vit-base-patch32 --out=runs/compbench

--prompts is the published file, and --images the folder of pictures in the published layout. --model, or a run of
examples.text (--workdir), generates missing pictures. The detectors and other networks that read the pictures are
functions of your own, which --extend registers (docs/evaluation.md). Every judged picture becomes a line of
OUT/results.jsonl, so the same command continues after an interruption. OUT/benchmark.json contains the scores with
their standard errors, and all settings on which they depend.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string(
        "protocol", None, "benchmark: geneval, dpg-bench, t2i-compbench or t2i-compbench++", required=True
    )
    flags.DEFINE_string(
        "prompts",
        None,
        "published file of prompts: evaluation_metadata.jsonl, dpg_bench.csv, or CATEGORY_val.txt or its folder",
    )
    flags.DEFINE_string("images", None, "folder of the pictures, in the published layout")
    flags.DEFINE_string("model", None, "folder of a text-to-image model that generates missing pictures")
    flags.DEFINE_string("workdir", None, "run folder of examples.text, whose model generates missing pictures")
    flags.DEFINE_string("detector", None, "name of your function that detects objects, registered by --extend")
    flags.DEFINE_string(
        "answerer", None, "name of your function that answers questions about pictures, registered by --extend"
    )
    flags.DEFINE_string("grammar", None, "name of your function that parses prompts, registered by --extend")
    flags.DEFINE_string(
        "depth", None, "name of your function that estimates the depth of pixels, registered by --extend"
    )
    flags.DEFINE_string(
        "embedder", None, "name of your function that embeds pictures and texts, registered by --extend"
    )
    flags.DEFINE_string("clip", None, "folder of a CLIPModel, used instead of --embedder")
    flags.DEFINE_integer(
        "per_prompt", None, "number of pictures per prompt; by default as published: 4, 4, 10 and 10", 1
    )
    flags.DEFINE_integer("seed", 0, "seed of the first missing picture", 0)
    flags.DEFINE_integer("steps", None, "number of sampling steps; by default that of the model", 1)
    flags.DEFINE_float("guidance", None, "guidance scale; by default that of the model", 0)
    flags.DEFINE_integer("batch_size", 8, "number of files to read at once", 1)
    flags.DEFINE_string("out", None, "folder for the results", required=True)
    flags.mark_flags_as_required(["prompts", "images"])
    command_line.begin()

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from diffusion.experiments.evaluation import report
from diffusion.experiments.prompt_benchmark import benchmarks, clip_embedder, judging, making
from diffusion.experiments.prompt_benchmark.benchmarks import Benchmark, Readers
from diffusion.experiments.run_folder import user_code, workdir
from diffusion.io import json_files
from diffusion.metrics.prompt_following.clustered import Mean
from diffusion.metrics.prompt_following.readers import ReaderError
from diffusion.recipe import ConfigError, extensions, names, unknown

TABLES = {
    "detector": names.DETECTORS,
    "answerer": names.ANSWERERS,
    "depth": names.DEPTHS,
    "embedder": names.EMBEDDERS,
    "grammar": names.GRAMMARS,
}


def run(
    benchmark: Benchmark,
    prompts: pathlib.Path,
    images: pathlib.Path,
    out: pathlib.Path,
    named: Readers,
    *,
    about: Mapping[str, Any] | None = None,
    per_prompt: int = 0,
    batch_size: int = 8,
    model: str = "",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> dict:
    """Judges the pictures of a benchmark, and writes benchmark.json; returns its content.

    Args:
        benchmark: the benchmark, one of `benchmarks.BENCHMARKS` or your own.
        prompts: the published file of its prompts.
        images: the folder of pictures.
        out: the folder of the results.
        named: the readers of the pictures.
        about: the description of the readers for the record, a JSON value.
        per_prompt: the number of pictures per prompt; 0 for the published number.
        batch_size: the number of files that are read at once.
        model: the folder of a text-to-image model that generates missing pictures; "" for none.
        seed: the seed of the first picture.
        settings: the settings of generated pictures: steps, guidance.

    Raises:
        ConfigError: if the prompts, pictures or earlier results do not fit the benchmark.
        ReaderError: if a reader returns another form.
    """
    per_prompt = per_prompt or benchmark.per_prompt
    if 0 < benchmark.most < per_prompt:
        raise ConfigError(
            f"--per_prompt={per_prompt}: {benchmark.name} has at most {benchmark.most} pictures per prompt. Valid: 1 "
            f"to {benchmark.most}."
        )
    items, digest = benchmarks.opened(benchmark, prompts)
    files = judging.files_of(benchmark, items, per_prompt)
    if not model:
        judging.require_pictures(benchmark, files, images)
    judging.require_readers(benchmark, items, named)
    with workdir.lock(out, "--out"):
        protocol = {"name": benchmark.name, "source": benchmark.source, "rules": dict(benchmark.rules)}
        request = {
            "protocol": protocol,
            "prompts": {"sha256": digest, "count": len(items)},
            "per_prompt": per_prompt,
            "readers": dict(about or {}),
        }
        request = json.loads(json.dumps(request))
        judging.begin(out, request)
        if model:
            making.make(benchmark, items, images, model, per_prompt, seed, settings)
            judging.require_pictures(benchmark, files, images)
        rows = judging.judge(benchmark, files, named, images, out, per_prompt, batch_size)
        figures = {name: figure(mean) for name, mean in benchmark.figures(items, rows).items()}
        makers = making.makers(images / file.path for file in files)
        content = {
            **request,
            "pictures": {"folder": str(images), "count": len(rows), "makers": makers},
            "files": {"prompts": str(prompts)},
            "figures": figures,
            **report.software(),
        }
        json_files.write(out / "benchmark.json", content)
    return content


def figure(mean: Mean) -> dict[str, Any]:
    """A mean as benchmark.json has it; scores that are all equal, as where every picture is right, tell no error."""
    return json_files.finite(mean._replace(standard_error=mean.standard_error or math.nan)._asdict())


def named_readers() -> tuple[Readers, dict[str, Any]]:
    """The readers that the flags name, and their description for the record."""
    values = flags.FLAGS
    chosen: dict[str, Any] = {}
    record: dict[str, Any] = {}
    for field, table in TABLES.items():
        if name := values[field].value:
            if name not in table:
                raise unknown(f"--{field}", name, table, field)
            chosen[field] = table[name]()
            record[field] = name
    if values.clip:
        if values.embedder:
            raise ConfigError("--clip and --embedder both name an embedder. Leave one of them out.")
        chosen["embedder"], digest = clip_embedder.opened(values.clip)
        record["embedder"] = {"clip": pathlib.Path(values.clip).name, "sha256": digest}
    code = [user_code.described(extension) for extension in extensions.loaded.values()]
    record["code"] = [{name: entry[name] for name in ("name", "sha256")} for entry in code]
    return Readers(**chosen), record


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    out = workdir.output_folder(values.out)
    if values.protocol not in benchmarks.BENCHMARKS:
        raise unknown("--protocol", values.protocol, benchmarks.BENCHMARKS, "protocol")
    if values.model and values.workdir:
        raise ConfigError("--model and --workdir both name a model. Leave one of them out.")
    if not (values.model or values.workdir):
        flag_errors.refuse(
            ("seed", "steps", "guidance"), "is only for generated pictures. Name a model by --model or --workdir."
        )
    benchmark = benchmarks.BENCHMARKS[values.protocol]
    benchmarks.opened(benchmark, pathlib.Path(values.prompts))  # refuses bad prompts before readers load for minutes
    named, record = named_readers()
    model = str(workdir.text_model(values.workdir)) if values.workdir else values.model or ""
    settings = {name: values[name].value for name in ("steps", "guidance") if values[name].value is not None}
    content = run(
        benchmark,
        pathlib.Path(values.prompts),
        pathlib.Path(values.images),
        out,
        named,
        about=record,
        per_prompt=values.per_prompt or 0,
        batch_size=values.batch_size,
        model=model,
        seed=values.seed,
        settings=settings,
    )
    rows = [
        [name, report.with_error(figure), figure["samples"], figure["prompts"]]
        for name, figure in content["figures"].items()
    ]
    report.show(f"{benchmark.name}: {values.images}", ["", "± standard error", "pictures", "prompts"], rows)
    print(f"wrote {out / 'benchmark.json'}, {out / judging.FILE}")


if __name__ == "__main__":
    command_line.run(main, (*workdir.FAILURES, ReaderError), compiles=True)

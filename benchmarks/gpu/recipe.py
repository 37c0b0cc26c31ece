"""Trains the CIFAR-10 recipe on a lent GPU in stages that resume, and measures it on the spot.

    python -m benchmarks.gpu.recipe --out=results --home=HOME --carried=CARRIED --minutes=9
    python -m benchmarks.gpu.recipe --out=/tmp/r --home=/tmp/h --carried=CARRIED --minutes=9 --tiny    # on a CPU

CARRIED holds data/ (the prepared dataset, as data/cifar10/VERSION) and inception.safetensors; `benchmarks.gpu.carry`
brings them to the machine. HOME, a folder on the machine's disk, holds the files of the stages and all results. After
each call the command copies results.json and log.txt to --out, and, when all stages are done, samples.png and weights/
(pieces of the best weights, for `benchmarks.gpu.carry put`). The same command continues as long as HOME exists. The
exit status is that of `benchmarks.gpu`. With `--curve=FILE.png` the command only draws FID against time from the
results in --out.
"""

import pathlib
import shutil
import sys

from absl import app, flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    OUT = flags.DEFINE_string("out", None, "folder of results.json and log.txt", required=True)
    DONE = flags.DEFINE_multi_string("done", [], "folder with the results.json of an earlier call; may be repeated")
    MINUTES = flags.DEFINE_float("minutes", 9.0, "number of minutes that this call may take")
    HOME = flags.DEFINE_string("home", None, "folder on the machine's disk for the files of the stages", required=True)
    CARRIED = flags.DEFINE_string("carried", None, "folder of data/ and inception.safetensors")
    TINY = flags.DEFINE_bool("tiny", False, "use small sizes, for a rehearsal of minutes on a CPU")
    CURVE = flags.DEFINE_string("curve", None, "file for a curve of FID against time; draws it and runs no stage")
    command_line.begin()

from benchmarks.gpu import recipe_figures, stages


def all_stages(home: pathlib.Path, carried: pathlib.Path, tiny: bool) -> list[stages.Stage]:
    """The stages, in order."""

    def stage(name: str, least: float, makes: str) -> stages.Stage:
        words = (sys.executable, "-m", "benchmarks.gpu.recipe_stage", name, f"--home={home}",
                 f"--data_dir={carried / 'data'}", f"--inception={carried / 'inception.safetensors'}",
                 *(("--tiny",) if tiny else ()))  # fmt: skip
        return stages.Stage(name, words, least, 600, home / makes)

    return [
        stage("reference", 40, "reference.safetensors"),
        stage("rate", 60, "steps.json"),
        stage("train", 60, "trained"),
        stage("measure", 60, "measured.json"),
        stage("keep", 20, "weights"),
    ]


def main(argv: list[str]) -> None:
    """Runs the stages that are left, or draws the curve."""
    stages.stoppable()
    out = pathlib.Path(OUT.value)
    home = pathlib.Path(HOME.value)
    done = [pathlib.Path(folder) for folder in DONE.value]
    if CURVE.value:
        return recipe_figures.draw(stages.gathered([*done, out]), pathlib.Path(CURVE.value))
    if not CARRIED.value:
        raise app.UsageError("--carried is missing: the folder of data/ and inception.safetensors")
    chosen = all_stages(home, pathlib.Path(CARRIED.value), TINY.value)
    try:
        results = stages.run(chosen, home, 60 * MINUTES.value, done)
    finally:  # HOME stays on the machine between calls, and --out is transferred back
        out.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", "log.txt", "samples.png", "weights"):
            if (home / name).is_dir():
                shutil.copytree(home / name, out / name, dirs_exist_ok=True)
            elif (home / name).is_file():
                shutil.copyfile(home / name, out / name)
    for name, result in results.items():
        values = result.get("result", {})
        print(name, {key: value for key, value in values.items() if key not in ("loss", "figures")})
        for figure, value in values.get("figures", {}).items():
            print(f"    {figure}: FID {value['fid']:.3f}, {value['samples']} samples, {value['seconds']:.0f} s")
    sys.exit(stages.summary(chosen, results))


if __name__ == "__main__":
    command_line.run(main)

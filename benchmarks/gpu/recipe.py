"""Trains the CIFAR-10 recipe on a lent GPU in stages that resume, and measures it on the spot.

    python -m benchmarks.gpu.recipe --out=results --home=HOME --carried=CARRIED --minutes=9
    python -m benchmarks.gpu.recipe --out=/tmp/r --home=/tmp/h --carried=CARRIED --minutes=9 --tiny    # on a CPU

CARRIED holds data/ (the prepared dataset, as data/cifar10/VERSION) and inception.safetensors, which
`benchmarks.gpu.carry` brings in parts; HOME, on the machine's disk, what the stages make, and all results. Copies of
these go into --out after each call: results.json, log.txt, and when all is done samples.png and weights/ (pieces of
the best weights, for `benchmarks.gpu.carry put`). The same command goes on as long as HOME is there; exit status as
`benchmarks.gpu`. With `--curve=FILE.png` it draws FID against time from the results in --out, and runs nothing.
"""

import pathlib
import shutil
import sys

from absl import app, flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    OUT = flags.DEFINE_string("out", None, "folder of results.json and log.txt", required=True)
    DONE = flags.DEFINE_multi_string("done", [], "folder with the results.json of an earlier call; may be repeated")
    MINUTES = flags.DEFINE_float("minutes", 9.0, "that this call may take")
    HOME = flags.DEFINE_string("home", None, "folder of what the stages make, on the machine's disk", required=True)
    CARRIED = flags.DEFINE_string("carried", None, "folder of data/ and inception.safetensors")
    TINY = flags.DEFINE_bool("tiny", False, "a rehearsal on a CPU, in minutes")
    CURVE = flags.DEFINE_string(
        "curve", None, "draw FID against time into this file, from the results, and run nothing"
    )
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
    """Runs the stages that are left; or draws."""
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
    finally:  # HOME remembers from call to call, and --out is what comes back
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

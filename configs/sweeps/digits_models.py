"""The models of `digits_samplers.py`: a teacher on handwritten digits and its students, three seeds each, 3 runs.

    diffusion sweep --sweep=digits_models --workdir=runs/digits_models --jobs=2

A run trains a teacher (cosine schedule, v) in DIR/seed=S/teacher, then distils it by halves into students of 16, 8, 4,
2 steps and 1 (Salimans and Ho 2022), each the teacher of the next: DIR/seed=S/student_N.

Time: about 17 minutes on two CPU cores (measured: a run 8 minutes of one core of 2.6 GHz).
Presets: `digits_models:tiny` (one seed, 20 steps of each, to see that everything works).
"""

from diffusion.experiments.sweeps.combinators import each
from diffusion.experiments.sweeps.commands import train
from diffusion.experiments.sweeps.definition import Sweep, is_tiny

STUDENTS = (16, 8, 4, 2, 1)  # numbers of sampling steps of the students
PREDICTS = '{"name": "v", "clock": {"name": "steps"}}'
PROCESS = (
    '--config.schedule={"name": "cosine"}',
    f"--config.parameterization={PREDICTS}",
    '--config.sample.sampler={"name": "ddim"}',
    "--config.sample.guidance.scale=1.0",
    "--config.sample.number=400",
)
TIMES = '{"name": "uniform_density", "strata": %d}'
TEACHER = f'{{"name": "denoising", "density": {TIMES}, "weighting": {{"name": "min_snr"}}}}'


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, or a preset of it; see the module's docstring."""
    tiny = is_tiny(arg)
    config = "digits:tiny" if tiny else "digits"
    objective = TEACHER % (32 if tiny else 64)
    steps, halving = (20, 20) if tiny else (1800, 400)
    every = ("--config.checkpoint.every=10",) if tiny else ("--config.checkpoint.every=400",)
    commands = [
        train(
            config,
            "{folder}/teacher",
            *PROCESS,
            *every,
            f"--config.train.steps={steps}",
            f"--config.objective={objective}",
        )
    ]
    teacher = "{folder}/teacher"
    for N in STUDENTS:
        commands.append(
            train(
                config,
                f"{{folder}}/student_{N}",
                *PROCESS,
                *every,
                f"--config.train.steps={halving}",
                f'--config.objective={{"name": "progressive_distillation", "N": {N}}}',
                f"--config.teacher.path={teacher}",
                f"--config.teacher.parameterization={PREDICTS}",
                f"--config.init_from.path={teacher}",
                f"--config.sample.steps={N}",
                "--config.optimizer.learning_rate=5e-4",
                "--config.optimizer.warmup=0",
            )
        )
        teacher = f"{{folder}}/student_{N}"
    return Sweep(each("seed", range(1 if tiny else 3)), commands)

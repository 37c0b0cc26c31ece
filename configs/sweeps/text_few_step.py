"""Every method of few steps on the text-to-image model of `make demo-text`, at one cost, with three seeds: 39 runs.

    python -m examples.text.demo --config=text/shapes --workdir=runs/text
    diffusion sweep --sweep=text_few_step --workdir=runs/text_few_step_students --jobs=2
    python -m examples.text.few_steps --teacher=runs/text/denoiser --students="runs/text_few_step_students/*" \\
        --out=runs/text_few_steps --number=400

A student has 200,000 passes of the network (`configs.sweeps.equal_cost` says how they are counted); the pairs of reflow
belong to its cost. The methods are those of `digits_few_step` that have a teacher. rCM is left out: this teacher
predicts x0, and rCM would begin with new weights. All methods of one seed run before the next seed.

Time and results: docs/students_text.md.

Presets: `text_few_step:tiny` (of a run in runs/text_tiny, to see that everything works).
"""

from diffusion.configs.sweeps.equal_cost import Method, halvings, sweep
from diffusion.experiments.sweeps.definition import Sweep

STUDENT = 200_000  # passes
PAIRS = 4096 * 10 * 2  # of reflow, each with ten guided steps of the teacher
TEACHER = "text/denoiser"
STRONGER_DISCRIMINATOR = {  # than that of the digits
    "objective.weight": 1.0,
    "second_player.objective.r1": 0.1,
    "second_player.optimizer.learning_rate": 1e-3,
}
HALF = {"train.batch_size": 32}


def _method(name: str, passes: float, total: int = STUDENT, **rest) -> Method:
    return Method(f"students/{name}", passes, total, teacher=TEACHER, **rest)


METHODS = {
    "lcm": _method("lcm", 6, fields={"objective.solver_steps": 20}),
    "turbo": _method("turbo", 16.4, batch=32, fields=STRONGER_DISCRIMINATOR),
    "ladd": _method("ladd", 5.9, batch=32),
    "consistency": _method("consistency", 8),
    "progressive": _method("progressive", 7, stages=halvings(5, "objective")),
    "lightning": _method("lightning", 18.7, batch=32, stages=halvings(3, "objective", "second_player.objective")),
    "guided": _method("guided", 5),
    "dmd": _method("dmd", 5.2, batch=32, fields=HALF),
    "dmd2": _method("dmd2", 8.8, batch=32, fields=HALF),
    "f_distill": _method("f_distill", 8.4, batch=32, fields=HALF),
    "sid": _method("sid", 12.5, batch=32, fields=HALF),
    "sida": _method("sida", 15.5, batch=32, fields=HALF),
    "reflow": _method("reflow", 3, STUDENT - PAIRS),
}


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, or a preset of it; see the module's docstring."""
    return sweep(METHODS, arg, "text_tiny/denoiser")

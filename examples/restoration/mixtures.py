"""Measures five methods on the mixtures of the MCGDiff paper, in 8 and 80 dimensions, against exact posteriors.

    python -m examples.restoration.mixtures --seeds=6

The data are a mixture of 25 Gaussians with standard deviation 1 and unequal weights, whose means lie on a grid of step
8. The matrix A has one or four rows. Its singular values are uniform in (0, 1), and the standard deviation of the noise
is uniform up to the largest singular value. The command prints the mean over the seeds of the sliced 2-Wasserstein
distance to the exact posterior, with its standard error.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_integer("steps", 100, "number of denoiser evaluations per sample or particle", lower_bound=10)
    flags.DEFINE_integer("points", 250, "number of samples of each posterior", lower_bound=50)
    flags.DEFINE_integer("seeds", 6, "number of problems of each kind", lower_bound=2)
    flags.DEFINE_multi_integer(
        "dimension", [8, 80], "dimension of the data, an even number; may be repeated", lower_bound=4
    )
    flags.register_validator(
        "dimension",
        lambda values: all(value % 2 == 0 for value in values),
        "the means lie on a grid of pairs of coordinates. Valid: even numbers from 4 on.",
    )
    command_line.begin()

import jax.numpy as jnp
import numpy as np

from diffusion import schedules
from diffusion.experiments.evaluation import report
from diffusion.experiments.run_folder import workdir
from diffusion.guidance import measurements
from diffusion.metrics import vector_distances
from examples.restoration import exact, methods, tasks
from examples.restoration.report import restored

STEP = 8.0  # step of the grid of means, which is the methods' unit of length
ROWS = (1, 4)
NAMES = ("DPS", "PiGDM", "DDRM", "twisted", "MCGDiff")
SCHEDULE = schedules.cosine()


def problem(dimension: int, rows: int, seed: int) -> tuple[exact.Mixture, np.ndarray, np.ndarray, float]:
    """A random problem in units of the grid's step: (mixture, A, y, noise_std)."""
    random = np.random.default_rng([dimension, rows, seed])
    grid = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    weights = random.standard_normal(len(grid)) ** 2
    mixture = exact.Mixture(
        weights / weights.sum(), np.tile(grid, dimension // 2).astype(float), np.eye(dimension) / STEP**2
    )
    left, _, right = np.linalg.svd(random.standard_normal((rows, dimension)), full_matrices=False)
    values = random.random(rows)
    A = ((left * values) @ right).astype(np.float32)
    noise_std = float(random.random() * values.max() / STEP)
    y = A @ exact.draw(mixture, 1, seed)[0] + noise_std * random.standard_normal(rows)
    return mixture, A, y, noise_std


def distances(dimension: int, rows: int, seed: int, steps: int, points: int) -> dict[str, float]:
    """The distance of each method's samples to the posterior, in units of a component's standard deviation."""
    mixture, A, y, noise_std = problem(dimension, rows, seed)
    data_std = float(exact.draw(mixture, 10_000, 0).std(0).mean())
    task = tasks.linear(measurements.matrix(A), noise_std)
    setting = methods.Setting(exact.denoiser(mixture, SCHEDULE), SCHEDULE, task, steps, data_std)
    every = methods.programs(setting)
    runs = {name: every[name] for name in NAMES}
    target = exact.posterior(mixture, A, y, noise_std)
    reference = exact.draw(target, 4 * points, 7)
    along = vector_distances.directions(64, dimension, seed=1)
    read = jnp.broadcast_to(jnp.asarray(y, jnp.float32), (points, rows))
    samples = {"the posterior itself": exact.draw(target, points, 8)}
    samples |= restored(runs, read, SCHEDULE, (dimension,), seed)
    squares = {name: vector_distances.sliced_wasserstein(x, reference, along) for name, x in samples.items()}
    return {name: STEP * square**0.5 for name, square in squares.items()}


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    kinds = [(dimension, rows) for dimension in values.dimension for rows in ROWS]
    table: dict[str, list[str]] = {}
    for dimension, rows in kinds:
        every = [distances(dimension, rows, seed, values.steps, values.points) for seed in range(values.seeds)]
        for name in every[0]:
            distance = np.array([row[name] for row in every])
            error = distance.std(ddof=1) / len(distance) ** 0.5
            table.setdefault(name, []).append(f"{distance.mean():.2f} ({error:.2f})")
    print(
        report.table(
            ("samples", *(f"{rows} of {dimension}" for dimension, rows in kinds)),
            [(name, *row) for name, row in table.items()],
        )
    )


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)

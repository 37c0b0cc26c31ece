"""diffusers' scheduler_config.json as a process, what the network predicts, and grids of times.

    process = schedulers.read(config)
    trajectory = schedulers.trajectory(process, "dpmpp_2m", steps=30)
    x = trajectory.start * noise
    samplers.sample(trajectory.sampler, denoise, process.schedule, x, trajectory.plan, keys)

One scheduler of diffusers is three things: the process that the network was trained with, a solver, and where its steps
lie. The process is read once. A solver has a name, and steps where diffusers' scheduler of that name would step with
this config. A spacing or an offset that the config sets holds for all solvers; where the config is silent, each has its
own default. What differs from diffusers:

- Steps end where the next one begins. (DDIM, PLMS and DDPM of diffusers step by T // steps whatever the grid, which is
  the same with spacing "leading".)
- A step from the first time of the process to itself is left out.
- Times between two of the process's are where its log alpha is linear; in diffusers sigma / alpha is, or its logarithm.
  The times that the network receives differ by less than 0.01 of a training step, and near the data by less than 0.2.
- With exponential and beta steps the networks of diffusers' DPM-Solver++, DEIS and UniPC receive times that are cut to
  whole ones; ours receive those that belong to their noise. (With Karras' and Lu's steps, and of the flows of these
  classes, such as Wan's, ours receive diffusers' whole times: `Trajectory.clocked`.)
- PNDM's Runge-Kutta steps of diffusers have whole half steps, (T // steps) // 2.
- "euler", "heun" and their kin integrate in sigma / alpha, as everywhere in this field; `samplers.euler` is in t.
- LCM's boundary, whose weight is 7e-6 at the smallest of its times, is left out.

One scheduler is ours, with no counterpart in diffusers: OURS, of few-step students of flows, see
`diffusion.experiments.text.model`.
"""

from diffusion.models.interchange.schedulers.process import (
    ONLY as ONLY,
    OPTIONS as OPTIONS,
    OURS as OURS,
    PREDICTIONS as PREDICTIONS,
    WITHOUT_EFFECT as WITHOUT_EFFECT,
    Process as Process,
    read as read,
)
from diffusion.models.interchange.schedulers.solvers import SOLVERS as SOLVERS
from diffusion.models.interchange.schedulers.trajectories import (
    Trajectory as Trajectory,
    later_steps as later_steps,
    trajectory as trajectory,
)
from diffusion.package import public

public.declare(__name__)

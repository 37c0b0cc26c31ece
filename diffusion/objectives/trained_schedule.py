"""A noise schedule that is trained with the model, by an objective whose values are comparable between schedules."""

import dataclasses

from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective, check_objective
from diffusion.objectives.objective_facts import Head
from diffusion.schedules.noise_schedule import Trained


def with_trained_schedule(objective: Objective, trained: Trained) -> Objective:
    """The objective under a schedule with trained parameters, in place of the schedule that it is called with.

        loss = objective(networks, schedule = trained.build(parameters), ...)

    Facts:
        loss: the objective's, under the trained schedule
        networks: the objective's; schedule, called without arguments, which returns a NoiseSchedule
        optimum: the objective's, and the parameters that minimise it
        paper: Kingma et al. 2021, "Variational Diffusion Models", section 5.3 and appendix I

    Args:
        objective: an objective whose values under different schedules are comparable, such as `variational_bound`.
        trained: initial parameters, and the function from parameters to the schedule: a schedule's `trained`.

    Raises:
        ValueError: if the values are not comparable, because the schedule could make the objective trivial.
    """
    check_objective(objective)
    if not objective.network.schedule:
        raise ValueError(
            "the values of this objective under different schedules cannot be compared, so it cannot train a "
            "schedule. Valid: variational_bound, or a schedule that does not train"
        )

    @entry(entries=None, real=True)
    def loss(networks, schedule, keys, batch, step):
        return objective(networks, player(networks, "schedule")(), keys, batch, step)

    head = Head(None, lambda key, *sizes: trained.init(), trained.build)
    return dataclasses.replace(objective, loss=loss, heads={**objective.heads, "schedule": head})

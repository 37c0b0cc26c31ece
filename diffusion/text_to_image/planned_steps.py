"""The steps of a request: its sampler, the part of the plan that it takes, and where it starts."""

from typing import NamedTuple

from diffusion import timesteps
from diffusion.models.interchange import schedulers
from diffusion.sampling import editing
from diffusion.text_to_image import video_models
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.requests import Request


class PlannedSteps(NamedTuple):
    """The steps of a request.

    Attributes:
        trajectory: the sampler, and the steps that the request takes.
        complete_plan: the steps from pure noise; the trajectory takes the last of them, or repeats some.
        noised: whether the trajectory starts at a noised image.
    """

    trajectory: schedulers.Trajectory
    complete_plan: timesteps.Plan
    noised: bool


def planned_steps(model: TextToImage, request: Request, size: tuple[int, int], frames: int) -> PlannedSteps:
    """The steps of a request for pictures of a size, or for clips.

    Args:
        model: the model.
        request: a request whose steps are resolved.
        size: (height, width) of the pictures, on whose number of tokens some schedules depend.
        frames: number of frames of a clip; 0 for pictures.

    Raises:
        ValueError: for a sampler or a number of steps that the model's process does not take.
    """
    assert request.steps is not None
    tokens = (size[0] // model.multiple) * (size[1] // model.multiple)
    tokens *= video_models.latent_frames(model, frames) if frames else 1
    at_noise = model.sees_picture or frames > 0
    all_steps = not at_noise and _runs_all_steps(model, request)
    begun = model.process.prediction == "flow_prediction"
    first = 0 if at_noise or all_steps else request.first_step(request.steps, begun)
    share = request.changed_share if all_steps else 1.0
    trajectory = schedulers.trajectory(model.process, request.sampler, request.steps, tokens, share)
    complete_plan = trajectory.plan
    if request.resamplings > 1:
        plan = editing.repaint_quarters(complete_plan, first, request.resamplings)
    else:
        plan = schedulers.later_steps(complete_plan, request.sampler, first)
    noised = request.begins_at_image(first) and not at_noise
    return PlannedSteps(trajectory._replace(plan=plan), complete_plan, noised)


def _runs_all_steps(model: TextToImage, request: Request) -> bool:
    """Whether all steps of a request lie in the times that its strength leaves, as LCMScheduler lays them."""
    solver = schedulers.SOLVERS.get(request.sampler)
    in_table = bool(model.process.named) and model.process.planned is None  # a flow's steps have no such share
    return (
        model.kind.pictures.all_steps
        and in_table
        and solver is not None
        and solver.spacing == "lcm"
        and not request.keeps
    )

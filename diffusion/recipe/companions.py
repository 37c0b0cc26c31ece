"""The networks besides the model of a run: the second player, which is also trained, and the teacher."""

from typing import Any, NamedTuple

from diffusion.flows.flow_maps import FlowMap
from diffusion.objectives import Objective
from diffusion.parameterizations import Parameterization
from diffusion.samplers import Sampler, heun


class SecondPlayer(NamedTuple):
    """The player that trains in turn with the model.

    Attributes:
        objective: the player's objective, which says which network it trains.
        optimizer: the optimizer of that network.
        updates: how often it is updated for one update of the model, which acts at every `updates`-th step, at least 1.
        network: its module, where it has an architecture of its own; None: the teacher's.
    """

    objective: Objective
    optimizer: Any
    updates: int = 1
    network: Any = None


class Teacher(NamedTuple):
    """The trained run that a run learns from, or the base that a run tunes.

    Attributes:
        path: the folder of the run, the moving average of whose latest checkpoint is read when this run begins; "": the
            base teaches, as it is without the new weights.
        parameterization: the quantity that it predicts.
        scale: the scale of the classifier-free guidance with which it teaches; 1 for no guidance.
        pairs: how many pairs of noise and sample it makes before the training.
        pair_sampler: the sampler by which it makes them.
        pair_steps: how many steps that sampler takes.
    """

    path: str
    parameterization: Parameterization
    scale: float = 1.0
    pairs: int = 0
    pair_sampler: Sampler = heun()
    pair_steps: int = 20

    def check(self) -> None:
        """Refuses a teacher that cannot be guided so, or a sampler that makes no pairs.

        Raises:
            ValueError: naming what is valid.
        """
        if self.scale != 1 and self.parameterization.channels > 1:
            raise ValueError(
                "the scale guides the output of the teacher, which includes a learned variance here. Valid: a scale "
                "of 1"
            )
        if self.pair_sampler.draws or FlowMap in self.pair_sampler.takes:
            raise ValueError(
                "this sampler cannot make pairs, because a sample must be determined by the noise that it starts "
                "from. Valid: a deterministic sampler of denoisers, e.g. heun or dpmpp_2m"
            )

"""Couplings: which noise goes with which data.

A `Coupling` is called with (keys `[B]`, x0 `[B, ...]`, eps `[B, ...]`, condition) and returns eps re-paired. The keys
are used only by couplings that draw pairs at random. With any coupling other than `independent`, E[eps | x_t] is no
longer -sigma times the score, so samplers that use the score do not apply to a network trained with it.

Sampling starts from the prior under every condition, so in training too the noise given the condition must follow the
prior. Transport between all examples of a block violates this: it gives each class the noise that lies nearest to it.
The couplings here therefore pair only examples of equal conditions. `conditional_transport` is for continuous
conditions, and `across_conditions` ignores conditions on purpose.

Transport plans are solved in fixed blocks of consecutive examples of the global batch, so that the pairs do not
depend on the number of devices or of micro-batches, as long as each holds whole blocks. Every x0 keeps its position
and its condition. For sets of points, `equivariant_transport` also chooses the order and the orientation of the noise.
"""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.objectives.couplings.conditional_transport import (
        ConditionDistance as ConditionDistance,
        condition_weight as condition_weight,
        conditional_optimal_transport as conditional_optimal_transport,
        cosine as cosine,
        squared as squared,
    )
    from diffusion.objectives.couplings.equivariant_transport import (
        aligned as aligned,
        equivariant_optimal_transport as equivariant_optimal_transport,
        matched as matched,
        rotated as rotated,
        turn as turn,
    )
    from diffusion.objectives.couplings.transport import (
        Cost as Cost,
        Coupling as Coupling,
        across_conditions as across_conditions,
        assignment as assignment,
        entropic_plan as entropic_plan,
        in_blocks as in_blocks,
        independent as independent,
        marginal_error as marginal_error,
        optimal_transport as optimal_transport,
        same_condition as same_condition,
        schroedinger_bridge as schroedinger_bridge,
        sinkhorn as sinkhorn,
        within_conditions as within_conditions,
    )

public.declare(__name__)

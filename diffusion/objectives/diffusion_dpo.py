"""Direct preference optimisation: a model learns from pairs of a preferred and a rejected example, without a reward."""

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, mix, player, sum_square
from diffusion.objectives.inputs import noised, output_weight, weigh
from diffusion.objectives.objective import Denoises, Objective, Teacher
from diffusion.objectives.objective_facts import Examples
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, evaluate
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density


def diffusion_dpo(
    parameterization: Parameterization, teacher: Parameterization, weighting: Weighting, density: Density, beta: float
) -> Objective:
    """Diffusion-DPO: the model lowers its denoising error, relative to a reference, more on preferred examples.

        loss = -log sigmoid(-beta [(l(x_w) - l_ref(x_w)) - (l(x_l) - l_ref(x_l))]),
        l(x) = w(t) |x0 - x0_hat(alpha x + sigma eps)|^2, a sum over x's numbers, with t and eps alike for both

    x_w is the batch's "x" and x_l its "rejected", both for the same condition. beta (l_ref - l) estimates the model's
    implicit reward beta log(p(x) / p_ref(x)). With exact denoisers and the likelihood weights w = -d SNR / dt / 2, t ~
    U(0, 1), the estimate is exact in the mean over t and eps. The loss is an upper bound of the loss of this mean.

    Facts:
        loss: -log sigmoid(-beta [(l(x_w) - l_ref(x_w)) - (l(x_l) - l_ref(x_l))])
        networks: model, teacher (the frozen reference)
        optimum: about p_ref(x) exp(r(x) / beta), for preferences that follow the Bradley-Terry model of a reward r;
            exactly so for the loss of the mean over t and eps
        paper: Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference Optimization", eq. 14; the
            authors' code has the mean over D numbers instead of the sum, and its beta is 2 D times this one

    Args:
        parameterization: parameterization of the network "model".
        teacher: parameterization of the network "teacher", the frozen reference.
        weighting: (schedule, t) -> weight on the squared error of x0, T omega in the paper.
        density: distribution of t.
        beta: strength of the regularization towards the reference, > 0.

    Returns:
        An objective of pairs; see `diffusion.objectives.inputs`. Metrics, `[B]` each: "t", and "margin", the difference
        between the implicit rewards of the preferred and the rejected example.

    Raises:
        ValueError: if beta is not positive; when called, if the batch has no "rejected" examples.
    """
    if not traced(beta) and not beta > 0:
        raise ValueError(f"diffusion_dpo: beta = {beta} must be positive")

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        if "rejected" not in batch:
            raise ValueError(
                'diffusion_dpo learns from pairs with a preference: the batch needs the entry "rejected", the example '
                'that was rejected in favour of "x"'
            )
        x_w, eps, _, t, importance = noised(schedule, density, keys, batch)

        def error(network, parameterization, x_0):
            x_t = mix(schedule, t, x_0, eps)
            output, at = evaluate(network, schedule, parameterization, x_t, t, batch.get("condition"))
            weight = weigh(importance, output_weight(weighting, schedule, at, parameterization))
            difference = output - parameterization.target(schedule, at, x_0, eps)
            return sum_square(left_broadcast(jnp.sqrt(weight), difference) * difference)

        model, reference = player(networks, "model"), frozen(networks, "teacher")
        reward = lambda x_0: beta * (error(reference, teacher, x_0) - error(model, parameterization, x_0))
        margin = reward(x_w) - reward(batch["rejected"])
        return -jax.nn.log_sigmoid(margin), {"t": t, "margin": margin}

    return Objective(
        loss, reads=Denoises(parameterization), density=density, teacher=Teacher(), examples=Examples(pairs=True)
    )

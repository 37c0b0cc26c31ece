"""Edits of a concept without training pictures: the frozen base's predictions for other prompts are the target."""

import math

import jax

from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import noised, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective
from diffusion.objectives.objective_facts import Beside
from diffusion.parameterizations import Parameterization, evaluate
from diffusion.timesteps import Density


def concept_direction(
    parameterization: Parameterization,
    density: Density,
    target: str,
    neutral: str,
    positive: str,
    negative: str,
    scale: float = 1.0,
) -> Objective:
    """Moves the output for one prompt along the difference of the base's outputs for two other prompts.

        loss = mean |f(x_t, target) - (b(x_t, neutral) + scale (b(x_t, positive) - b(x_t, negative)))|^2

    f is the trained network and b the frozen network "base". x_t are the batch's examples with noise, for example of
    pictures that the base generated for the target.

    Facts:
        loss: |f - (b + scale (b+ - b-))|^2, of the outputs
        networks: model, base
        optimum: the guided base
        paper: Gandikota et al. 2023, "Concept Sliders: LoRA Adaptors for Precise Control in Diffusion Models", eq. 7;
            Gandikota et al. 2023, "Erasing Concepts from Diffusion Models", eq. 6

    Args:
        parameterization: the parameterization of both networks. Any will do, because predictions are affine in the
            output, as guidance is.
        density: distribution of t.
        target, neutral, positive, negative: prompts; "" is the empty one.
        scale: factor of the difference.

    Raises:
        ValueError: for a scale that is not finite, or prompts of which the base already predicts the target.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale = {scale}. Valid: a finite number")
    if target == neutral and (positive == negative or scale == 0):
        raise ValueError(
            f"nothing is learnt: for {target!r} the base already predicts its target, with scale = {scale:g} times the "
            f"difference of {positive!r} and {negative!r}. Valid: two different prompts, and a scale other than 0"
        )

    @entry(parameterization, entries=None)
    def loss(networks, schedule, keys, batch, step):
        prompts = batch["prompts"]
        rest = {name: leaf for name, leaf in batch.items() if name != "prompts"}
        _, _, x_t, t, importance = noised(schedule, density, keys, rest)

        def output(name, condition):
            return evaluate(player(networks, name), schedule, parameterization, x_t, t, condition)[0]

        beside = lambda name: jax.lax.stop_gradient(output("base", prompts[name]))
        wanted = beside("neutral") + scale * (beside("positive") - beside("negative"))
        return weighted_mean_square(importance, output("model", prompts["target"]) - wanted), {"t": t}

    prompts = {"target": target, "neutral": neutral, "positive": positive, "negative": negative}
    return Objective(loss, reads=Denoises(parameterization), density=density, beside=Beside(prompts=prompts))


def concept_slider(
    parameterization: Parameterization, density: Density, target: str, positive: str, negative: str, scale: float = 4.0
) -> Objective:
    """A concept slider: moves the target towards `positive` and away from `negative`.

    Train it as a LoRA, whose scale may have either sign in sampling.

    The arguments are those of `concept_direction`, with the target as its neutral prompt.

    Facts:
        loss: |f - (b + scale (b+ - b-))|^2, of the outputs
        networks: model, base
        optimum: the guided base
        paper: Gandikota et al. 2023, "Concept Sliders: LoRA Adaptors for Precise Control in Diffusion Models", eq. 7
    """
    return concept_direction(parameterization, density, target, target, positive, negative, scale)


def erased_concept(parameterization: Parameterization, density: Density, concept: str, scale: float = 1.0) -> Objective:
    """ESD: trains the output for a concept towards the base's output without a prompt, guided away from it.

    Facts:
        loss: |f(concept) - (b - scale (b(concept) - b))|^2, of the outputs; b is the base's output without a prompt
        networks: model, base
        optimum: the base with negative guidance
        paper: Gandikota et al. 2023, "Erasing Concepts from Diffusion Models", eq. 6

    Args:
        parameterization: the networks' parameterization.
        density: distribution of t.
        concept: a prompt, e.g. "Van Gogh".
        scale: strength eta of the negative guidance; 1 in the paper.
    """
    return concept_direction(parameterization, density, concept, "", "", concept, scale)

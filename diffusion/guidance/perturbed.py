"""Guidance away from the same network with some of its layers impaired (`models.layers.layer_masks`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusion.guidance.branches import Branches, evaluate, with_conditions
from diffusion.guidance.prediction_changes import extrapolate
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser
from diffusion.parameterizations.sampled_process import belonging_to, process_of


def _impaired(kind: str) -> Callable[..., tuple[Any, ...]]:
    def conditions(
        condition: Any, null: Any, mask: Callable, layers: Sequence[int], classifier_free: Scale | None = None
    ) -> tuple[Any, ...]:
        """The conditions in a config: the sample's, the null one (with `classifier_free`), and the impaired one."""
        if not layers:
            raise ValueError("layers is empty, so that the guidance would have no effect. Valid: e.g. (1,)")

        def masked(condition, layers):
            entries = condition if isinstance(condition, Mapping) else {"label": condition}
            return {**{name: entry for name, entry in entries.items() if entry is not None}, kind: mask(layers)}

        unconditional = () if classifier_free is None else (masked(null, ()),)
        return (masked(condition, ()), *unconditional, masked(condition, layers))

    return conditions


@with_conditions(_impaired("identity"))
def perturbed_attention(
    branches: Branches, scale: Scale, classifier_free: Scale | None = None, interval: Interval = None
) -> Denoiser:
    """Perturbed-attention guidance: cond + s (cond - perturbed) + (w - 1) (cond - uncond).

    The perturbed branch replaces the attention maps of some layers by the identity: its condition has the layer mask
    "identity" of `models.layers.layer_masks`. If `classifier_free` is None, there is no last term.

    Facts:
        nfe: 2 branches per call, 3 with classifier-free guidance
        neutral: s = 0 (and w = 1), the conditional denoiser exactly
        paper: Ahn et al. 2024, "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance", section 4

    Args:
        branches: evaluates (condition, perturbed) or (condition, null condition, perturbed).
        scale: guidance scale s: a number, `[B]` or a function of t.
        classifier_free: scale w of classifier-free guidance, in the same forms, for three branches; None for two.
        interval: (t_low, t_high) outside which s = 0; None for all times.

    Raises:
        ValueError: if the interval is empty; when called, if the number of branches is wrong.
    """
    return _away(branches, scale, classifier_free, interval)


@with_conditions(_impaired("skip"))
def skip_layer(
    branches: Branches, scale: Scale, classifier_free: Scale | None = None, interval: Interval = None
) -> Denoiser:
    """Skip-layer guidance: cond + s (cond - skipped) + (w - 1) (cond - uncond).

    The skipped branch omits some layers: its condition has the layer mask "skip" of `models.layers.layer_masks`. If
    `classifier_free` is None, there is no last term. Stable Diffusion 3.5 medium has s = 2.5 and skips layers 7, 8 and
    9 of 24, from 1 % to 20 % of the steps after the start.

    Facts:
        nfe: 2 branches per call, 3 with classifier-free guidance
        neutral: s = 0 (and w = 1), the conditional denoiser exactly
        paper: Stability AI 2024, code of Stable Diffusion 3.5; Hyung et al. 2025, "Spatiotemporal Skip Guidance"

    Args:
        branches: evaluates (condition, skipped) or (condition, null condition, skipped).
        scale: guidance scale s: a number, `[B]` or a function of t.
        classifier_free: scale w of classifier-free guidance, in the same forms, for three branches; None for two.
        interval: (t_low, t_high) outside which s = 0; None for all times.

    Raises:
        ValueError: if the interval is empty; when called, if the number of branches is wrong.
    """
    return _away(branches, scale, classifier_free, interval)


def _away(branches, scale, classifier_free, interval):
    check_interval(interval, process_of(branches))

    def denoise(x_t, t):
        counts, order = (3,), "(condition, null condition, perturbed)"
        if classifier_free is None:
            counts, order = (2,), "(condition, perturbed), or three with a scale for classifier_free"
        cond, *null, worse = evaluate(branches, x_t, t, counts, order)
        strengths = [] if classifier_free is None else [strength(classifier_free, 1, None, t, x_t) for _ in null]
        return extrapolate(cond, [*null, worse], [*strengths, strength(scale, 0, interval, t, x_t)])

    return belonging_to(process_of(branches), denoise)

"""The guidance of HunyuanImage 2.1: classifier-free at first, then projected, of the velocity and with momentum."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion.arrays.square_roots import root
from diffusion.guidance import Branches, Memory
from diffusion.guidance.prediction_changes import inner, slide
from diffusion.io import limits, opener, schema
from diffusion.models.interchange.family import Refusal
from diffusion.parameterizations import Prediction
from diffusion.published.pipeline_kinds import Kind, Usual
from diffusion.schedules import NoiseSchedule

NAME = "AdaptiveProjectedMixGuidance"
PLAIN = {"guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0, "stop": 1.0}
"""The fields of a guider with their only supported value."""
NUMBERS = {  # {field of a guider: its default in diffusers}
    "guidance_scale": 3.5,
    "adaptive_projected_guidance_scale": 10.0,
    "adaptive_projected_guidance_momentum": -0.5,
    "adaptive_projected_guidance_rescale": 10.0,
    "eta": 0.0,
}
START = "adaptive_projected_guidance_start_step"


class Guider(NamedTuple):
    """The numbers of a guider.

    Attributes:
        scale: scale of the classifier-free guidance where a request names none.
        projected_scale: scale s of the projected guidance.
        momentum: beta, in (-1, 1).
        norm_threshold: r > 0, the largest norm of the step; 0 for no limit.
        eta: share of the parallel part that is kept.
        start: index, from 0, of the last step with classifier-free guidance.
    """

    scale: float = 3.5
    projected_scale: float = 10.0
    momentum: float = -0.5
    norm_threshold: float = 10.0
    eta: float = 0.0
    start: int = 5


def read_guider(folder: pathlib.Path) -> Guider:
    """The guider in a folder; one that is not enabled has the scale 1.

    Raises:
        Refusal: for another class, or a value that is not supported.
    """
    path = folder / "guider_config.json"
    table = opener.read_table(path)
    numbers = {field: schema.number() for field in NUMBERS} | {START: schema.integer(0), "enabled": schema.FLAG}
    schema.check(numbers, table, str(path))
    for field, value in {"_class_name": NAME, **PLAIN}.items():
        if (stated := table.get(field, value)) != value:
            raise Refusal(f"{path}: {field} = {limits.short(stated)} is not supported. Valid: {value!r}.")
    scale, projected, momentum, threshold, eta = (float(table.get(field, NUMBERS[field])) for field in NUMBERS)
    if not -1 < momentum < 1 or threshold < 0:
        raise Refusal(f"{path}: momentum = {momentum} must be in (-1, 1), and the largest norm, {threshold}, above 0.")
    return Guider(
        scale if table.get("enabled", True) else 1.0, projected, momentum, threshold, eta, int(table.get(START, 5))
    )


def projected_velocity(
    branches: Branches, schedule: NoiseSchedule, scale: Any, plain: Guider, quoting: Guider, quotes: Array
) -> Memory:
    """Classifier-free guidance of the velocity in the first steps, and then adaptive projected guidance.

        v = eps - x0,   d = v_c - v_u + beta (last d)
        step <= start:  v = v_u + w (v_c - v_u)
        step > start:   v = v_u + s (d_orthogonal + eta d_parallel),   d <- d min(1, r / |d|)

    with the parts parallel and orthogonal to v_c, over the whole of an example. A guider with s = 1 has the first form
    in all steps, as in diffusers. The memory holds the number of the step and d before its norm is limited.

    Args:
        branches: evaluates (condition, negative condition).
        schedule: the process, a linear flow.
        scale: w.
        plain: the guider of prompts without words in quotes.
        quoting: the guider of prompts with words in quotes.
        quotes: Bool [B], True for examples whose prompts have words in quotes.

    Returns:
        A guidance with memory.

    Reference: Sadat et al., "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
    2024, algorithm 1; the mixture as in the code of HunyuanImage 2.1 (Tencent, 2025).
    """

    def apply(memory: tuple[Array, Array], x: Array, t: Any) -> tuple[Prediction, tuple[Array, Array]]:
        step, last = memory
        cond, uncond = branches(x, t)
        wide = lambda numbers: jnp.reshape(numbers, (-1,) + (1,) * (x.ndim - 1))
        chosen = plain._make(wide(jnp.where(quotes, *pair)) for pair in zip(quoting, plain))
        v, v_u = cond.eps - cond.x0, uncond.eps - uncond.x0
        average = v - v_u + chosen.momentum * last
        norm = root(inner(average, average))
        limited = (chosen.norm_threshold > 0) & (norm > chosen.norm_threshold)
        d = average * jnp.where(limited, chosen.norm_threshold / jnp.where(limited, norm, 1), 1)
        square = inner(v, v)
        parallel = inner(d, v) / jnp.where(square > 0, square, 1) * v
        projected = chosen.projected_scale * (d - (1 - chosen.eta) * parallel)
        guided = v_u + jnp.where((step > chosen.start) & (chosen.projected_scale != 1), projected, scale * (v - v_u))
        return slide(cond, schedule, t, guided - v), (step + 1, average)

    return Memory(lambda x: (jnp.zeros((), jnp.int32), jnp.zeros_like(x)), apply)


def guiders(folder: pathlib.Path, parts: Mapping[str, bool]) -> tuple[Guider, Guider]:
    """The guiders of a model's folder: of all prompts, and of those with words in quotes.

    Args:
        folder: the model's folder.
        parts: whether the folder has the parts "guider" and "ocr_guider", by their names.

    Raises:
        Refusal: for guiders that are not supported together.
    """
    none = Guider(scale=1.0)
    plain = read_guider(folder / "guider") if parts["guider"] else none
    quoting = read_guider(folder / "ocr_guider") if parts["ocr_guider"] else plain
    if plain.scale != quoting.scale:
        raise Refusal(
            f"{folder}: guider and ocr_guider have the guidance_scale {plain.scale} and {quoting.scale}. Supported: "
            "one scale for all prompts."
        )
    return plain, quoting


def with_guiders(kind: Kind, folder: pathlib.Path, has: Callable[[str], bool], usual: Usual) -> tuple[Kind, Usual]:
    """The kind with the guidance of its folder's guiders, and the scale that they state."""
    parts = {part: has(part) for part in ("guider", "ocr_guider")}
    plain, quoting = guiders(folder, parts)

    def guides(branches: Any, schedule: Any, scale: Any, condition: Any) -> Any:
        quotes = condition["glyph_mask"].any(axis=1)
        return projected_velocity(branches, schedule, scale, plain, quoting, quotes)

    guided = kind._replace(guidance=kind.guidance._replace(guides=guides))
    return guided, usual._replace(guidance=plain.scale)

"""The memory and the shortest time for generating pictures with a text-to-image model, without its weights.

The programs of a request are traced as they would run: the text encoders once, the whole trajectory, and the decoder.
Operations are counted in the traces. The bytes of the weights are exact. The time of each part is a roofline: the
longer of its operations at the peak of the data sheet, and of reading its weights from memory once for each evaluation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from diffusion.experiments.planning.machines import MACHINES, USABLE, Machine
from diffusion.experiments.planning.tables import in_bytes, in_seconds
from diffusion.models.budget import peak_memory
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.text_to_image import programs
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.loading import described
from diffusion.text_to_image.prompt_conditions import conditions
from diffusion.text_to_image.requests import Request


def plan(folder: str, request: Request, names: Sequence[str], dtype: str = "bfloat16") -> dict[str, Any]:
    """Plans a request for pictures: the memory and the operations that it needs, and its time on each machine.

    Args:
        folder: the model's folder, see `text_to_image.load`; the configs and tokenizers are enough.
        request: the request for pictures, without attachments.
        names: the machines, keys of `MACHINES`.
        dtype: the type in which the denoiser and the text encoders compute.

    Returns:
        {"model", "size", "pictures", "evaluations", "weights": {network: bytes}, "flops": {part: operations}, "trace":
        the most bytes that the traced programs hold in addition to the weights, "machines": {name: {"hbm_bytes",
        "seconds": {part: seconds}, "fits", "fits_alone"}}}. "fits_alone" says whether the model fits without the text
        encoders, which a program can free before the trajectory.

    Raises:
        FileNotFoundError, ValueError: as `text_to_image.load` and `generate`.
    """
    model = described(folder, dtype=dtype, weights=False)
    job = Job.prepare(model, request)
    batch = request.batch_size
    weights = {part: peak_memory.held(params) for part, params in model.params.items()}

    def encoded(params: Mapping[str, Any]) -> Any:
        encoder = model.replaced(params=params)
        prompts = np.resize(job.request.rows()[0], batch).tolist()
        how = {"windows": request.windows, "emphasis": request.emphasis, "frames": job.course.frames}
        how["rate"] = job.course.rate
        return conditions(encoder, prompts, request.negative, job.guidance, *job.course.size, **how)

    both = jax.eval_shape(encoded, model.params)
    latents = jax.ShapeDtypeStruct((batch, *job.course.decoded_latents(model)), jnp.float32)

    def trajectory(params: Mapping[str, Any], conditional: dict, other: dict, keys: Any) -> Any:
        image, mask = job.canvas.arrays()
        return programs.pictures(model, job.course, params, conditional, other, job.scale(model), keys, image, mask)

    used = {part: model.params[part] for part in model.drawing}
    keys = jax.eval_shape(lambda: jax.vmap(jax.random.key)(jnp.zeros(batch, jnp.uint32)))
    trace = jax.make_jaxpr(trajectory)(used, *both, keys).jaxpr
    decode = lambda vae, x: programs.decoded(model, job.course, vae, x, None, *job.canvas.arrays())
    decoded = counted_flops(decode, used["vae"], latents)
    steps = job.course.trajectory.plan.solved
    evaluations = job.course.trajectory.sampler.nfe(steps)
    flops = {
        "text": counted_flops(encoded, model.params),
        "trajectory": counted_flops(trajectory, used, *both, keys) - decoded,
        "decoder": decoded,
    }
    readers = sum(bytes for part, bytes in weights.items() if part not in used)
    read = {"text": readers, "trajectory": evaluations * weights[model.kind.denoiser.folder], "decoder": weights["vae"]}
    beside = max(peak_memory.peak(trace) - peak_memory.held((used, both, keys)), 0)
    total = sum(weights.values()) + beside
    return {
        "model": f"{model.name}, {folder}",
        "size": job.course.size,
        "pictures": batch,
        "evaluations": evaluations,
        "weights": weights,
        "flops": flops,
        "trace": beside,
        "machines": {name: _on_machine(MACHINES[name], flops, read, total, readers) for name in names},
    }


def _on_machine(
    machine: Machine, flops: Mapping[str, float], read: Mapping[str, float], total: float, readers: float
) -> dict[str, Any]:
    """The entry of a machine."""
    return {
        "hbm_bytes": machine.memory,
        "seconds": {part: max(flops[part] / machine.flops, read[part] / machine.bandwidth) for part in flops},
        "fits": total <= USABLE * machine.memory,
        "fits_alone": total - readers <= USABLE * machine.memory,
    }


def show(planned: Mapping[str, Any], console: Console) -> None:
    """Prints a plan."""
    height, width = planned["size"]
    number = planned["pictures"]
    console.print(
        f"{planned['model']}: {number} picture{'s' * (number > 1)} of {height} x {width}, "
        f"{planned['evaluations']} evaluations",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    memory = Table("memory", "size", "accuracy")
    memory.columns[1].justify = "right"
    for part, size in planned["weights"].items():
        memory.add_row(part, in_bytes(size), "exact")
    memory.add_row("temporary: peak of the traced programs", in_bytes(planned["trace"]), "estimate")
    console.print(memory)
    table = Table("shortest time", *planned["flops"], "total", "fits in memory")
    for column in table.columns[1:]:
        column.justify = "right"
    counts = [*planned["flops"].values(), sum(planned["flops"].values())]
    table.add_row("FLOPs", *(f"{count:.3g}" for count in counts))
    for name, entry in planned["machines"].items():
        fits = "yes" if entry["fits"] else "without the text encoders" if entry["fits_alone"] else "no"
        spent = entry["seconds"]
        table.add_row(name, *map(in_seconds, spent.values()), in_seconds(sum(spent.values())), fits)
    console.print(table)
    console.print(
        "The times assume the bfloat16 peak of the data sheet, which no program reaches. The temporary bytes assume "
        "that attention stores its weights, as on a CPU. Fused attention needs less.",
        soft_wrap=True,
    )

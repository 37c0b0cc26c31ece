"""The names of an IP-Adapter's projection in files, and which projection has them."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from diffusion.models.image_projections import FullProjection, GlobalProjection, Resampler
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, LEADING, Mismatch, Row, linear, norm
from diffusion.models.joint_image_projections import TimedResampler

HEAD = 64  # features of a head in every published resampler; the file has the product with their number alone
DEPTH = 32  # most layers of a resampler; published ones have 4 or 8
TIME = "time_embedding.linear_{}"  # the name in Stable Diffusion 3's adapter


def check_heads(projection: nn.Module) -> None:
    """Refuses heads of another size than every reader takes.

    Raises:
        ValueError: with both sizes.
    """
    if isinstance(projection, (Resampler, TimedResampler)) and projection.head_size != HEAD:
        raise ValueError(
            f"head_size = {projection.head_size} cannot be written: files do not state it, and every reader assumes "
            f"{HEAD}"
        )


def rows(projection: nn.Module) -> list[Row]:
    """The rows of a projection.

    Raises:
        ValueError: for a projection that has no names in files, or heads of another size than 64.
    """
    if isinstance(projection, GlobalProjection):
        return linear("proj", "dense") + norm("norm", "norm")
    if isinstance(projection, FullProjection):
        return linear("proj.0", "hidden") + linear("proj.2", "out") + norm("proj.3", "norm")
    if not isinstance(projection, (Resampler, TimedResampler)):
        raise ValueError(f"a projection {type(projection).__name__} has no names in files; save its pytree yourself")
    check_heads(projection)
    timed = isinstance(projection, TimedResampler)
    table = [Row("latents", "queries", LEADING), *linear("proj_in", "in"), *linear("proj_out", "out")]
    table += norm("norm_out", "norm")
    if timed:
        table += linear(TIME.format(1), "time_hidden") + linear(TIME.format(2), "time_out")
    inner = projection.heads * projection.head_size
    for i in range(projection.depth):
        mixed, mlp, ours = f"layers.{i}.0", f"layers.{i}.1", f"layer_{i}"
        table += norm(f"{mixed}.norm1", f"{ours}/norm_seen") + norm(f"{mixed}.norm2", f"{ours}/norm_own")
        table += [
            Row(f"{mixed}.to_q.weight", f"{ours}/query/kernel", DENSE),
            Row(f"{mixed}.to_kv.weight", f"{ours}/key/kernel", DENSE, rows=(0, inner)),
            Row(f"{mixed}.to_kv.weight", f"{ours}/value/kernel", DENSE, rows=(inner, 2 * inner)),
            Row(f"{mixed}.to_out.weight", f"{ours}/out/kernel", DENSE_OUT),
            *norm(f"{mlp}.0", f"{ours}/norm_mlp"),
            Row(f"{mlp}.1.weight", f"{ours}/mlp_hidden/kernel", DENSE),
            Row(f"{mlp}.3.weight", f"{ours}/mlp_out/kernel", DENSE),
        ]
        if timed:
            table += linear(f"layers.{i}.2.1", f"{ours}/modulation/dense")
    return table


def read(shapes: Mapping[str, tuple[int, ...]], path: str) -> nn.Module:
    """The projection with these names and shapes; the reader of the file refuses missing tensors.

    Args:
        shapes: {name within the projection: shape} of its tensors.
        path: the name of the file, for messages.

    Raises:
        Mismatch: for a projection of another kind, or tensors of other axes or without elements.
    """

    def sides(name: str, axes: int) -> tuple[int, ...]:
        shape = shapes.get(name, (1,) * axes)
        if len(shape) != axes or not all(shape):
            raise Mismatch(f"{path}: {name} has the shape {list(shape)}. Valid: {axes} axes, each of at least 1")
        return shape

    matrix = lambda name: sides(name, 2)
    if "proj.weight" in shapes and "norm.weight" in shapes:
        (width,) = sides("norm.weight", 1)
        outputs, features = matrix("proj.weight")
        return GlobalProjection(features, width, outputs // width)
    if "proj.3.weight" in shapes:
        return FullProjection(matrix("proj.0.weight")[1], *sides("proj.3.weight", 1))
    if "latents" in shapes and "proj_in.weight" in shapes and "layers.0.0.to_q.weight" in shapes:
        inner, features = matrix("proj_in.weight")
        heads = matrix("layers.0.0.to_q.weight")[0]
        if heads < HEAD:
            raise Mismatch(
                f"{path}: layers.0.0.to_q.weight has {heads} rows. Valid: a multiple of {HEAD}, the size of a head"
            )
        depth = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
        if depth > DEPTH:  # each layer takes a while to trace, also where the file has nothing but its name
            raise Mismatch(f"{path}: its image_proj has {depth} layers. Valid: at most {DEPTH}")
        sizes: dict[str, Any] = {
            "tokens": sides("latents", 3)[1],
            "inner": inner,
            "depth": depth,
            "heads": heads // HEAD,
            "ratio": matrix("layers.0.1.1.weight")[0] // inner,
        }
        time = f"{TIME.format(1)}.weight"
        if time in shapes:
            return TimedResampler(features, matrix("proj_out.weight")[0], **sizes, time_features=matrix(time)[1])
        return Resampler(features, matrix("proj_out.weight")[0], **sizes)
    face = any(name.startswith(("perceiver_resampler.", "proj.2.")) for name in shapes)
    why = "a FaceID adapter, which reads the embeddings of a face recogniser" if face else "of a structure not known"
    raise Mismatch(
        f"{path}: its image_proj is {why}. Valid: a global, full-face or plus projection, or the projection of Stable "
        "Diffusion 3."
    )

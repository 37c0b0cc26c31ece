"""The split of activations over a mesh: models name the dimensions, and do not depend on the mesh.

A model calls `layout.split(tokens, "batch", "tokens", None)`. Outside `over` this has no effect. Inside, it splits the
array over the axes that RULES give to the names:

| name             | axes             |                                                                          |
|------------------|------------------|--------------------------------------------------------------------------|
| "batch"          | data, fsdp       | every device has its own examples                                        |
| "tokens"         | sequence         | outside attention, which computes each token on its own                  |
| "heads"          | tensor           | of the projections of attention, with their parameters                   |
| "attended heads" | tensor, sequence | inside attention, each head with all tokens: "sequence" changes its side |
| "hidden"         | tensor           | the inner features of an MLP, with their parameters                      |

The axis tensor follows Shoeybi et al. 2019, "Megatron-LM", section 3; sequence follows Jacobs et al. 2023, "DeepSpeed
Ulysses": an all-to-all before attention and one after. Where the heads do not divide over both axes, tokens also stay
split inside attention, and keys and values travel round a ring of the devices (`attention_ring`).
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec

RULES = {
    "batch": ("data", "fsdp"),
    "tokens": ("sequence",),
    "heads": ("tensor",),
    "attended heads": ("tensor", "sequence"),
    "hidden": ("tensor",),
}
_mesh: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


@contextlib.contextmanager
def over(mesh: Mesh) -> Iterator[None]:
    """Splits activations over this mesh wherever a model calls `split`; enter it inside the function that `jit` traces.

    Args:
        mesh: mesh with any of the axes that RULES name; missing axes split nothing.
    """
    token = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(token)


def is_split() -> bool:
    """Whether activations are split over the devices of a mesh at present."""
    return _devices() is not None


def _devices() -> Mesh | None:
    """The mesh over which activations are split; None outside `over`, and for a mesh of one device."""
    mesh = _mesh.get()
    return mesh if mesh is not None and mesh.size > 1 else None


class MeshError(ValueError):
    """A mesh does not fit its axes, the devices, or the array that is split over them; the message names which."""


def split(x: jax.Array, *names: str | None) -> jax.Array:
    """Returns x, with its dimensions split over the mesh by their names.

    Args:
        x: any array.
        *names: name in RULES of each dimension, or None where it stays whole.

    Returns:
        x, the same values.

    Raises:
        MeshError: where a dimension does not divide over its axes.
    """
    mesh = _devices()
    if mesh is None:
        return x
    spec = _axes(mesh, names)
    _check(mesh, x.shape, names)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


def attended(x: jax.Array) -> jax.Array:
    """Returns queries, keys, values or the output of an attention, split as inside it; `split` ends that.

    Args:
        x: [B, N, ..., H, D].

    Raises:
        MeshError: where examples, tokens or heads do not divide over their axes.
    """
    between = (None,) * (x.ndim - 4)
    if in_a_ring(x.shape[-2]):
        return split(x, "batch", "tokens", *between, "heads", None)
    return split(x, "batch", None, *between, "attended heads", None)


def in_a_ring(heads: int) -> bool:
    """Whether tokens stay split inside an attention whose heads do not divide over tensor and sequence."""
    mesh = _devices()
    if mesh is None:
        return False
    tokens, both = (math.prod(mesh.shape.get(axis, 1) for axis in RULES[name]) for name in ("tokens", "attended heads"))
    return tokens > 1 and heads % both > 0


def on_each_device(
    function: Callable[..., jax.Array], *names: str | None, arguments: Sequence[Sequence[str | None]] | None = None
) -> Callable[..., jax.Array]:
    """The function of whole arrays, computed in parts, one on each device; for kernels that XLA cannot split.

    Args:
        function: function of arrays; all of them, and its output, have dimensions of these names.
        *names: names of the dimensions of every argument and of the output, as for `split`.
        arguments: names of each argument's dimensions, where they differ from the output's.

    Returns:
        The function itself where activations are not split.

    Raises:
        MeshError: when it is called with an array that has a dimension which does not divide over its axes.
    """
    mesh = _devices()
    if mesh is None:
        return function
    spec = PartitionSpec(*_axes(mesh, names))
    specs = spec if arguments is None else tuple(PartitionSpec(*_axes(mesh, dimensions)) for dimensions in arguments)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)

    def checked(*given: jax.Array) -> jax.Array:
        for x, dimensions in zip(given, arguments or [names] * len(given), strict=True):
            _check(mesh, x.shape, dimensions)
        return mapped(*given)

    return checked


def _check(mesh: Mesh, shape: Sequence[int], names: Sequence[str | None]) -> None:
    """Refuses a dimension that does not divide over its axes."""
    for size, name, axes in zip(shape, names, _axes(mesh, names), strict=True):
        parts = math.prod(mesh.shape[axis] for axis in axes or ())
        if size % parts:
            raise MeshError(
                f"{size} {name} do not divide evenly over {parts} devices "
                f"({' x '.join(f'mesh.{axis}' for axis in axes or ())}): choose mesh axes whose product divides "
                f"{size}"
            )


def _axes(mesh: Mesh, names: Sequence[str | None]) -> list[tuple[str, ...] | None]:
    """The mesh axes that split each name; None for names that stay whole."""
    split_by = lambda name: tuple(axis for axis in RULES.get(name or "", ()) if mesh.shape.get(axis, 1) > 1)
    return [split_by(name) or None for name in names]


def row_major(x: jax.Array) -> jax.Array:
    """Returns the tokens x [B, N, D]; on a GPU a token's features lie together in memory, here and in the cotangent.

    Otherwise XLA may put the tokens of unrolled layers first, and a norm over the features of a token becomes five
    kernels in place of one. Over a mesh each device constrains its own part: XLA would gather a whole array before.
    """
    if jax.default_backend() != "gpu":
        return x
    constrained = lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim))))
    return on_each_device(constrained, "batch", "tokens", None)(x)

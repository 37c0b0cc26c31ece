"""LoRA: an update of low rank for each chosen kernel, as functions on pytrees, for any network.

    adapter = lora.init(key, params, rank=8, pattern="attention/(qkv|out)/kernel")
    merged = lora.merge(params, adapter, scale=alpha / 8)
    network = lora.adapted(apply, params, scale=alpha / 8)  # (adapter, x, t, condition) -> output, for training

An adapter is nested like the parameters, with two factors {"down", "up"} where they have a kernel. A kernel's axes are
read as layers of a scan (none or one), then inputs, then outputs:

    kernel [*layers, *inputs, *outputs],    down [*layers, *inputs, r],    up [*layers, r, *outputs]

so that dense layers [in, *out] and [*in, out], stacked layers and convolutions (inputs H, W, C) are one case. The ranks
of the three arrays show how many axes there are of each kind. Factors may belong to a part of a kernel: their name is
then "kernel[:, :, 0]", here the queries of a stacked qkv [L, in, 3, heads, size].

With D = down up the merged kernel is W + scale D. Files have further kinds:

    {"down", "up", "down_2", "up_2"}    LoHa and LoKr: D = (down up) * (down_2 up_2), element by element
    + "magnitude" [*layers, *outputs]   DoRA: m (W + scale D) / |W + scale D|, the norm over the inputs of each output
    + "input_magnitude" [*layers, *inputs], 1 along axes of pixels: the norm over the rest, for each input
    {"whole"}                           V, of the shape of the leaf: D = V - W, as files of custom diffusion have it
    {"difference"}                      D itself, of the shape of the leaf: of a kernel, a bias or a scale

Reference: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", for the magnitudes.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.promotion import promoted
from diffusion.io.leaf_names import leaf_name, leaves_of, nested

Scale = float | Array | Mapping[str, float]
"""The scale of an adapter: one number, an array, or one for each kernel (or part of one) by its name."""

# The factors that a part of a kernel may have, and the magnitudes beside them.
FACTORS = (
    frozenset({"down", "up"}),
    frozenset({"down", "up", "down_2", "up_2"}),
    frozenset({"whole"}),
    frozenset({"difference"}),
)
MAGNITUDES = ("magnitude", "input_magnitude")
# The names that stack kernels in the networks of this library: those of a scan's layers, of experts, and of levels
# whose layers are scanned (a level of another network is a single convolution). Then the kernels that are [in, *out];
# the other ones are [*in, out].
LAYERS = (
    r"(^|/)(([a-z]+_)?(blocks|layers|refiners)(/layers)?|experts|llama_embeddings|(down|up)_\d+(?=/(?!conv/)\w+/))(?=/)"
)
FAN_OUT = r"(^|/)(picture_)?(qkv|query|key|value|key_value|hidden|dense|modulation|vectors)/kernel$"


def init(
    key: Array, params: Any, rank: int, pattern: str, *, layers: str = LAYERS, fan_out: str = FAN_OUT
) -> dict[str, Any]:
    """A new adapter, whose update is zero: down uniform with variance 1 / (3 inputs), up zero.

    Args:
        key: random key; the draw of a kernel depends on it and on the kernel's path alone.
        params: the network's parameters, or their shapes.
        rank: r, >= 1.
        pattern: regular expression, searched in the paths of the leaves ("blocks/attention/qkv/kernel"); leaves with
            less than two axes (biases, scales) never match.
        layers: regular expression for the names in a path that stack kernels, such as the layers of a scan; each match
            is one axis of the leaf, from the first.
        fan_out: regular expression for the leaves with one axis of inputs and any number of outputs; the others have
            one axis of outputs.

    Returns:
        The adapter, float32. Its update is `scale * down up` with the `scale` of `merge`, alpha / r in the paper.

    Raises:
        ValueError: if the rank is below 1, or the pattern finds no kernel.

    Reference: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1; the initial down is
    as in the authors' code.
    """
    if rank < 1:
        raise ValueError(f"lora: rank = {rank} must be at least 1")
    axes_of_kernel: dict[str, Any] = {}
    for path, leaf in leaves_of(params).items():
        stack = sum(1 for _ in re.finditer(layers, path))
        if re.search(pattern, path) and len(leaf.shape) >= stack + 2:
            inner = stack + 1 if re.search(fan_out, path) else len(leaf.shape) - 1
            axes_of_kernel[path] = (leaf.shape[:stack], leaf.shape[stack:inner], leaf.shape[inner:])
    if not axes_of_kernel:
        kernels = [path for path, leaf in leaves_of(params).items() if len(leaf.shape) >= 2]
        raise ValueError(
            f"lora: the pattern {pattern!r} matches no kernel. The network has {len(kernels)} kernels: "
            f"{', '.join(kernels[:8])}"
        )

    initial = lambda path, stack, inputs, outputs: _initial(key, path, stack, inputs, outputs, rank)
    return nested({path: initial(path, *parts) for path, parts in axes_of_kernel.items()})


def started(key: Array, params: Any, blank: Any) -> dict[str, Any]:
    """The initial adapter, as `init` draws it, with the places and ranks of another.

    Args:
        key: random key; the draw of a place depends on it and on the place's name alone.
        params: the network's parameters, or their shapes.
        blank: an adapter of LoRA, LoHa or DoRA, such as `lora_files.blank`, whose values are not read. The first pair
            of a LoHa is drawn as in He et al., and its second `up` is zero; a magnitude is the norm of the kernel.
    """
    leaves = leaves_of(params)

    def initial(place: str, shapes: Mapping[str, Any]) -> dict[str, Array]:
        path, at = parsed(place)
        part = jax.eval_shape(lambda leaf: leaf[at], leaves[path])
        layers, inner = axes(shapes["down"], shapes["up"], part.ndim)
        parts = (part.shape[:layers], part.shape[layers:inner], part.shape[inner:])
        factors = _initial(key, place, *parts, shapes["down"].shape[-1])
        if "down_2" in shapes:
            second = _initial(key, f"{place}/2", *parts, shapes["down_2"].shape[-1])
            bound = 1 / np.sqrt(shapes["up"].shape[layers])
            up_key = jax.random.fold_in(key, zlib.crc32(f"{place}/up".encode()))
            factors["up"] = jax.random.uniform(up_key, shapes["up"].shape, jnp.float32, -bound, bound)
            factors |= {f"{name}_2": factor for name, factor in second.items()}
        if "magnitude" in shapes:
            kernel = leaves[path][at].astype(jnp.float32)
            factors["magnitude"] = jnp.sqrt(jnp.sum(kernel * kernel, tuple(range(layers, inner))))
        return factors

    return nested({place: initial(place, shapes) for place, shapes in places_of(blank).items()})


def _initial(
    key: Array, place: str, stack: tuple[int, ...], inputs: tuple[int, ...], outputs: tuple[int, ...], rank: int
) -> dict[str, Array]:
    """down uniform with variance 1 / (3 inputs), up zero."""
    bound = 1 / np.sqrt(np.prod(inputs))
    place_key = jax.random.fold_in(key, zlib.crc32(place.encode()))
    down = jax.random.uniform(place_key, (*stack, *inputs, rank), jnp.float32, -bound, bound)
    return {"down": down, "up": jnp.zeros((*stack, rank, *outputs), jnp.float32)}


def merge(params: Any, adapter: Any, scale: Scale | Sequence[Scale] = 1.0) -> Any:
    """The parameters with the update of an adapter, or of several at once: W + sum_k scale_k down_k up_k.

    The magnitudes of an adapter apply to the sum up to it. Products and sums are float32 whatever the type of the
    parameters, and rounded to that type once. Leaves without an update are the same arrays. It is a pure function: use
    it under `jit`, in a gradient, on sharded parameters.

    Args:
        params: pytree of parameters.
        adapter: an adapter that `init` or `lora_files.load` returned, or a sequence of adapters.
        scale: alpha / r times the weight of the adapter: a number, or one for each place ("blocks/mlp/out/kernel");
            for several adapters a sequence of scales, or a vector of numbers.

    Raises:
        ValueError: for factors that do not fit the parameters, or a scale without its adapter.
    """
    several = isinstance(adapter, Sequence)
    adapters = adapter if several else [adapter]
    listed = isinstance(scale, Sequence) or (not isinstance(scale, Mapping) and jnp.ndim(scale) == 1)
    scales = list(cast(Sequence[Scale], scale)) if several and listed else [cast(Scale, scale)] * len(adapters)
    if len(scales) != len(adapters):
        raise ValueError(
            f"lora.merge: {len(adapters)} adapters and {len(scales)} scales; give one scale for each adapter"
        )
    updates: dict[str, list] = {}
    for one, its_scale in zip(adapters, scales):
        for place, factors in places_of(one).items():
            path, at = parsed(place)
            updates.setdefault(path, []).append((place, at, factors, _scale_at(its_scale, place)))
    unknown = updates.keys() - leaves_of(params).keys()
    if unknown:
        raise ValueError(
            f"lora.merge: the network has no {', '.join(sorted(unknown)[:5])}. Its leaves are "
            f"{', '.join(list(leaves_of(params))[:5])}, .."
        )

    def updated(path, leaf):
        if path not in updates:
            return leaf
        total = jnp.asarray(leaf, promoted(leaf.dtype))
        for place, at, factors, its_scale in updates[path]:
            if "down" not in factors:
                changed = total[at] + its_scale * _difference(place, factors, leaf[at])
            else:
                changed = _updated(place, factors, total[at], its_scale)
            total = total.at[at].set(changed)
        return total.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(lambda path, leaf: updated(leaf_name(path), leaf), params)


def changeable(params: Any, adapter: Any, dtype: str) -> Any:
    """The parameters with the leaves that `merge` changes in at least a type, to which it rounds its sums.

    Args:
        params: pytree of parameters.
        adapter: an adapter, or a sequence of adapters.
        dtype: the type in which the network computes.
    """
    changed = replaced(params, adapter)
    return unmerge(params, {path: leaf.astype(promoted(leaf.dtype, dtype)) for path, leaf in changed.items()})


def is_zero(adapter: Any, scale: Scale) -> bool:
    """Whether an adapter changes no parameter, because a factor of each of its updates is zero, or the scale.

    Args:
        adapter: an adapter of any kind; one with whole tensors or magnitudes is taken to change some.
        scale: the scale, as in `merge`.
    """

    def acts(place: str, factors: Mapping[str, Array]) -> bool:
        if factors.keys() & {"whole", *MAGNITUDES}:
            return True
        return all(map(np.any, (*factors.values(), _scale_at(scale, place))))

    return not any(acts(place, factors) for place, factors in places_of(adapter).items())


def differences(params: Any, adapter: Any) -> dict[str, Any]:
    """The adapter with V - W of these parameters in place of each V, so that others can be merged into them before.

    Args:
        params: pytree of parameters, before any adapter is merged.
        adapter: an adapter of any kind.

    Raises:
        ValueError: for a V that does not fit its leaf.
    """
    leaves = leaves_of(params)

    def relative(place: str, factors: Mapping[str, Array]) -> Mapping[str, Array]:
        path, at = parsed(place)
        if "whole" not in factors or path not in leaves:  # `merge` names a leaf that is not there
            return factors
        return {"difference": _difference(place, factors, leaves[path][at])}

    return nested({place: relative(place, factors) for place, factors in places_of(adapter).items()})


def replaced(params: Any, adapter: Any) -> dict[str, Array]:
    """The leaves that `merge` replaces, by their paths, for `unmerge`.

    Args:
        params: pytree of parameters, before they are merged.
        adapter: the adapter, or the sequence of adapters, that is merged.
    """
    adapters = adapter if isinstance(adapter, Sequence) else [adapter]
    paths = {parsed(place)[0] for one in adapters for place in places_of(one)}
    return {path: leaf for path, leaf in leaves_of(params).items() if path in paths}


def unmerge(merged: Any, kept: Mapping[str, Array]) -> Any:
    """The parameters before `merge`, bit for bit.

        kept = lora.replaced(params, adapter)    # may be in the host's memory
        lora.unmerge(lora.merge(params, adapter), kept)

    W + D is rounded, and many W round to the same sum. No arithmetic on the sum gives W again, and subtracting D leaves
    errors that grow with each change of adapters. So this function puts the original leaves back.

    Args:
        merged: the parameters that `merge` returned.
        kept: the original leaves, which `replaced` returned.

    Raises:
        ValueError: for a leaf that the parameters lack, or have in another shape.
    """
    shapes = {path: jnp.shape(leaf) for path, leaf in leaves_of(merged).items()}
    for path, leaf in kept.items():
        if path not in shapes:
            raise ValueError(
                f"lora.unmerge: the parameters have no {path}. Valid: what `replaced` returned for the same parameters"
            )
        if jnp.shape(leaf) != shapes[path]:
            raise ValueError(
                f"lora.unmerge: {path} has the shape {jnp.shape(leaf)}, and in the parameters {shapes[path]}. Valid: "
                "what `replaced` returned for the same parameters"
            )
    return jax.tree_util.tree_map_with_path(lambda path, leaf: kept.get(leaf_name(path), leaf), merged)


def adapted(apply: Callable[..., Array], params: Any, scale: Scale = 1.0) -> Callable[..., Array]:
    """The network as a function of the adapter, so that a train step changes the adapter alone.

        def step(state, params, batch, key):  # state.params is the adapter
            network = lora.adapted(apply, params, alpha / rank)
            return make_train_step(objective, network, schedule, optimizer, ema)(state, batch, key)

    Args:
        apply: (params, x_t, clock, condition) -> output.
        params: the parameters, which get no gradient.
        scale: alpha / r times the weight of the adapter, as in `merge`.

    Returns:
        The function (adapter, x_t, clock, condition) -> output.
    """
    return lambda adapter, *arguments: apply(merge(jax.lax.stop_gradient(params), adapter, scale), *arguments)


def places_of(adapter: Any) -> dict[str, dict[str, Array]]:
    """The factors, {"down", "up"} or another kind's, by the kernel (or the part of one) that they belong to.

    Raises:
        ValueError: for a pytree that is not an adapter.
    """
    places: dict[str, dict[str, Array]] = {}
    for path, leaf in leaves_of(adapter).items():
        place, _, part = path.rpartition("/")
        places.setdefault(place, {})[part] = leaf
    for place, factors in places.items():
        magnitudes = factors.keys() & set(MAGNITUDES)
        if factors.keys() - magnitudes not in FACTORS or len(magnitudes) > ("down" in factors):
            raise ValueError(
                f"lora: {place} has the factors {', '.join(map(repr, factors))}. Valid: 'down' and 'up', with "
                "'down_2' and 'up_2' or without, and with at most one of the magnitudes; or 'whole' alone; or "
                "'difference' alone"
            )
    return places


def parsed(place: str) -> tuple[str, tuple]:
    """The leaf's path and the index of the part: "a/kernel[3, :, 0:8]" -> ("a/kernel", (3, slice(None), slice(0, 8))).

    Raises:
        ValueError: for an index that is not made of numbers and slices.
    """
    path, bracket, index = place.partition("[")
    if not bracket:
        return path, ()
    parts = [re.fullmatch(r"(\d+)|(\d*):(\d*)", part.strip()) for part in index.removesuffix("]").split(",")]
    integer = lambda text: int(text) if text else None
    index_of_part = tuple(int(m[1]) if m[1] else slice(integer(m[2]), integer(m[3])) for m in parts if m)
    if len(index_of_part) < len(parts):
        raise ValueError(f"lora: the place {place!r} cannot be read. Valid: a form such as 'mlp/kernel[3, :, 0:8]'")
    return path, index_of_part


def written(path: str, at: tuple) -> str:
    """The place of a part of a leaf: the inverse of `parsed`."""
    text = lambda i: f"{'' if i.start is None else i.start}:{'' if i.stop is None else i.stop}"
    parts = [text(i) if isinstance(i, slice) else str(i) for i in at]
    return f"{path}[{', '.join(parts)}]" if parts else path


def _scale_at(scale: Scale, place: str) -> float | Array:
    if not isinstance(scale, Mapping):
        return scale
    if place not in scale:
        raise ValueError(f"lora.merge: there is no scale for {place}; give one for each place of the adapter")
    return scale[place]


def _difference(place: str, factors: Mapping[str, Array], leaf: Array) -> Array:
    """D, or V - W of the parameters as they are without any adapter, so that the order of adapters does not matter."""
    ((kind, values),) = factors.items()
    if jnp.shape(values) != leaf.shape:
        raise ValueError(f"lora: a {kind} of shape {jnp.shape(values)} does not fit {place}, {leaf.shape}")
    wide = promoted(leaf.dtype)
    return jnp.asarray(values, wide) if kind == "difference" else values - leaf.astype(wide)


def _updated(place: str, factors: Mapping[str, Array], kernel: Array, scale: float | Array) -> Array:
    """W + scale D, or with magnitudes m (W + scale D) / |W + scale D|."""
    update = _product(place, factors["down"], factors["up"], kernel.shape)
    if "down_2" in factors:
        update *= _product(place, factors["down_2"], factors["up_2"], kernel.shape)
    total = kernel + scale * update
    layers, inner = axes(factors["down"], factors["up"], kernel.ndim)
    if "magnitude" in factors:
        shape = (*kernel.shape[:layers], *[1] * (inner - layers), *kernel.shape[inner:])
        return _decomposed(place, total, factors["magnitude"], shape)
    if "input_magnitude" in factors:
        shape = (*jnp.shape(factors["input_magnitude"]), *[1] * (kernel.ndim - inner))
        return _decomposed(place, total, factors["input_magnitude"], shape)
    return total


def _decomposed(place: str, kernel: Array, magnitude: Array, shape: tuple[int, ...]) -> Array:
    """m W / |W|, the norm over the axes along which the magnitudes are one; a direction of zeros stays zero."""
    fits = len(shape) == kernel.ndim and all(m in (1, n) for m, n in zip(shape, kernel.shape))
    if not fits or np.prod(shape) != jnp.size(magnitude):
        raise ValueError(
            f"lora: magnitudes of shape {jnp.shape(magnitude)} do not fit {place} of shape {kernel.shape}. Valid: "
            "[*layers, *outputs], or for magnitudes of the inputs [*layers, *inputs]"
        )
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    fixed = jax.lax.stop_gradient(kernel)  # the norm gets no gradient, as in the paper's section 4.3
    squares = jnp.sum(fixed * fixed, axes, keepdims=True)
    magnitude = jnp.reshape(magnitude, shape).astype(kernel.dtype)
    return kernel * magnitude / jnp.sqrt(jnp.maximum(squares, jnp.finfo(kernel.dtype).tiny))


def axes(down: Any, up: Any, ndim: int) -> tuple[int, int]:
    """(number of axes of layers, index of the first axis of outputs) of a kernel.

    Args:
        down: the factor A of its update.
        up: the factor B.
        ndim: number of axes of the kernel.
    """
    layers = down.ndim + up.ndim - ndim - 2
    return layers, down.ndim - 1


def _product(place: str, down: Array, up: Array, shape: tuple[int, ...]) -> Array:
    """down up as `shape`, float32 or wider."""
    down = jnp.asarray(down)
    up = jnp.asarray(up)
    layers, end = axes(down, up, len(shape))
    if (
        layers not in (0, 1)
        or end < layers + 1
        or down.shape[:-1] + up.shape[layers + 1 :] != shape
        or (up.shape[: layers + 1] != (*shape[:layers], down.shape[-1]))
    ):
        raise ValueError(
            f"lora: factors of shapes {down.shape} and {up.shape} do not fit {place} of shape {shape}. Valid: "
            "[*layers, *inputs, r] and [*layers, r, *outputs]"
        )
    wide = lambda a: a.astype(promoted(a.dtype))
    stack = down.shape[:layers]
    rank = down.shape[-1]
    down = wide(down).reshape(*stack, -1, rank)
    up = wide(up).reshape(*stack, rank, -1)
    return jnp.matmul(down, up, precision=jax.lax.Precision.HIGHEST).reshape(shape)

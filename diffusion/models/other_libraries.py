"""Networks of Flax NNX, of Equinox, and plain functions, in the form of a Linen module: `init` and `apply`.

    Recipe(network=NNX(lambda rngs: MyNetwork(64, rngs=rngs)), ...)
    Recipe(network=Equinox(lambda key: MyNetwork(64, key=key)), ...)
    Recipe(network=Functions(init, apply), ...)

A run keeps parameters, their average and the optimizer's state, and no other state. An NNX network with other
variables, such as running statistics or the random state of dropout, is refused. Parameters become nested dicts with
the names of the attributes that lead to them, which sharding rules and checkpoints read.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffusion.io.leaf_names import leaf_name, nested


@dataclasses.dataclass(frozen=True)
class Functions:
    """A network of two functions.

    Attributes:
        init: (key, x [1, ...], clock, condition) -> parameters, any pytree of arrays.
        apply: (parameters, x [B, ...], clock, condition) -> output, of the shape of x.
        num_classes: number of classes that it is trained on; 0 for an unconditional network.
        times: number of times that the network receives as its clock; more than one time are a tuple.
        feature_blocks: number of blocks whose features the network can return beside the output, if it is called with
            `features`, a tuple of their indices; 0 for a network without this option.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    num_classes: int = 0
    times: int = 1
    feature_blocks: int = 0


@dataclasses.dataclass(frozen=True)
class NNX:
    """A network of Flax NNX, called on a batch: (x [B, ...], clock, condition) -> output.

    Attributes:
        make: `nnx.Rngs` -> the module.
        num_classes: number of classes, see `Functions`.
        times: number of times that the network receives, see `Functions`.
        feature_blocks: number of blocks with features, see `Functions`.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    num_classes: int = 0
    times: int = 1
    feature_blocks: int = 0

    def init(self, key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> dict[str, Any]:
        """The module's initial parameters, which depend only on the key."""
        leaves = _parameters(self.make(nnx.Rngs(key)))
        return nested({"/".join(map(str, path)): leaf[...] for path, leaf in leaves.items()})

    def apply(self, params: dict[str, Any], x: jax.Array, clock: Any, condition: Any, **features: Any) -> Any:
        """The module's output with these parameters."""
        graph, state = self._abstract
        leaves = {path: leaf.replace(_at(params, path)) for path, leaf in nnx.to_flat_state(state)}
        return nnx.merge(graph, nnx.from_flat_state(leaves))(x, clock, condition, **features)

    @functools.cached_property
    def _abstract(self) -> tuple[Any, Any]:
        """The module's graph and the shapes of its parameters."""
        module = nnx.eval_shape(lambda: self.make(nnx.Rngs(0)))
        _parameters(module)
        return nnx.split(module)


def _parameters(module: nnx.Module) -> dict[tuple, Any]:
    """The variables of a module by their paths.

    Raises:
        ValueError: if a variable is not a parameter.
    """
    variables = dict(nnx.to_flat_state(nnx.state(module)))
    for path, variable in variables.items():
        if not isinstance(variable, nnx.Param):
            raise ValueError(
                f"the NNX network has a {type(variable).__name__} at {'/'.join(map(str, path))}. Valid: only "
                "nnx.Param, because a run keeps no running statistics and draws no dropout"
            )
    return variables


@dataclasses.dataclass(frozen=True)
class Equinox:
    """A network of Equinox, or any callable pytree, called on one example: (x [...], clock [], condition) -> output.

    Its JAX arrays of floating-point numbers are the parameters; everything else stays as `make` creates it.

    Attributes:
        make: key -> the module.
        num_classes: number of classes, see `Functions`.
        times: number of times that the network receives, see `Functions`.
        feature_blocks: number of blocks with features, see `Functions`.
    """

    make: Callable[[jax.Array], Callable[..., Any]]
    num_classes: int = 0
    times: int = 1
    feature_blocks: int = 0

    def init(self, key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> dict[str, Any]:
        """The module's initial parameters, which depend only on the key."""
        leaves = jax.tree_util.tree_leaves_with_path(self.make(key))
        return nested({leaf_name(path): leaf for path, leaf in leaves if _is_parameter(path, leaf)})

    def apply(self, params: dict[str, Any], x: jax.Array, clock: Any, condition: Any, **features: Any) -> Any:
        """The module's output with these parameters, example by example (`jax.vmap`)."""
        leaves, structure = self._rest
        module = jax.tree.unflatten(structure, [_at(params, path) if leaf is None else leaf for path, leaf in leaves])
        clock = jax.tree.map(lambda t: jnp.broadcast_to(t, x.shape[:1]), clock)
        return jax.vmap(lambda *inputs: module(*inputs, **features))(x, clock, condition)

    @functools.cached_property
    def _rest(self) -> tuple[list[tuple[tuple, Any]], Any]:
        """The leaves of the module by their paths, None for a parameter, and its structure."""
        rest = []

        def shapes(key: jax.Array) -> list[Any]:
            leaves, structure = jax.tree_util.tree_flatten_with_path(self.make(key))
            are = [_is_parameter(path, leaf) for path, leaf in leaves]
            rest.append(([(_names(path), None if one else leaf) for (path, leaf), one in zip(leaves, are)], structure))
            return [leaf for (_, leaf), one in zip(leaves, are) if one]

        jax.eval_shape(shapes, jax.random.key(0))
        return rest[0]


def _is_parameter(path: tuple, leaf: Any) -> bool:
    """Whether a leaf is trained: an array of floating-point numbers.

    Raises:
        ValueError: for a JAX array of another type, which would be neither trained nor kept.
    """
    if isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f"the network has an array of {leaf.dtype} at {leaf_name(path)}, which is not a parameter. Valid: "
            "arrays of floating-point numbers; make a constant a NumPy array or a number"
        )
    return isinstance(leaf, jax.Array)


def _names(path: tuple) -> tuple[str, ...]:
    """The keys of a path in a pytree, as text."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _at(tree: dict[str, Any], path: tuple) -> Any:
    """The leaf of nested dicts at a path."""
    return functools.reduce(lambda inner, name: inner[str(name)], path, tree)

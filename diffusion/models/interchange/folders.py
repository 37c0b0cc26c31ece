"""Reads networks from folders and files of other libraries; `folder_writing` is the inverse.

    module, params = interchange.load("stable-diffusion/unet")
    output = module.apply({"params": params}, x_t, t, condition)

Nothing in a file is executed. Every tensor is accounted for: a missing, a superfluous or a misshapen one is an error.
"""

__all__ = [
    "Found",
    "built",
    "computed_of",
    "described",
    "expected_of",
    "family_of",
    "find",
    "kept_shapes",
    "layouts",
    "load",
    "names_of",
    "read",
    "read_config",
    "recognise",
    "rows_of",
    "shapes_of",
]

import contextlib
import dataclasses
import functools
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.io import limits, opener, schema
from diffusion.io.leaf_names import leaves_of
from diffusion.models.interchange import families, flax_files, leaf_shards, quantised_rows, rows, tensor_files
from diffusion.models.interchange.family import Computed, Family, Refusal, naming
from diffusion.models.interchange.rows import Mismatch, Row
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.layers.choices import look_up
from diffusion.package import public

FLOATS = ("float32", "bfloat16", "float16")


def shapes_of(family: Family, module: nn.Module) -> Any:
    """Our parameters as a pytree of jax.ShapeDtypeStruct; computes nothing."""
    with _refusing(family):
        return _shapes(family.example, module)


@functools.lru_cache(64)  # tracing a large network takes seconds, and both recognising and reading it need the shapes
def _shapes(example: Callable[[nn.Module], tuple], module: nn.Module) -> Any:
    # A hostile config may have any side of pictures: no array of that size is made.
    return jax.eval_shape(lambda *arguments: module.init(jax.random.key(0), *arguments), *example(module))["params"]


def load(
    path: str | pathlib.Path,
    family: str = "",
    *,
    config: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    shardings: Callable[[Any], Any] | None = None,
    quantised: bool = False,
    keep: bool = False,
) -> tuple[nn.Module, Any]:
    """Loads a network that another library saved.

    Args:
        path: a folder with config.json and safetensors, as `save_pretrained` writes it, or a single file of the
            original repositories, which is recognised by its names and shapes.
        family: the architecture, a name in `families.FAMILIES`; "" to find it by the folder's config or the
            file's names. For a single file whose shapes several networks have, also with the name of the published
            network: "AutoencoderKL, FLUX.1".
        config: their config, in place of the folder's.
        dtype: dtype of the parameters: "float32", "bfloat16" or "float16", independent of the file's.
        shardings: (pytree of shapes) -> pytree of shardings, e.g. `lambda shapes: sharding.shardings(shapes, mesh)`.
            Each leaf is placed before the next is read, and each process reads the parts of its own devices. By
            default all are on the first device.
        quantised: whether kernels in int8 (GGUF's Q8_0) or fp8 with scales stay in 8 bits in memory
            (`models.quantised`); otherwise they become numbers of `dtype`, as all other parameters do.
        keep: whether kernels that the file has in bfloat16 or float16 stay so where `dtype` is float32, in half of the
            memory. A layer that computes in float32 casts its kernel when it runs, to the same numbers.

    Returns:
        (module, params): `module.apply({"params": params}, ...)` is the network.

    Raises:
        FileNotFoundError: if the path does not exist.
        Refusal: if the config has a value that is not supported.
        Mismatch: if a tensor is missing, superfluous or misshapen, or no known architecture has these names (with
            the nearest one).
        limits.Refused: for files that are damaged or hostile.
    """
    look_up(dict.fromkeys(FLOATS), dtype, "dtype")
    network = find(path, family, config)
    return network.module, read(network, dtype, shardings, quantised, keep)


class Found(NamedTuple):
    """A network in a folder or file that has been recognised, but not read.

    Attributes:
        family: its architecture.
        module: our module for its config.
        layout: layout of its names, one of `layouts(family)`.
        tensors: the tensors of the network.
    """

    family: Family
    module: nn.Module
    layout: str
    tensors: Tensors


def find(
    path: str | pathlib.Path, family: str = "", config: Mapping[str, Any] | None = None, prefix: str | None = None
) -> Found:
    """Finds out which network lies in a folder or file; arguments and errors as `load`, and `prefix` of `recognise`."""
    path = pathlib.Path(path).expanduser()
    tensors = tensor_files.open_tensors(path)
    if prefix is not None and not tensors.under(prefix).shapes:
        first_parts = sorted({name.split(".")[0] for name in tensors.shapes})[:8]
        raise Mismatch(
            f"{path}: no tensor has a name that begins with {prefix!r}. The names begin with {', '.join(first_parts)}."
        )
    if config is not None:
        known = families.find(family or family_of(config, path))
        module = built(known, config)
    elif path.is_dir() and not flax_files.is_flax(path):
        known, module = described(path, family)
    else:
        return recognise(tensors, family, prefix)
    tensors = tensors.under(prefix or "")
    held, tensors = tensors, tensors.without((*known.ignored, *known.dropped))
    _warn_of_dropped(known, held)
    with _refusing(known):
        names = {layout: names_of(known, module, layout) for layout in layouts(known)}
    layout = max(names, key=lambda layout: len(names[layout] & set(tensors.shapes)))
    missing = sorted(names[layout] - set(tensors.shapes))
    if len(missing) > len(tensors.shapes) + 64:  # a hostile config could make the trace of all shapes endless
        raise Mismatch(
            f"{tensors.path} has {len(tensors.shapes)} tensors, but {known.name} with this config has "
            f"{len(names[layout])}. Missing are {', '.join(missing[:3])} and others."
        )
    return _varied(Found(known, module, layout, tensors))


def described(folder: str | pathlib.Path, family: str = "") -> tuple[Family, nn.Module]:
    """The network that a folder's config.json describes; it needs no weights. Arguments and errors as `load`."""
    folder = pathlib.Path(folder).expanduser()
    config = read_config(folder)
    stated = "" if family else family_of(config, folder)
    known = families.find(family) if family else None
    with naming(folder / "config.json"):
        known = known or families.find(stated)
        return known, built(known, config)


def _warn_of_dropped(family: Family, tensors: Tensors) -> None:
    """Prints which tensors of a file are left out since the network needs them only in training."""
    prefixed = lambda pattern: [
        name
        for name in tensors.shapes
        if any(name.startswith(p) and re.fullmatch(pattern, name[len(p) :]) for p in family.prefixes)
    ]
    for pattern, what in family.dropped.items():
        if names := prefixed(pattern):
            warnings.warn(f"{tensors.path}: {len(names)} tensors are not read: {what}.", stacklevel=4)


def _varied(network: Found) -> Found:
    """The same network, with the module that the file's values determine if the config leaves a choice."""
    varied = network.family.varied
    if varied is None:
        return network
    try:
        return network._replace(module=varied(network.module, network.tensors))
    except (Refusal, Mismatch, limits.Refused):
        raise
    except ValueError as error:
        raise Mismatch(f"{network.tensors.path}: its numbers do not fit the config: {limits.reason(error)}") from error


# The errors that a module, its table or its trace raises for inconsistent sizes.
IMPOSSIBLE = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError,
              flax.errors.FlaxError)  # fmt: skip


@contextlib.contextmanager
def _refusing(family: Family) -> Iterator[None]:
    """Turns errors while a network is built into a `Refusal` of its config."""
    try:
        yield
    except (Refusal, Mismatch, limits.Refused):
        raise
    except IMPOSSIBLE as error:
        raise Refusal(f"{family.name}: this config describes no valid network: {limits.reason(error)}") from error


def built(family: Family, config: Mapping[str, Any]) -> nn.Module:
    """Our module for their config.

    Raises:
        Refusal: if the config has a value that is not supported, or does not describe a network.
    """
    with _refusing(family):
        module = family.build(config)
        _check_sizes(family.name, module)
    return module


def _check_sizes(name: str, value: Any) -> None:
    """Refuses a module whose sizes are out of range; they are products of sizes in its config."""
    if isinstance(value, nn.Module):
        for field in dataclasses.fields(value):
            if field.name not in ("parent", "name"):
                _check_sizes(f"{name}, {field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        for entry in value:
            _check_sizes(name, entry)
    elif isinstance(value, int) and abs(value) > schema.LARGEST:
        raise Refusal(f"{name} = {value}. Valid: at most {schema.LARGEST}.")


def layouts(family: Family) -> tuple[str, ...]:
    """The names of a family's layouts; the layout "ours" has the names of our own parameters."""
    return (*family.tables, "ours")


def rows_of(family: Family, module: nn.Module, layout: str) -> list[Row]:
    """The table of a layout."""
    if layout == "ours":
        return [Row(path.replace("/", "."), path) for path in leaves_of(shapes_of(family, module))]
    return look_up(family.tables, layout, "layout")(module)


def names_of(family: Family, module: nn.Module, layout: str) -> set[str]:
    """The names of all tensors of a layout; the layout "ours" takes them from the table of another one."""
    if layout == "ours":
        return {row.ours.replace("/", ".") for row in rows_of(family, module, family.first_layout)}
    return rows.names(rows_of(family, module, layout)) | set(computed_of(family, module, layout))


def computed_of(family: Family, module: nn.Module, layout: str) -> dict[str, Computed]:
    """The tensors of a layout that are computed; the layout "ours" has none."""
    return family.computed(module) if family.computed and layout != "ours" else {}


def expected_of(family: Family, module: nn.Module, layout: str, leaves: Mapping[str, Any]) -> dict[str, tuple]:
    """The shapes of all tensors of a file, by name; `leaves` are ours."""
    shapes = rows.their_shapes(rows_of(family, module, layout), leaves)
    return shapes | {name: computed.shape for name, computed in computed_of(family, module, layout).items()}


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        FileNotFoundError: if it has none.
        limits.Refused: if it is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, and it describes the weights beside it. Copy it from where the weights were "
            "published, or pass the config."
        )
    return opener.read_table(path)


def family_of(config: Mapping[str, Any], path: pathlib.Path) -> str:
    """The name of the architecture in a config.json.

    Raises:
        Mismatch: if it names none.
    """
    architectures = config.get("architectures")
    name = config.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else "")
    if not name or not isinstance(name, str):
        raise Mismatch(
            f"{path}: its config.json names no architecture (_class_name or architectures); give the "
            f"family, one of the {len(families.FAMILIES)} names in docs/models.md, models.interchange.FAMILIES."
        )
    for family in families.FAMILIES.values():
        if name in family.also and family.also[name].items() <= config.items():
            return family.name
    return str(name)


def recognise(
    tensors: Tensors, name: str = "", prefix: str | None = None, others: Mapping[str, nn.Module] | None = None
) -> Found:
    """Finds the published network that a single file holds, by its names and shapes.

    Args:
        tensors: tensors of the file.
        name: name of the family, if it is known, or "family, published network".
        prefix: prefix of the names, if it is known; otherwise any of the family's.
        others: {description: module} of further candidates, such as the networks of a pipeline's folder.

    Raises:
        Mismatch: if no network fits (with the nearest one and its differences), or several different ones do.
    """
    name, _, one = name.partition(", ")
    if one:
        look_up(families.find(name).published, one, f"{name}, published network")
    candidates = []
    for family in [families.find(name)] if name else families.FAMILIES.values():
        for before in family.prefixes if prefix is None else (prefix,):
            mine = tensors.under(before).without((*family.ignored, *family.dropped))
            known = {
                published: functools.partial(family.build, config) for published, config in family.published.items()
            }
            same_family = {what: module for what, module in (others or {}).items() if type(module) is family.module}
            known |= {what: lambda module=module: module for what, module in same_family.items()}
            for published, module_of in known.items() if mine.shapes else ():
                if one not in ("", published):
                    continue
                module = module_of()
                for layout in family.tables:
                    names = names_of(family, module, layout)
                    if common := len(names & set(mine.shapes)):
                        share = common / len(names | set(mine.shapes))
                        candidates.append((share, Found(family, module, layout, mine), published))
    if not candidates:
        raise Mismatch(
            f"{tensors.path}: no known architecture has tensors named like {', '.join(sorted(tensors.shapes)[:3])}."
        )
    # Shapes of a large network take seconds: they are computed only for the candidates with the nearest names.
    share = max(share for share, *_ in candidates)
    nearest, exact = None, []
    for candidate, published in [(candidate, published) for s, candidate, published in candidates if s == share]:
        leaves = leaves_of(shapes_of(candidate.family, candidate.module))
        expected = expected_of(candidate.family, candidate.module, candidate.layout, leaves)
        wrong = sum(candidate.tensors.shapes.get(name) != shape for name, shape in expected.items())
        if not wrong and share == 1:
            exact.append((published, candidate))
            # Another network of the family would fit as well, and its shapes take seconds.
            if not candidate.family.beside:
                break
        if nearest is None or wrong < nearest[0]:
            what = f"{candidate.family.name}, {published} ({candidate.layout} names)"
            nearest = wrong, expected, candidate.tensors.shapes, what
    if exact:
        one = _distinguished(exact, tensors)
        _warn_of_dropped(one.family, tensors)
        return _varied(one)
    if nearest:
        _, expected, shapes, what = nearest
        rows.compare(expected, shapes, f"{tensors.path} is not a known network; the nearest is {what}")
    raise AssertionError("a difference was counted")


def _distinguished(exact: Sequence[tuple[str, Found]], tensors: Tensors) -> Found:
    """Chooses between published networks with equal names and shapes by the other tensors of the file."""
    (_, first), family = exact[0], exact[0][1].family
    exact = [(published, candidate) for published, candidate in exact if candidate.family is family]
    if not family.beside or all(candidate.module == first.module for _, candidate in exact):
        return first
    matches = lambda published: any(re.match(family.beside.get(published, "$^"), name) for name in tensors.shapes)
    likely = [candidate for published, candidate in exact if matches(published)]
    if len(likely) == 1:
        return likely[0]
    names = [f"{family.name}, {published}" for published, _ in exact]
    raise Mismatch(
        f"{tensors.path} fits the names and shapes of several networks that differ in their config. Name the "
        f"architecture: {' or '.join(map(repr, names))}."
    )


def read(
    found: Found,
    dtype: str = "float32",
    shardings: Callable[[Any], Any] | None = None,
    quantised: bool = False,
    keep: bool = False,
) -> Any:
    """The parameters of a network, leaf by leaf.

    Args:
        found: the network and its tensors.
        dtype: dtype of the parameters.
        shardings, quantised, keep: placement and storage, see `load`.

    Raises:
        Mismatch: if a tensor is missing, superfluous or misshapen, or a computed one differs.
    """
    family, module, layout, tensors = found
    target = shapes_of(family, module)
    table = rows_of(family, module, layout)
    leaves = leaves_of(target)
    rows.check_cover(table, leaves)
    rows.compare(expected_of(family, module, layout, leaves), tensors.shapes, f"{tensors.path} as {family.name}")
    for name, computed in computed_of(family, module, layout).items():
        theirs = tensors.read(name)
        # A table of sines has an error of at most 2^-9 in half precision, and of half the resolution in 8 bits.
        eps = float(jnp.finfo(theirs.dtype).eps) if jnp.issubdtype(theirs.dtype, jnp.floating) else 0.0
        if not np.allclose(theirs.astype(np.float32), computed.make(), atol=max(4e-3, eps / 2)):
            raise Mismatch(f"{tensors.path}: {name} differs from the table that {family.name} computes.")
    by_leaf = _by_leaf(table)
    places = leaves_of(shardings(target)) if shardings else dict.fromkeys(leaves)

    def leaf(path: str) -> Any:
        shape = leaves[path].shape
        if quantised and path.endswith("kernel"):
            if (assembled := quantised_rows.assembled(by_leaf[path], tensors, shape)) is not None:
                return leaf_shards.placed_quantised(assembled, places[path])
        kind = jnp.dtype(_type_of(path, by_leaf[path], tensors, dtype, keep))
        return leaf_shards.placed(by_leaf[path], tensors, shape, kind, places[path])

    return jax.tree.unflatten(jax.tree.structure(target), [leaf(path) for path in leaves])


def kept_shapes(found: Found, dtype: str) -> Any:
    """The shapes and types of the parameters that `read` returns with `keep`, jax.ShapeDtypeStruct; reads no tensor.

    Args:
        found: the network and its tensors.
        dtype: dtype of the parameters.
    """
    target = shapes_of(found.family, found.module)
    by_leaf = _by_leaf(rows_of(found.family, found.module, found.layout))
    kind = lambda path: _type_of(path, by_leaf[path], found.tensors, dtype, True)
    narrow = [jax.ShapeDtypeStruct(leaf.shape, kind(path)) for path, leaf in leaves_of(target).items()]
    return jax.tree.unflatten(jax.tree.structure(target), narrow)


def _by_leaf(table: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each of our leaves."""
    by_leaf: dict[str, list[Row]] = {}
    for row in table:
        by_leaf.setdefault(row.ours, []).append(row)
    return by_leaf


def _type_of(path: str, of_leaf: Sequence[Row], tensors: Tensors, dtype: str, keep: bool) -> str:
    """The type of a leaf in memory; `keep` as in `load`."""
    stored, *others = {str(tensors.type_of(row.theirs)) for row in of_leaf}
    narrow = keep and path.endswith("kernel") and dtype == "float32" and stored in FLOATS and not others
    return stored if narrow else dtype


public.declare(__name__, elsewhere=dict.fromkeys(("save", "write"), "diffusion.models.interchange.folder_writing"))

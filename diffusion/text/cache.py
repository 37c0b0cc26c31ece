"""Embeddings on disk: an encoder reads each prompt once, whether in this run or another.

The cached encoder takes the place of the encoder:

    t5 = text.cached(t5, text.fingerprint(params))
"""

import hashlib
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from diffusion.io import failures, files, limits, safetensors_files
from diffusion.text.encoding import Encoder


def fingerprint(params: Any, **how: Any) -> str:
    """A hash of an encoder's weights and arguments, which determine its embeddings of a text.

    Args:
        params: its parameters.
        **how: the other arguments of `Encoder.from_module`, such as `skip=1, norm=False`.
    """
    digest = hashlib.sha256(repr(sorted(how.items())).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()[:32]


def cached(encoder: Encoder, weights: str, folder: str | pathlib.Path | None = None) -> Encoder:
    """An encoder that stores its outputs, one safetensors file for each row of token ids.

    A file appears whole, and a damaged one is made again. Several processes may share the folder.

    Args:
        encoder: an encoder whose network is called outside `jit`.
        weights: fingerprint of the weights, from `fingerprint`: other weights have other files.
        folder: folder of the files; by default "embeddings" in the library's cache (`diffusion.io.files.cache`).
    """
    place = pathlib.Path(folder or files.cache("embeddings")).expanduser() / weights

    def network(ids: Any, mask: Any) -> tuple[jax.Array, jax.Array | None]:
        ids = np.asarray(ids, np.int32)
        mask = np.asarray(mask, bool)
        paths = [place / f"{_name(*row)}.safetensors" for row in zip(ids, mask)]
        known = {path: _read(path) for path in paths}
        missing = [i for i, path in enumerate(paths) if known[path] is None and path not in paths[:i]]
        if missing:
            tokens, pooled = encoder.network(ids[missing], mask[missing])
            place.mkdir(parents=True, exist_ok=True)
            for row, i in enumerate(missing):
                embedding = {"tokens": np.asarray(tokens[row])}
                embedding |= {} if pooled is None else {"pooled": np.asarray(pooled[row])}
                mine = place / f"{uuid.uuid4().hex}.part"  # no other process writes this name
                with files.atomic(mine) as file:
                    file.write(save(embedding))
                mine.replace(paths[i])
                known[paths[i]] = embedding
        rows = [row for path in paths if (row := known[path]) is not None]
        stack = lambda name: jnp.stack([row[name] for row in rows])
        return stack("tokens"), stack("pooled") if "pooled" in rows[0] else None

    return encoder._replace(network=network)


def _name(ids: np.ndarray, mask: np.ndarray) -> str:
    return hashlib.sha256(ids.tobytes() + mask.tobytes()).hexdigest()[:32]


def _read(path: pathlib.Path) -> Mapping[str, np.ndarray] | None:
    try:
        return safetensors_files.load(path)
    except (OSError, limits.Refused) as error:
        if failures.is_machine_failure(error):
            raise failures.Unreadable(f"{path} could not be read: {error}.") from error
        return None

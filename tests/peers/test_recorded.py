"""The values of other libraries that tests/fixtures holds, as the libraries compute them now, under `make test-peers`.

The tests of networks, adapters and whole pipelines compare us with the recorded values. Where the libraries still
compute these, our deviation from them is the one that those tests bound.
"""

import gzip
import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

RECORDED = pathlib.Path(__file__).parents[1] / "fixtures"
LIVE = pathlib.Path(os.environ["PEERS_FIXTURES"]) if "PEERS_FIXTURES" in os.environ else None
WITHIN = 1e-4  # of the largest number of an array; the order of sums differs between processors
HALF = 1e-3  # of pictures that are stored in float16
UNORDERED = ("_use_default_values", "target_modules", "exclude_modules")  # lists that the libraries make of sets
TRAINED = "text/"  # vocabularies that the package tokenizers trains, which breaks ties at random
NAMES = sorted(str(path.relative_to(LIVE)) for path in LIVE.rglob("*") if path.is_file()) if LIVE else []
NAMES = [name for name in NAMES if not name.startswith(TRAINED)]


def content(path: pathlib.Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


@pytest.mark.parametrize("name", NAMES)
def test_a_library_computes_what_a_fixture_recorded(name):
    live, recorded = LIVE / name, RECORDED / name
    if live.suffix == ".safetensors":
        now, then = content(live), content(recorded)
        assert now.keys() == then.keys()
        for key in then:
            compare(now[key], then[key], key)
    elif live.suffix == ".gz":
        now, then = gzip.decompress(live.read_bytes()), gzip.decompress(recorded.read_bytes())
        assert [ordered(line) for line in now.decode().splitlines()] == [
            ordered(line) for line in then.decode().splitlines()
        ]
    else:
        assert ordered(live.read_text()) == ordered(recorded.read_text())


def ordered(value: Any) -> Any:
    """The value of a text of JSON, or the text, with the lists sorted that have no order."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return ordered(json.loads(value))
        except json.JSONDecodeError:
            return value
    if isinstance(value, dict):
        return {
            name: sorted(part) if name.endswith(UNORDERED) and isinstance(part, list) else ordered(part)
            for name, part in value.items()
        }
    return [ordered(part) for part in value] if isinstance(value, list) else value


def compare(now: np.ndarray, then: np.ndarray, key: str) -> None:
    if key == "about":
        assert ordered(gzip.decompress(now.tobytes()).decode()) == ordered(gzip.decompress(then.tobytes()).decode())
        return
    assert (now.shape, now.dtype) == (then.shape, then.dtype), key
    if np.issubdtype(then.dtype, np.floating):
        within = HALF if then.dtype == np.float16 else WITHIN
        now, then = now.astype(np.float64), then.astype(np.float64)
        np.testing.assert_allclose(now, then, rtol=0, atol=within * np.abs(then).max(initial=1e-30), err_msg=key)
    else:
        np.testing.assert_array_equal(now, then, err_msg=key)


@pytest.mark.skipif(LIVE is None, reason="the libraries compute them in make test-peers")
def test_every_pipeline_of_a_fixture_was_computed_anew():
    recorded = {path.name for path in (RECORDED / "text_to_image").iterdir()}
    assert recorded <= {path.name for path in (LIVE / "text_to_image").iterdir()}

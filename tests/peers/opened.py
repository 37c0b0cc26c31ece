"""Folders that this library wrote, opened by the library that they are for: what its network puts out.

It runs in the peers' environment: python -m tests.peers.opened PLACE, where each folder PLACE/<case> holds the network
of that case (tests/peers/cases.py) as we exported it. PLACE/<case>.safetensors gets the outputs on the case's inputs,
and in its metadata the names that the library missed or did not expect.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

from tests.peers.cases import stated

WHAT = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def main(place: str) -> None:
    """Opens every folder."""
    torch.set_num_threads(1)
    cases = stated("CASES")
    for folder in sorted(path for path in pathlib.Path(place).iterdir() if path.is_dir()):
        case = cases[folder.name.split(",")[0]]
        network, found = type(case.build()).from_pretrained(folder, output_loading_info=True)
        inputs = {key: torch.from_numpy(np.array(value)) for key, value in case.inputs.items()}
        with torch.no_grad():
            outputs = case.run(network.eval(), inputs)
        loading = {key: json.dumps(sorted(map(str, found.get(key) or ()))) for key in WHAT}
        arrays = {key: value.contiguous().numpy() for key, value in outputs.items()}
        save_file(arrays, folder.with_name(folder.name + ".safetensors"), metadata=loading)


if __name__ == "__main__":
    main(*sys.argv[1:])

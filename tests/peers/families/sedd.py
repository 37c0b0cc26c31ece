"""SEDD's network, which is MDLM's too, by d3-dna: the authors' layers under their names, without its inputs for DNA."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from d3_dna.models.transformer import TransformerModel
from safetensors.torch import save_file

from tests.peers.cases import Case

HEADS = 2
CONFIG: dict[str, Any] = {
    "tokens": 6,
    "graph": {"type": "absorb"},  # the mask is one more
    "dataset": {"num_classes": 1, "signal_dim": 1},
    "model": {"hidden_size": 32, "cond_dim": 12, "n_heads": HEADS, "n_blocks": 2, "dropout": 0.0},
}
FOR_DNA = ("vocab_embed.signal_embedding.", "label_embed.")
INPUTS = {"ids": (np.arange(2 * 9).reshape(2, 9) * 5 % 7).astype(np.int64), "sigma": np.array([0.03, 2.5], np.float32)}


class SEDD(TransformerModel):
    """The network with the tensors of the authors' files alone."""

    def state_dict(self, *arguments: Any, **named: Any) -> dict[str, torch.Tensor]:
        state = super().state_dict(*arguments, **named)
        return {name: tensor for name, tensor in state.items() if not name.startswith(FOR_DNA)}

    def save_pretrained(self, folder: str, safe_serialization: bool = True) -> None:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps({"heads": HEADS}))
        save_file(self.state_dict(), pathlib.Path(folder) / "model.safetensors")


def run(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Its output, which is 0 at the symbol that x_t has."""
    output, _ = model(inputs["ids"], labels=None, train=False, sigma=inputs["sigma"])
    return {"output": output}


CASES = {"sedd": Case(lambda: SEDD(CONFIG), INPUTS, run, kept=("rotary_emb.inv_freq",))}

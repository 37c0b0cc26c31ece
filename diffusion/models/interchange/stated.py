"""What a single file says of itself beside its weights: what its denoiser predicts.

| mark                                            | who writes it            | means                        |
|-------------------------------------------------|--------------------------|------------------------------|
| metadata modelspec.prediction_type = epsilon, v | kohya's scripts, Stability's ModelSpec | as it says     |
| a tensor named v_pred                           | merged SDXL files        | v                            |

A folder says it in its scheduler_config.json. Most single files say nothing.
"""

import pathlib

import safetensors

from diffusion.models.interchange import tensor_files
from diffusion.models.interchange.family import Refusal

MARKS = r"v_pred|ztsnr"  # tensors that are no network's
SPECIFIED = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction", "sample": "sample"}


def prediction(path: str | pathlib.Path) -> str:
    """What a file's denoiser predicts, a name in `schedulers.PREDICTIONS`; "" where the file does not say.

    Args:
        path: of a safetensors file, or a folder of such.

    Raises:
        Refusal: if it says two things, or one that is not known.
        FileNotFoundError, limits.Refused: as `tensor_files.open_tensors`.
    """
    tensors = tensor_files.open_tensors(path)
    said = {"v_prediction": "a tensor named v_pred"} if "v_pred" in tensors.shapes else {}
    for file in sorted(set(tensors.places.values())):
        with safetensors.safe_open(file, framework="numpy") as opened:
            given = (opened.metadata() or {}).get("modelspec.prediction_type", "").strip().lower()
        if given and given not in SPECIFIED:
            raise Refusal(
                f"{file}: its metadata says modelspec.prediction_type = {given!r}; known are {', '.join(SPECIFIED)}."
            )
        if given:
            said.setdefault(SPECIFIED[given], f"the metadata modelspec.prediction_type = {given}")
    if len(said) > 1:
        raise Refusal(f"{path} contradicts itself: {' and '.join(f'{why} ({what})' for what, why in said.items())}.")
    return next(iter(said), "")

"""The prediction type that a single file states beside its weights.

| mark                                            | who writes it            | means                        |
|-------------------------------------------------|--------------------------|------------------------------|
| metadata modelspec.prediction_type = epsilon, v | kohya's scripts, Stability's ModelSpec | that one       |
| a tensor named v_pred                           | merged SDXL files        | v                            |

A folder has it in its scheduler_config.json. Most single files state nothing.
"""

import pathlib

from diffusion.models.interchange import tensor_files
from diffusion.models.interchange.family import Refusal

MARKS = r"v_pred|ztsnr"  # tensors that belong to no network
SPECIFIED = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction", "sample": "sample"}


def prediction(path: str | pathlib.Path) -> str:
    """The prediction type of a file's denoiser, a name in `schedulers.PREDICTIONS`; "" if the file states none.

    Args:
        path: a safetensors file, or a folder of them.

    Raises:
        Refusal: if the file states two types, or an unknown one.
        FileNotFoundError, limits.Refused: as `tensor_files.open_tensors`.
    """
    tensors = tensor_files.open_tensors(path)
    stated = {"v_prediction": "a tensor named v_pred"} if "v_pred" in tensors.shapes else {}
    for file in sorted(file for file in set(tensors.places.values()) if file.suffix == tensor_files.SUFFIX):
        stated_type = tensor_files.metadata(file).get("modelspec.prediction_type", "").strip().lower()
        if stated_type and stated_type not in SPECIFIED:
            raise Refusal(
                f"{file}: its metadata states modelspec.prediction_type = {stated_type!r}. Valid: "
                f"{', '.join(SPECIFIED)}."
            )
        if stated_type:
            stated.setdefault(SPECIFIED[stated_type], f"the metadata modelspec.prediction_type = {stated_type}")
    if len(stated) > 1:
        raise Refusal(f"{path} contradicts itself: {' and '.join(f'{why} ({what})' for what, why in stated.items())}.")
    return next(iter(stated), "")

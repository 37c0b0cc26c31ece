"""LPIPS with VGG16, as the state of the lpips package's LPIPS(net="vgg") names its tensors."""

import numpy as np

from diffusion.io import schema
from diffusion.models.interchange.family import SIZE, Computed, array
from diffusion.models.interchange.field_table import Field, FieldTable
from diffusion.models.interchange.rows import CONV, Row, linear, with_ones
from diffusion.models.lpips import CONVOLUTIONS, LPIPS, SCALE, SHIFT, WIDTHS

WEIGHTS = with_ones(before=1, after=2)


def rows(module: LPIPS) -> list[Row]:
    """Convolutions by their places in torchvision's vgg16.features, where an activation follows each, and pooling."""
    table = []
    place = 0
    for stage in range(len(module.widths)):
        place += 1 if stage else 0
        for i in range(CONVOLUTIONS[stage]):
            table += linear(f"net.slice{stage + 1}.{place}", f"conv_{stage}_{i}", CONV)
            place += 2
        also = (f"lins.{stage}.model.1.weight",)
        table.append(Row(f"lin{stage}.model.1.weight", f"weights_{stage}", WEIGHTS, copies=also))
    return table


CONFIG = FieldTable("LPIPS", LPIPS, (Field("widths", "widths", WIDTHS, schema.several(SIZE, 1, len(CONVOLUTIONS))),))


def _computed(module: LPIPS) -> dict[str, Computed]:
    numbers = {"shift": SHIFT, "scale": SCALE}
    return {
        f"scaling_layer.{name}": Computed(
            (1, 3, 1, 1), lambda values=values: np.asarray(values, np.float32).reshape(1, 3, 1, 1)
        )
        for name, values in numbers.items()
    }


FAMILY = CONFIG.family(
    lambda module: (array(1, 16, 16, 3),), {"lpips": rows}, stem="model", computed=_computed, published={"VGG16": {}}
)

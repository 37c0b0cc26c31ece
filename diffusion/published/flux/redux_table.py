"""FLUX.1 Redux by the names of its repository, which diffusers' ReduxImageEncoder has too."""

from diffusion.models.interchange.family import array
from diffusion.models.interchange.field_table import Field, FieldTable
from diffusion.models.interchange.rows import Row, linear
from diffusion.published.flux.redux import Redux

NAME = "ReduxImageEncoder"


def table(module: Redux) -> list[Row]:
    """All rows of a network."""
    return linear("redux_up", "up") + linear("redux_down", "down")


CONFIG = FieldTable(NAME, Redux, (Field("redux_dim", "features", 1152), Field("txt_in_features", "text_width", 4096)))


def example(module: Redux) -> tuple:
    """Arguments of a small call."""
    return (array(1, 2, module.features),)


FAMILY = CONFIG.family(example, {"diffusers": table}, published={"FLUX.1-Redux-dev": CONFIG.describe(Redux())})
FAMILIES = {FAMILY.name: FAMILY}

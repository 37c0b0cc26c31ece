"""The table of FLUX.1 Redux, whose repository and diffusers' ReduxImageEncoder use the same names."""

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
    """The arguments of a small example call."""
    return (array(1, 2, module.features),)


FAMILY = CONFIG.family(example, {"diffusers": table}, published={"FLUX.1-Redux-dev": CONFIG.describe(Redux())})
FAMILIES = {FAMILY.name: FAMILY}

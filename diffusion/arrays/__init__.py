"""Arrays as arguments: their checks, how times, pytrees and examples of several sizes are one array, and chunks."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.arrays import (
        arguments as arguments,
        boxes as boxes,
        broadcasting as broadcasting,
        chunks as chunks,
        equal_programs as equal_programs,
        matrices as matrices,
        not_a_number as not_a_number,
        padding as padding,
        parameters as parameters,
        promotion as promotion,
        pytrees as pytrees,
        random_keys as random_keys,
        square_roots as square_roots,
    )

public.declare(__name__)

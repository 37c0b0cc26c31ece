"""A run as one value, `Recipe`, built in Python or from a config of plain data; and the names that a config may use."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:  # imported when first used
    from diffusion.recipe import (
        checks as checks,
        data as data,
        extensions as extensions,
        fields as fields,
        names as names,
        recipe as recipe,
        recipes as recipes,
    )
    from diffusion.recipe.config_errors import (
        ConfigError as ConfigError,
        as_config_errors as as_config_errors,
        check_stages as check_stages,
        spoken as spoken,
        unknown as unknown,
    )
    from diffusion.recipe.recipe import Recipe as Recipe
    from diffusion.recipe.sections import (
        Companions as Companions,
        Examples as Examples,
        Sampling as Sampling,
        Training as Training,
    )

public.declare(__name__)
public.moved({f"{__name__}.{name}": f"{__name__}.companions" for name in ("encoder", "perceptual")})

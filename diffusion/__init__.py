"""Diffusion and flow matching in pure JAX: functions that are the published equations."""

from typing import TYPE_CHECKING

from diffusion.package import namesake, public as public

if TYPE_CHECKING:
    from diffusion import (
        adapters as adapters,
        arrays as arrays,
        data as data,
        discrete as discrete,
        flows as flows,
        guidance as guidance,
        io as io,
        manifolds as manifolds,
        metrics as metrics,
        models as models,
        objectives as objectives,
        package as package,
        parameterizations as parameterizations,
        samplers as samplers,
        sampling as sampling,
        schedules as schedules,
        text as text,
        text_to_image as text_to_image,
        timesteps as timesteps,
        training as training,
    )
    from diffusion.arrays import arguments as arguments, padding as padding, pytrees as pytrees
    from diffusion.data import proteins as proteins, sound as sound
    from diffusion.flows import (
        flow_maps as flow_maps,
        likelihood as likelihood,
        ode as ode,
        probability_flow as probability_flow,
    )
    from diffusion.objectives import couplings as couplings, weightings as weightings
    from diffusion.sampling import (
        caching as caching,
        editing as editing,
        steering as steering,
        videos as videos,
        watermarks as watermarks,
    )

__version__ = "0.1.0"

public.moved(
    {
        f"{__name__}.{name}": f"{__name__}.{package}.{name}"
        for package, names in {
            "arrays": ("arguments", "padding", "pytrees"),
            "data": ("proteins", "sound"),
            "flows": ("flow_maps", "likelihood", "ode", "probability_flow"),
            "objectives": ("couplings", "weightings"),
            "package": ("commands", "namesake", "public"),
            "sampling": ("caching", "editing", "steering", "videos", "watermarks"),
        }.items()
        for name in names
    }
    | {
        f"{__name__}.conditional_couplings": f"{__name__}.objectives.couplings.conditional_transport",
        f"{__name__}.metrics.chunks": f"{__name__}.arrays.chunks",
        f"{__name__}.conversions": f"{__name__}.parameterizations.conversions",
        f"{__name__}.equivariant_couplings": f"{__name__}.objectives.couplings.equivariant_transport",
        f"{__name__}.rooms": f"{__name__}.models.rooms",
        f"{__name__}.models.autoencoders.video_checks": f"{__name__}.models.autoencoders.video_autoencoder",
    }
)

public.declare(__name__)
namesake.warn(__path__[0])

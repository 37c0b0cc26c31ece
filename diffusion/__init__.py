"""Diffusion and flow matching in pure JAX: functions that are the published equations."""

from typing import TYPE_CHECKING

from diffusion import namesake, public as public

if TYPE_CHECKING:
    from diffusion import (
        adapters as adapters,
        arguments as arguments,
        caching as caching,
        couplings as couplings,
        data as data,
        discrete as discrete,
        editing as editing,
        flow_maps as flow_maps,
        guidance as guidance,
        io as io,
        likelihood as likelihood,
        manifolds as manifolds,
        metrics as metrics,
        models as models,
        objectives as objectives,
        ode as ode,
        padding as padding,
        parameterizations as parameterizations,
        probability_flow as probability_flow,
        proteins as proteins,
        pytrees as pytrees,
        samplers as samplers,
        sampling as sampling,
        schedules as schedules,
        sound as sound,
        steering as steering,
        text as text,
        text_to_image as text_to_image,
        timesteps as timesteps,
        training as training,
        videos as videos,
        watermarks as watermarks,
        weightings as weightings,
    )

__version__ = "0.1.0"

public.moved(
    {
        f"{__name__}.conditional_couplings": f"{__name__}.couplings.conditional_transport",
        f"{__name__}.conversions": f"{__name__}.parameterizations.conversions",
        f"{__name__}.equivariant_couplings": f"{__name__}.couplings.equivariant_transport",
        f"{__name__}.rooms": f"{__name__}.models.rooms",
        f"{__name__}.models.autoencoders.video_checks": f"{__name__}.models.autoencoders.video_autoencoder",
    }
)

public.declare(__name__)
namesake.warn(__path__[0])

"""Checkpoints: atomic, asynchronous, verified by checksums, validated before they are read."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.training.checkpointing import (
        checkpoint_writer as checkpoint_writer,
        checkpoints as checkpoints,
        checksums as checksums,
        description as description,
        validation as validation,
    )

public.declare(__name__)

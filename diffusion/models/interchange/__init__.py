"""Checkpoints of other libraries in and out: their tables of names, without torch and without pickle."""

from diffusion import public
from diffusion.models.interchange.families import FAMILIES
from diffusion.models.interchange.family import Family, Fields, Refusal
from diffusion.models.interchange.folders import load, save
from diffusion.models.interchange.rows import Mismatch, Row
from diffusion.models.interchange.tensor_files import open_tensors

__all__ = ["FAMILIES", "Family", "Fields", "Mismatch", "Refusal", "Row", "load", "open_tensors", "save"]

public.declare(__name__)

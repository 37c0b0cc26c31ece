"""Checkpoints of other libraries in and out: their tables of names, without torch and without pickle."""

from diffusion.models.interchange.families import FAMILIES as FAMILIES
from diffusion.models.interchange.family import Family as Family, Fields as Fields, Refusal as Refusal
from diffusion.models.interchange.folder_writing import save as save
from diffusion.models.interchange.folders import load as load
from diffusion.models.interchange.rows import Mismatch as Mismatch, Row as Row
from diffusion.models.interchange.tensor_files import open_tensors as open_tensors
from diffusion.package import public

public.declare(__name__)

"""Linen backbones. Each is a `Network` once applied: (x_t, t, condition) -> output."""

from typing import TYPE_CHECKING

from diffusion import public
from diffusion.models import dit
from diffusion.models.budget import flops
from diffusion.models.cogvideox import CogVideoX
from diffusion.models.conditional_unet import ConditionalUNet
from diffusion.models.ddt import DDT, ddt_preset, dit_dh_preset
from diffusion.models.diffwave import DiffWave
from diffusion.models.dit import DiT, check_labels, dit_preset
from diffusion.models.drifting import DriftingDiT, drifting_preset
from diffusion.models.edm2_unet import EDM2UNet
from diffusion.models.flux import Flux
from diffusion.models.flux2 import Flux2
from diffusion.models.frame_transformer import FrameTransformer
from diffusion.models.hunyuan_video import HunyuanVideo
from diffusion.models.jit import JiT, jit_preset
from diffusion.models.layers import attention, embeddings, layer_masks
from diffusion.models.lightning_dit import lightning_dit_preset
from diffusion.models.ltx_video import LTXVideo
from diffusion.models.lumina2 import Lumina2
from diffusion.models.mask_dit import MaskDiT, mask_dit_preset
from diffusion.models.mdt import MDT, mdt_preset
from diffusion.models.mit import MiT, imf_preset, pmf_preset
from diffusion.models.mlp import MLP
from diffusion.models.mmdit import MMDiT
from diffusion.models.pixnerd import PixNerd, pixnerd_preset
from diffusion.models.qwen_image import QwenImage
from diffusion.models.residual_u_vit import ResidualUViT
from diffusion.models.sana import Sana
from diffusion.models.sequence_transformer import SequenceTransformer
from diffusion.models.set_transformer import SetTransformer
from diffusion.models.song_unet import SongUNet
from diffusion.models.text_encoders import clip, t5
from diffusion.models.u_vit import UViT
from diffusion.models.unet import UNet
from diffusion.models.video_dit import VideoDiT, video_angles, with_frames
from diffusion.models.z_image import ZImage

if TYPE_CHECKING:
    from diffusion.models import (
        attachment,
        autoencoders,
        budget,
        control_net,
        facts,
        flux_control_net,
        image_encoders,
        image_projections,
        image_reward,
        interchange,
        joint_image_projections,
        layers,
        lpips,
        mmdit_control_net,
        pixart,
        pixart_control_net,
        quantised,
        text_encoders,
        token_merging,
        wan,
    )
    from diffusion.models.other_libraries import NNX, Equinox, Functions

MODELS = {
    "cogvideox": CogVideoX,
    "conditional_unet": ConditionalUNet,
    "ddt": DDT,
    "diffwave": DiffWave,
    "dit": DiT,
    "drifting": DriftingDiT,
    "edm2_unet": EDM2UNet,
    "flux": Flux,
    "flux2": Flux2,
    "frame_transformer": FrameTransformer,
    "hunyuan_video": HunyuanVideo,
    "jit": JiT,
    "ltx_video": LTXVideo,
    "lumina2": Lumina2,
    "mask_dit": MaskDiT,
    "mdt": MDT,
    "mit": MiT,
    "mlp": MLP,
    "mmdit": MMDiT,
    "pixnerd": PixNerd,
    "qwen_image": QwenImage,
    "residual_u_vit": ResidualUViT,
    "sana": Sana,
    "sequence_transformer": SequenceTransformer,
    "set_transformer": SetTransformer,
    "song_unet": SongUNet,
    "u_vit": UViT,
    "unet": UNet,
    "video_dit": VideoDiT,
    "z_image": ZImage,
}
"""The backbones, by their names in configs."""

__all__ = [
    "DDT",
    "MDT",
    "MLP",
    "MODELS",
    "NNX",
    "CogVideoX",
    "ConditionalUNet",
    "DiT",
    "DiffWave",
    "DriftingDiT",
    "EDM2UNet",
    "Equinox",
    "Flux",
    "Flux2",
    "FrameTransformer",
    "Functions",
    "HunyuanVideo",
    "JiT",
    "LTXVideo",
    "Lumina2",
    "MMDiT",
    "MaskDiT",
    "MiT",
    "PixNerd",
    "QwenImage",
    "ResidualUViT",
    "Sana",
    "SequenceTransformer",
    "SetTransformer",
    "SongUNet",
    "UNet",
    "UViT",
    "VideoDiT",
    "ZImage",
    "attachment",
    "attention",
    "autoencoders",
    "budget",
    "check_labels",
    "clip",
    "control_net",
    "ddt_preset",
    "dit",
    "dit_dh_preset",
    "dit_preset",
    "drifting_preset",
    "embeddings",
    "facts",
    "flops",
    "flux_control_net",
    "image_encoders",
    "image_projections",
    "image_reward",
    "imf_preset",
    "interchange",
    "jit_preset",
    "joint_image_projections",
    "layer_masks",
    "layers",
    "lightning_dit_preset",
    "lpips",
    "mask_dit_preset",
    "mdt_preset",
    "mmdit_control_net",
    "pixart",
    "pixart_control_net",
    "pixnerd_preset",
    "pmf_preset",
    "quantised",
    "t5",
    "text_encoders",
    "token_merging",
    "video_angles",
    "wan",
    "with_frames",
]

public.declare(__name__, {"other_libraries": ("Equinox", "Functions", "NNX")})

"""Linen backbones. Each is a `Network` once applied: (x_t, t, condition) -> output."""

from typing import TYPE_CHECKING

from diffusion import public
from diffusion.models import dit as dit
from diffusion.models.budget import flops as flops
from diffusion.models.cogvideox import CogVideoX as CogVideoX
from diffusion.models.conditional_unet import ConditionalUNet as ConditionalUNet
from diffusion.models.ddt import DDT as DDT, ddt_preset as ddt_preset, dit_dh_preset as dit_dh_preset
from diffusion.models.diffwave import DiffWave as DiffWave
from diffusion.models.dit import DiT as DiT, check_labels as check_labels, dit_preset as dit_preset
from diffusion.models.drifting import DriftingDiT as DriftingDiT, drifting_preset as drifting_preset
from diffusion.models.edm2_unet import EDM2UNet as EDM2UNet
from diffusion.models.flux import Flux as Flux
from diffusion.models.flux2 import Flux2 as Flux2
from diffusion.models.frame_transformer import FrameTransformer as FrameTransformer
from diffusion.models.hunyuan_video import HunyuanVideo as HunyuanVideo
from diffusion.models.jit import JiT as JiT, jit_preset as jit_preset
from diffusion.models.layers import attention as attention, embeddings as embeddings, layer_masks as layer_masks
from diffusion.models.lightning_dit import lightning_dit_preset as lightning_dit_preset
from diffusion.models.ltx_video import LTXVideo as LTXVideo
from diffusion.models.lumina2 import Lumina2 as Lumina2
from diffusion.models.mask_dit import MaskDiT as MaskDiT, mask_dit_preset as mask_dit_preset
from diffusion.models.mdt import MDT as MDT, mdt_preset as mdt_preset
from diffusion.models.mit import MiT as MiT, imf_preset as imf_preset, pmf_preset as pmf_preset
from diffusion.models.mlp import MLP as MLP
from diffusion.models.mmdit import MMDiT as MMDiT
from diffusion.models.pixnerd import PixNerd as PixNerd, pixnerd_preset as pixnerd_preset
from diffusion.models.qwen_image import QwenImage as QwenImage
from diffusion.models.residual_u_vit import ResidualUViT as ResidualUViT
from diffusion.models.sana import Sana as Sana
from diffusion.models.sequence_transformer import SequenceTransformer as SequenceTransformer
from diffusion.models.set_transformer import SetTransformer as SetTransformer
from diffusion.models.song_unet import SongUNet as SongUNet
from diffusion.models.text_encoders import clip as clip, t5 as t5
from diffusion.models.u_vit import UViT as UViT
from diffusion.models.unet import UNet as UNet
from diffusion.models.video_dit import VideoDiT as VideoDiT, video_angles as video_angles, with_frames as with_frames
from diffusion.models.z_image import ZImage as ZImage

if TYPE_CHECKING:
    from diffusion.models import (
        attachment as attachment,
        autoencoders as autoencoders,
        budget as budget,
        control_net as control_net,
        facts as facts,
        flux_control_net as flux_control_net,
        image_encoders as image_encoders,
        image_projections as image_projections,
        image_reward as image_reward,
        interchange as interchange,
        joint_image_projections as joint_image_projections,
        layers as layers,
        lpips as lpips,
        mmdit_control_net as mmdit_control_net,
        pixart as pixart,
        pixart_control_net as pixart_control_net,
        quantised as quantised,
        text_encoders as text_encoders,
        token_merging as token_merging,
        wan as wan,
    )
    from diffusion.models.other_libraries import NNX as NNX, Equinox as Equinox, Functions as Functions

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

__all__ = ["MODELS"]

public.declare(__name__)

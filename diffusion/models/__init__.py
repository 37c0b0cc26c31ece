"""Backbones in Flax Linen; the `apply` of one, with its variables, is a `Network`: (x_t, t, condition) -> output."""

from typing import TYPE_CHECKING

from diffusion.models import dit as dit, rooms
from diffusion.models.budget import flops as flops
from diffusion.models.ddt import DDT as DDT, ddt_preset as ddt_preset, dit_dh_preset as dit_dh_preset
from diffusion.models.diffwave import DiffWave as DiffWave
from diffusion.models.dit import DiT as DiT, check_labels as check_labels, dit_preset as dit_preset
from diffusion.models.drifting import DriftingDiT as DriftingDiT, drifting_preset as drifting_preset
from diffusion.models.edm2_unet import EDM2UNet as EDM2UNet
from diffusion.models.frame_transformer import FrameTransformer as FrameTransformer
from diffusion.models.jit import JiT as JiT, jit_preset as jit_preset
from diffusion.models.language_denoiser import LanguageDenoiser as LanguageDenoiser
from diffusion.models.layers import attention as attention, embeddings as embeddings, layer_masks as layer_masks
from diffusion.models.lightning_dit import lightning_dit_preset as lightning_dit_preset
from diffusion.models.mask_dit import MaskDiT as MaskDiT, mask_dit_preset as mask_dit_preset
from diffusion.models.mdt import MDT as MDT, mdt_preset as mdt_preset
from diffusion.models.mit import MiT as MiT, imf_preset as imf_preset, pmf_preset as pmf_preset
from diffusion.models.mlp import MLP as MLP
from diffusion.models.pixnerd import PixNerd as PixNerd, pixnerd_preset as pixnerd_preset
from diffusion.models.residual_u_vit import ResidualUViT as ResidualUViT
from diffusion.models.sequence_transformer import SequenceTransformer as SequenceTransformer
from diffusion.models.set_transformer import SetTransformer as SetTransformer
from diffusion.models.song_unet import SongUNet as SongUNet
from diffusion.models.symbol_transformer import (
    SymbolTransformer as SymbolTransformer,
    symbol_transformer_preset as symbol_transformer_preset,
)
from diffusion.models.text_encoders import clip as clip, t5 as t5
from diffusion.models.u_vit import UViT as UViT
from diffusion.models.unet import UNet as UNet
from diffusion.models.video_dit import VideoDiT as VideoDiT, video_angles as video_angles, with_frames as with_frames
from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.models import (
        attachment as attachment,
        autoencoders as autoencoders,
        budget as budget,
        facts as facts,
        feature_heads as feature_heads,
        image_encoders as image_encoders,
        image_projections as image_projections,
        image_reward as image_reward,
        interchange as interchange,
        joint_image_projections as joint_image_projections,
        layers as layers,
        lpips as lpips,
        network_inputs as network_inputs,
        quantised as quantised,
        text_encoders as text_encoders,
        token_merging as token_merging,
    )
    from diffusion.models.other_libraries import NNX as NNX, Equinox as Equinox, Functions as Functions

MODELS = rooms.Entries(
    "network",
    "MODELS",
    {
        "ddt": DDT,
        "diffwave": DiffWave,
        "dit": DiT,
        "drifting": DriftingDiT,
        "edm2_unet": EDM2UNet,
        "frame_transformer": FrameTransformer,
        "jit": JiT,
        "mask_dit": MaskDiT,
        "mdt": MDT,
        "mit": MiT,
        "mlp": MLP,
        "pixnerd": PixNerd,
        "residual_u_vit": ResidualUViT,
        "sequence_transformer": SequenceTransformer,
        "set_transformer": SetTransformer,
        "song_unet": SongUNet,
        "u_vit": UViT,
        "unet": UNet,
        "video_dit": VideoDiT,
    },
)
"""The backbones, by their names in configs."""

__all__ = ["MODELS"]

ROOMS = {  # {a module that was here until 0.2: its place in diffusion.published}
    "cogvideox": "cogvideox.network",
    "conditional_unet": "stable_diffusion.network",
    "control_net": "stable_diffusion.control_net",
    "flux": "flux.network",
    "flux2": "flux2.network",
    "flux_control_net": "flux.control_net",
    "hunyuan_video": "hunyuan_video.network",
    "ltx_video": "ltx_video.network",
    "lumina2": "lumina2.network",
    "mmdit": "stable_diffusion_3.network",
    "mmdit_control_net": "stable_diffusion_3.control_net",
    "pixart": "pixart.network",
    "pixart_control_net": "pixart.control_net",
    "qwen_image": "qwen_image.network",
    "redux": "flux.redux",
    "sana": "sana.network",
    "t2i_adapter": "stable_diffusion.t2i_adapter",
    "wan": "wan.network",
    "z_image": "z_image.network",
}
public.moved({f"{__name__}.{old}": f"diffusion.published.{new}" for old, new in ROOMS.items()})

public.declare(
    __name__,
    elsewhere={
        "CogVideoX": "diffusion.published.cogvideox",
        "Flux": "diffusion.published.flux",
        "Flux2": "diffusion.published.flux2",
        "HunyuanVideo": "diffusion.published.hunyuan_video",
        "LTXVideo": "diffusion.published.ltx_video",
        "Lumina2": "diffusion.published.lumina2",
        "QwenImage": "diffusion.published.qwen_image",
        "Sana": "diffusion.published.sana",
        "ConditionalUNet": "diffusion.published.stable_diffusion",
        "MMDiT": "diffusion.published.stable_diffusion_3",
        "ZImage": "diffusion.published.z_image",
    },
)

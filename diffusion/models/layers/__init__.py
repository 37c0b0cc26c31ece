"""The layers of the backbones."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.models.layers import (
        activations as activations,
        approximator as approximator,
        attention as attention,
        attention_records as attention_records,
        attention_ring as attention_ring,
        attention_splash as attention_splash,
        attention_tangent as attention_tangent,
        bfloat16_products as bfloat16_products,
        bicubic as bicubic,
        block_features as block_features,
        block_reuse as block_reuse,
        blocks as blocks,
        choices as choices,
        clip_layers as clip_layers,
        condition_embedding as condition_embedding,
        conditions as conditions,
        constants as constants,
        convolutions as convolutions,
        cross_attention as cross_attention,
        dropout as dropout,
        embeddings as embeddings,
        extra_attention as extra_attention,
        fp8 as fp8,
        heads as heads,
        image_attention as image_attention,
        invariant_point_attention as invariant_point_attention,
        joint_blocks as joint_blocks,
        joint_conditions as joint_conditions,
        joint_stacks as joint_stacks,
        kept_patches as kept_patches,
        key_value_memory as key_value_memory,
        layer_masks as layer_masks,
        layout as layout,
        linear_attention as linear_attention,
        magnitude as magnitude,
        network_bases as network_bases,
        network_checks as network_checks,
        norms as norms,
        patches as patches,
        pixart_block as pixart_block,
        products as products,
        resampling as resampling,
        rotary as rotary,
        sandwich_blocks as sandwich_blocks,
        scan as scan,
        spatial_transformer as spatial_transformer,
        stacks as stacks,
        unet_inputs as unet_inputs,
        unet_levels as unet_levels,
        vision_layers as vision_layers,
        volumes as volumes,
        wide_attention as wide_attention,
    )

public.moved({f"{__name__}.single_stack": f"{__name__}.stacks"})

public.declare(__name__)

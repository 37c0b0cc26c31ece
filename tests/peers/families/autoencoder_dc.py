"""Diffusers' AutoencoderDC: small networks with what they put out, and the published sizes."""

import diffusers
from diffusers.loaders.single_file_utils import convert_autoencoder_dc_checkpoint_to_diffusers
from diffusers.models.autoencoders.autoencoder_dc import DCDownBlock2d, DCUpBlock2d, EfficientViTBlock

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.translated import Translated, under

RES, VIT = "ResBlock", "EfficientViTBlock"


def run(module, inputs):
    """The latent of a picture, and the picture of a latent."""
    encoded = module.encode(first(inputs["x"])).latent
    return {"encoded": last(encoded), "decoded": last(module.decode(first(inputs["z"])).sample)}


def dc_ae(widths, encoder_layers, decoder_layers, blocks, scales, norms, activations, **options):
    """An autoencoder whose encoder and decoder have the same levels."""
    return diffusers.AutoencoderDC(
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=encoder_layers,
        decoder_layers_per_block=decoder_layers,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        decoder_norm_types=norms,
        decoder_act_fns=activations,
        **options,
    )


def paper(levels, latent_channels):
    """The paper's own: nothing at the picture's side, batch norms at the first levels of the decoder."""
    wide = levels - 3
    return dc_ae(
        (128, 256, 512, 512, 1024, 1024, 2048)[:levels],
        (0, 4, 8) + (2,) * wide,
        (0, 5, 10) + (2,) * wide,
        (RES,) * 3 + (VIT,) * wide,
        ((),) * levels,
        ("batch_norm",) * 3 + ("rms_norm",) * wide,
        ("relu",) * 3 + ("silu",) * wide,
        latent_channels=latent_channels,
    )


def sana():
    """Sana's."""
    return dc_ae(
        (128, 256, 512, 512, 1024, 1024),
        (2, 2, 2, 3, 3, 3),
        (3,) * 6,
        (RES,) * 3 + (VIT,) * 3,
        ((),) * 3 + ((5,),) * 3,
        ("rms_norm",) * 6,
        ("silu",) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


def original_names(network):
    """Names and shapes as mit-han-lab/efficientvit has them, models/efficientvit/dc_ae.py and models/nn/ops.py."""
    shapes = {}

    def add(name, module):
        shapes.update(under(name, {leaf: tuple(tensor.shape) for leaf, tensor in module.state_dict().items()}))

    def op(name, block):
        if isinstance(block, EfficientViTBlock):
            attention, local = block.attn, block.conv_out
            width = attention.to_q.in_features
            shapes[f"{name}.context_module.main.qkv.conv.weight"] = (3 * width, width, 1, 1)
            for i, scale in enumerate(attention.to_qkv_multiscale):
                add(f"{name}.context_module.main.aggreg.{i}.0", scale.proj_in)
                add(f"{name}.context_module.main.aggreg.{i}.1", scale.proj_out)
            shapes[f"{name}.context_module.main.proj.conv.weight"] = (*attention.to_out.weight.shape, 1, 1)
            add(f"{name}.context_module.main.proj.norm", attention.norm_out)
            for part in ("inverted", "depth", "point"):
                add(f"{name}.local_module.main.{part}_conv.conv", getattr(local, f"conv_{part}"))
            add(f"{name}.local_module.main.point_conv.norm", local.norm)
        elif isinstance(block, (DCDownBlock2d, DCUpBlock2d)):
            # ConvLayer itself where it strides, else a ConvLayer within the layer that shuffles or interpolates
            strides = isinstance(block, DCDownBlock2d) and not block.downsample
            add(f"{name}.main.conv" if strides else f"{name}.main.conv.conv", block.conv)
        else:
            add(f"{name}.main.conv1.conv", block.conv1)
            add(f"{name}.main.conv2.conv", block.conv2)
            add(f"{name}.main.conv2.norm", block.norm)

    encoder, decoder = network.encoder, network.decoder
    ends = lambda conv: ("conv.conv", conv.conv) if isinstance(conv, (DCDownBlock2d, DCUpBlock2d)) else ("conv", conv)
    name, conv = ends(encoder.conv_in)
    add(f"encoder.project_in.{name}", conv)
    add("encoder.project_out.main.op_list.0.conv", encoder.conv_out)
    add("decoder.project_in.main.conv", decoder.conv_in)
    add("decoder.project_out.op_list.0", decoder.norm_out)
    name, conv = ends(decoder.conv_out)
    add(f"decoder.project_out.op_list.2.{name}", conv)
    for side, stages in (("encoder", encoder.down_blocks), ("decoder", decoder.up_blocks)):
        for i, stage in enumerate(stages):
            for j, block in enumerate(stage):
                op(f"{side}.stages.{i}.op_list.{j}", block)
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


class Original(Translated):
    """An autoencoder under the names of its original repository, which diffusers translates."""

    def __init__(self, network):
        super().__init__(network, original_names(network), self.translate)

    def translate(self, left):
        counts = {
            name: tensor
            for name, tensor in self.networks[0].state_dict().items()
            if name.endswith("num_batches_tracked")
        }
        return convert_autoencoder_dc_checkpoint_to_diffusers(left) | counts

    def encode(self, x):
        return self.network().encode(x)

    def decode(self, z):
        return self.network().decode(z)


CASES = {
    # Sana's parts: strided convolutions, nearest neighbours, attention on neighbourhoods of 5 x 5
    "autoencoder_dc_sana": Case(
        lambda: dc_ae(
            (16, 32, 32),
            (1, 1, 2),
            (1, 2, 1),
            (RES, RES, VIT),
            ((), (), (5,)),
            ("rms_norm",) * 3,
            ("silu",) * 3,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            latent_channels=8,
            attention_head_dim=8,
            scaling_factor=0.41407,
        ),
        {"x": drawn("autoencoder_dc_sana x", 2, 16, 24, 3), "z": drawn("autoencoder_dc_sana z", 2, 3, 5, 8)},
        run,
    ),
    # the paper's: shuffles, level 0 without layers, batch norms, a latent of fewer pixels than a head has features
    "autoencoder_dc_paper": Case(
        lambda: dc_ae(
            (8, 16, 32),
            (0, 1, 1),
            (0, 1, 1),
            (RES, RES, VIT),
            ((), (), ()),
            ("batch_norm", "batch_norm", "rms_norm"),
            ("relu", "relu", "silu"),
            latent_channels=8,
            attention_head_dim=16,
        ),
        {"x": drawn("autoencoder_dc_paper x", 2, 16, 8, 3), "z": drawn("autoencoder_dc_paper z", 2, 2, 3, 8)},
        run,
        kept=("decoder.up_blocks.1.1.norm.num_batches_tracked",),
    ),
    "autoencoder_dc_original": Case(
        lambda: Original(
            dc_ae(
                (16, 32, 32),
                (1, 1, 1),
                (1, 1, 1),
                (RES, RES, VIT),
                ((), (), (5,)),
                ("rms_norm",) * 3,
                ("silu",) * 3,
                downsample_block_type="conv",
                upsample_block_type="interpolate",
                latent_channels=8,
                attention_head_dim=8,
            )
        ),
        {"x": drawn("autoencoder_dc_original x", 1, 8, 16, 3), "z": drawn("autoencoder_dc_original z", 1, 2, 3, 8)},
        run,
    ),
}
LISTINGS = {
    "autoencoder_dc_full_f32c32_sana": sana,
    "autoencoder_dc_full_f32c32": lambda: paper(6, 32),
    "autoencoder_dc_full_f64c128": lambda: paper(7, 128),
    "autoencoder_dc_full_original_sana": lambda: Original(sana()),
    "autoencoder_dc_full_original_f32c32": lambda: Original(paper(6, 32)),
}

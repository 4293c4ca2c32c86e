"""Stable Video Diffusion both ways: its U-Net taken apart into image backbone and temporal stack, and put together.

Its structure is that of a Video LDM with scalar alpha; frame rate, amount of motion and noise are told through the
time embedding, which in the backbone is a class embedding of the kind "projection".

The authors' code and this one add 1e-5 to variances in residual blocks; diffusers' class adds 1e-6 in some of its down
blocks and has no setting for it.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from drivesim.models.temporal_stack import TemporalStack
from drivesim.nn.temporal import sinusoidal

NORM_EPS = 1e-5
# Their names of what is inside a temporal layer, and ours, in this order.
_INSIDE = (
    (r"\.temporal_res_block\.", ".block."),
    (r"\.temporal_transformer_blocks\.", ".blocks."),
    (r"\.time_pos_embed\.linear_1\.", ".position.0."),
    (r"\.time_pos_embed\.linear_2\.", ".position.2."),
    (r"\.time_mixer\.mix_factor$", ".mix.logit"),
    (r"\.net\.0\.proj\.", ".proj_in."),
    (r"\.net\.2\.", ".proj_out."),
    (r"\.to_out\.0\.", ".to_out."),
)
_TEMPORAL = re.compile(r"\.(temporal_res_block|temporal_transformer_blocks|time_pos_embed|time_mixer)\.")
_KINDS = {"DownBlock2D": "DownBlockSpatioTemporal", "CrossAttnDownBlock2D": "CrossAttnDownBlockSpatioTemporal",
          "UpBlock2D": "UpBlockSpatioTemporal", "CrossAttnUpBlock2D": "CrossAttnUpBlockSpatioTemporal"}  # fmt: skip
_OF_KIND = {theirs: ours for ours, theirs in _KINDS.items()}


def added_time_waves(added_time_ids_BK: Tensor, dim: int = 256) -> Tensor:
    """What Stable Video Diffusion's time embedding is told besides the step, (B, K * dim), for `noise_level_B`.

    Args:
        added_time_ids_BK: frame rate - 1, amount of motion ("bucket"), deviation of the noise in the given frame.
        dim: `addition_time_embed_dim` of its config.
    """
    return sinusoidal(added_time_ids_BK.flatten(), dim).unflatten(0, added_time_ids_BK.shape).flatten(1)


def import_spatial(video: UNetSpatioTemporalConditionModel) -> UNet2DConditionModel:
    """The image backbone inside a Stable Video Diffusion U-Net, with copies of its weights."""
    backbone = _backbone_like(video.config)
    backbone.load_state_dict(_taken(video, backbone, is_temporal=False))
    return backbone.eval()


def import_temporal(video: UNetSpatioTemporalConditionModel) -> TemporalStack:
    """The temporal layers inside a Stable Video Diffusion U-Net, with copies of its weights.

    They fit its own backbone (`import_spatial`) and every other one of the same shape, such as Stable Diffusion 2's.
    """
    config = video.config
    with torch.device("meta"):
        backbone = _backbone_like(config)
    stack = TemporalStack.for_backbone(
        backbone,
        num_frames=config.num_frames,
        per_frame_alpha=False,
        cross_attention_dim=config.cross_attention_dim,
        norm_eps=NORM_EPS,
    )
    stack.load_state_dict(_taken(video, stack, is_temporal=True))
    return stack.eval()


@torch.no_grad()
def export_stable_video(backbone: UNet2DConditionModel, stack: TemporalStack) -> UNetSpatioTemporalConditionModel:
    """A Stable Video Diffusion U-Net with copies of a backbone's and a stack's weights.

    A backbone that is told nothing but the step gets an added embedding that is always zero.

    Raises:
        ValueError: parts that such a U-Net has no place for; names the setting, what it is and what it must be.
    """
    _check_exportable(backbone, stack)
    made_of = backbone.config
    told = made_of.class_embed_type == "projection"
    video = UNetSpatioTemporalConditionModel(
        sample_size=made_of.sample_size,
        in_channels=made_of.in_channels,
        out_channels=made_of.out_channels,
        block_out_channels=tuple(made_of.block_out_channels),
        down_block_types=tuple(_KINDS[kind] for kind in made_of.down_block_types),
        up_block_types=tuple(_KINDS[kind] for kind in made_of.up_block_types),
        layers_per_block=made_of.layers_per_block,
        transformer_layers_per_block=made_of.transformer_layers_per_block,
        cross_attention_dim=made_of.cross_attention_dim,
        num_attention_heads=tuple(stack.config.num_heads),
        num_frames=stack.config.num_frames,
        **({"projection_class_embeddings_input_dim": made_of.projection_class_embeddings_input_dim} if told else {}),
    )
    weights = {"backbone": backbone.state_dict(), "temporal": stack.state_dict()}
    for name, target in video.state_dict().items():
        part, ours = _our_name(name)
        if name.startswith("add_embedding.") and not told:
            target.zero_()
        else:
            target.copy_(weights[part][ours].view(target.shape))
    return video.eval()


def _backbone_like(config: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=tuple(config.block_out_channels),
        down_block_types=tuple(_OF_KIND[kind] for kind in config.down_block_types),
        up_block_types=tuple(_OF_KIND[kind] for kind in config.up_block_types),
        layers_per_block=config.layers_per_block,
        transformer_layers_per_block=config.transformer_layers_per_block,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.num_attention_heads,  # diffusers' name for the number of heads
        use_linear_projection=True,
        norm_eps=NORM_EPS,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=config.projection_class_embeddings_input_dim,
    )


def _our_name(theirs: str) -> tuple[str, str]:
    """(backbone or temporal, the name there) of a tensor of Stable Video Diffusion's U-Net."""
    if not _TEMPORAL.search(theirs):
        plain = theirs.replace(".spatial_res_block.", ".")
        return "backbone", re.sub(r"^add_embedding\.", "class_embedding.", plain)
    for pattern, ours in _INSIDE:
        theirs = re.sub(pattern, ours, theirs)
    return "temporal", theirs


def _taken(video: nn.Module, into: nn.Module, *, is_temporal: bool) -> dict[str, Tensor]:
    """The weights of one part in our names and shapes."""
    shapes = {name: tensor.shape for name, tensor in into.state_dict().items()}
    named = {_our_name(name): tensor for name, tensor in video.state_dict().items()}
    wanted = "temporal" if is_temporal else "backbone"
    return {name: tensor.view(shapes[name]) for (part, name), tensor in named.items() if part == wanted}


def _check_exportable(backbone: UNet2DConditionModel, stack: TemporalStack) -> None:
    made_of, temporal = backbone.config, stack.config
    told = made_of.class_embed_type
    facts = [
        ("backbone: class_embed_type", told, told if told in (None, "projection") else "None or projection"),
        ("backbone: num_class_embeds", made_of.num_class_embeds, None),
        ("backbone: only_cross_attention", _any(made_of.only_cross_attention), False),
        ("backbone: norm_num_groups", made_of.norm_num_groups, 32),
        ("stack: per_frame_alpha", temporal.per_frame_alpha, False),
        ("stack: context_in_channels", temporal.context_in_channels, 0),
        ("stack: context_noise", temporal.context_noise, 0),
        ("stack: cross_attention_dim", temporal.cross_attention_dim, made_of.cross_attention_dim),
        ("stack: feed_forward_mult", temporal.feed_forward_mult, 4),
        ("stack: time_kernel", temporal.time_kernel, 3),
        ("stack: ego_motion", temporal.ego_motion, False),
        ("stack: position_table", temporal.position_table, False),
    ]
    for name, found, needed in facts:
        if found != needed:
            raise ValueError(f"no Stable Video Diffusion U-Net: {name} is {found}, it must be {needed}")


def _any(value: Any) -> bool:
    return value if isinstance(value, bool) else any(value)

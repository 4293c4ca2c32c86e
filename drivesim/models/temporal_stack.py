"""The temporal layers of a Video LDM as a component of their own, apart from the image backbone.

The stack mirrors the block tree of a `UNet2DConditionModel` and knows nothing of its weights: saved
alone, it can be moved to any backbone of the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from drivesim.nn.temporal import (
    Mix,
    MotionEmbedding,
    NoiseLevelEmbedding,
    ProjectedTokens,
    TemporalResBlock,
    TemporalTransformerBlock,
    from_time_view,
    near_frames,
    positions_at_once,
    sinusoidal,
    to_time_view,
)


class TemporalResLayer(nn.Module):
    """What follows one spatial residual block: context, temporal residual block, mix."""

    def __init__(self, channels: int, config: dict[str, Any]):
        super().__init__()
        context_channels = config["context_channels"] if config["context_in_channels"] else 0
        self.context_conv = (
            nn.Conv2d(config["context_in_channels"], context_channels, 3, padding=1) if context_channels else None
        )
        self.block = TemporalResBlock(
            channels,
            config["time_embed_dim"],
            groups=config["norm_num_groups"],
            context_channels=context_channels,
            context_shortcut=config["context_shortcut"],
            time_kernel=config["time_kernel"],
            eps=config["norm_eps"],
        )
        self.mix = Mix(config["num_alphas"])

    def forward(self, h_NCHW: Tensor, time_embed_BTD: Tensor, context_NCHW: Tensor | None) -> Tensor:
        """`(B T) C H W` -> `(B T) C H W`."""
        num_frames = time_embed_BTD.shape[1]
        context = None
        if self.context_conv is not None:
            assert context_NCHW is not None, "this temporal stack was built with context: given frames are needed"
            resized = F.interpolate(context_NCHW, size=h_NCHW.shape[2:], mode="area")
            context = to_time_view(self.context_conv(resized), num_frames)
        change = from_time_view(self.block(to_time_view(h_NCHW, num_frames), time_embed_BTD, context), h_NCHW)
        video_shape = (-1, num_frames)
        return self.mix.add(h_NCHW.unflatten(0, video_shape), change.unflatten(0, video_shape)).flatten(0, 1)  # type: ignore[no-any-return]


class TemporalAttentionLayer(nn.Module):
    """What follows the blocks of one spatial transformer: frame positions, attention over time, mix."""

    def __init__(self, channels: int, heads: int, config: dict[str, Any], cross_attention_dim: int | None):
        super().__init__()
        self.channels = channels
        self.window = config["num_frames"]
        self.position, self.position_table = None, None
        if config["position_table"]:
            self.position_table = nn.Parameter(torch.zeros(config["num_frames"], channels))
        else:
            wide = 4 * channels
            self.position = nn.Sequential(nn.Linear(channels, wide), nn.SiLU(), nn.Linear(wide, channels))
        self.blocks = nn.ModuleList(
            TemporalTransformerBlock(
                channels, heads, context_dim=cross_attention_dim, feed_forward_mult=config["feed_forward_mult"]
            )
            for _ in range(config["layers"])
        )
        self.mix = Mix(config["num_alphas"])

    def positions(self, num_frames: int, like: Tensor) -> Tensor:
        """(1, T, 1, C) embedding of the frame index."""
        if self.position is None:
            assert self.position_table is not None and num_frames <= len(self.position_table)
            return self.position_table[None, :num_frames, None]
        index = torch.arange(num_frames, device=like.device)
        embedding: Tensor = self.position(sinusoidal(index, self.channels).to(like.dtype))
        return embedding[None, :, None]

    def forward(self, index: int, h_BTPC: Tensor, positions: Tensor, tokens: ProjectedTokens | None) -> Tensor:
        """Output of spatial transformer block `index`, mixed with what attention over time makes of it.

        `tokens` are what block `index` sees (its `projected`).
        """
        block: Any = self.blocks[index]
        near = near_frames(h_BTPC.shape[1], self.window, h_BTPC.device)
        size, num_positions = positions_at_once(h_BTPC), h_BTPC.shape[2]

        def mixed(portion_BTPC: Tensor) -> Tensor:
            return self.mix(portion_BTPC, block(portion_BTPC + positions, tokens, near))  # type: ignore[no-any-return]

        if torch.is_grad_enabled() or size >= num_positions:
            return torch.cat([mixed(portion) for portion in h_BTPC.split(size, dim=2)], dim=2)
        out_BTPC = torch.empty_like(h_BTPC)
        for portion, out in zip(h_BTPC.split(size, dim=2), out_BTPC.split(size, dim=2), strict=True):
            out.copy_(mixed(portion))
        return out_BTPC


class TemporalBlock(nn.Module):
    """The temporal layers of one U-Net block: one a residual block, one a spatial transformer."""

    def __init__(self, resnets: Sequence[nn.Module], attentions: Sequence[nn.Module]):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)


class TemporalStack(ModelMixin, ConfigMixin):
    """All temporal layers of a Video LDM.

    Args:
        block_out_channels: channels of the backbone's blocks, top to bottom.
        layers_per_block: residual blocks of each down block; up blocks have one more.
        attention_blocks: whether the down block of that level has spatial transformers.
        num_heads: attention heads of each level.
        transformer_layers: spatial transformer blocks of each level's transformers.
        time_embed_dim: width of the backbone's time embedding.
        norm_num_groups: groups of the backbone's group norms.
        num_frames: frames the stack is trained on. In longer clips, which one alpha for all frames allows, frames see
            those at most as many frames away.
        per_frame_alpha: one alpha for each frame index (driving); False = one for all (text-to-video).
        context_in_channels: channels of the given frames and their mask; 0 = no context.
        context_channels: channels that the context is convolved to.
        cross_attention_dim: width of tokens that attention over time sees; None = none.
        feed_forward_mult: width of the temporal feed-forward layers.
        hold_context: whether frames that are not given see the last given one before them or, between two, both mixed;
            False = zeros. Kept for those who make the context.
        context_noise: the largest diffusion step that given frames may be noised to; above 0 the stack is told
            the step.
        time_kernel: frames that a temporal convolution sees; 1 = attention alone sees other frames.
        ego_motion: whether the stack is told how the ego car drives.
        view_fov_deg: the camera's horizontal field of view, by which the held given frame is moved along with an ego
            car whose motion is known (`conditioning.moved_frames`); 0 = it stays. Kept for those who make the context.
        spatial: how the backbone's weights came to be, a value of `SpatialLayers`; anything but "frozen" means that
            they belong to this stack and are no image model any more. Kept for those who use the backbone alone.
        position_table: whether embeddings of frame positions are learned numbers; False = layers make them.
        norm_eps: what the residual blocks' norms add to a variance.
        context_shortcut: whether the context also goes past the residual blocks' convolutions (text-to-video
            upscaler, and interpolations that are built so).
        still_below: how far apart given latents are below which frames between them are rather their mix
            (`conditioning.given_frames.kept_still`); 0 = never. Kept for those who sample.
    """

    _supports_gradient_checkpointing = False
    # Parts of the names of weights that begin without effect: a stack without them is a beginning too.
    may_be_fresh = ("noise_embed.", "motion_embed.", ".block.shortcut.")

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...],
        layers_per_block: tuple[int, ...],
        attention_blocks: tuple[bool, ...],
        num_heads: tuple[int, ...],
        transformer_layers: tuple[int, ...],
        time_embed_dim: int,
        norm_num_groups: int = 32,
        num_frames: int = 10,
        per_frame_alpha: bool = True,
        context_in_channels: int = 0,
        context_channels: int = 128,
        cross_attention_dim: int | None = None,
        feed_forward_mult: int = 4,
        hold_context: bool = False,
        context_noise: int = 0,
        time_kernel: int = 3,
        spatial: str = "frozen",
        position_table: bool = False,
        norm_eps: float = 1e-6,
        context_shortcut: bool = False,
        ego_motion: bool = False,
        view_fov_deg: float = 0.0,
        still_below: float = 0.0,
    ):
        super().__init__()
        self.noise_embed = NoiseLevelEmbedding(time_embed_dim) if context_noise else None
        self.motion_embed = MotionEmbedding(time_embed_dim) if ego_motion else None
        shared = dict(self.config) | {"num_alphas": num_frames if per_frame_alpha else 1}

        def block(level: int, num_resnets: int, num_attentions: int) -> TemporalBlock:
            channels = block_out_channels[level]
            config = shared | {"layers": transformer_layers[level]}
            return TemporalBlock(
                [TemporalResLayer(channels, config) for _ in range(num_resnets)],
                [
                    TemporalAttentionLayer(channels, num_heads[level], config, cross_attention_dim)
                    for _ in range(num_attentions)
                ],
            )

        levels = range(len(block_out_channels))
        depth = layers_per_block
        self.down_blocks = nn.ModuleList(block(i, depth[i], depth[i] if attention_blocks[i] else 0) for i in levels)
        self.mid_block = block(levels[-1], 2, 1)
        self.up_blocks = nn.ModuleList(
            block(i, depth[i] + 1, depth[i] + 1 if attention_blocks[i] else 0) for i in reversed(levels)
        )

    @classmethod
    def for_backbone(cls, backbone: UNet2DConditionModel, **settings: Any) -> TemporalStack:
        """The stack that fits a backbone.

        Args:
            backbone: whose block tree it mirrors.
            settings: those of the class that do not follow from the backbone.

        Raises:
            ValueError: a block type without a temporal counterpart.
        """
        config = backbone.config
        known = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
        unknown = set(config.down_block_types) - set(known)
        if unknown or config.mid_block_type != "UNetMidBlock2DCrossAttn":
            raise ValueError(
                f"no temporal layers for blocks {sorted(unknown) or config.mid_block_type}; known: {sorted(known)}, "
                "UNetMidBlock2DCrossAttn"
            )
        levels = len(config.block_out_channels)

        def each_level(value: int | Sequence[int]) -> tuple[int, ...]:
            return (value,) * levels if isinstance(value, int) else tuple(value)

        return cls(
            block_out_channels=tuple(config.block_out_channels),
            layers_per_block=each_level(config.layers_per_block),
            attention_blocks=tuple(known[name] for name in config.down_block_types),
            # diffusers' attention_head_dim is, for historical reasons, the number of heads.
            num_heads=each_level(config.num_attention_heads or config.attention_head_dim),
            transformer_layers=each_level(config.transformer_layers_per_block),
            time_embed_dim=backbone.time_embedding.linear_2.out_features,
            norm_num_groups=math.gcd(config.norm_num_groups, 32),
            **settings,
        )

    def shape(self) -> dict[str, Any]:
        """What another stack of the same layers is built with."""
        return {key: value for key, value in self.config.items() if not key.startswith("_")}

    @torch.no_grad()
    def with_position_table(self) -> TemporalStack:
        """The same layers on the CPU, in float32, with the embeddings of `num_frames` frame positions as numbers.

        It computes the same for clips of up to that length, and is smaller by the layers that made the embeddings.
        """
        folded = TemporalStack(**self.shape() | {"position_table": True})
        weights = {name: w.float().cpu() for name, w in self.state_dict().items() if ".position." not in name}
        for name, layer in self.named_modules():
            if isinstance(layer, TemporalAttentionLayer):
                like = torch.zeros(1, device=self.device, dtype=self.dtype)
                table_TC = layer.positions(self.config.num_frames, like)[0, :, 0]
                weights[f"{name}.position_table"] = table_TC.float().cpu()
        folded.load_state_dict(weights)
        return folded

    def set_alpha(self, value: float) -> None:
        """Sets every alpha; 1.0 makes the video model the image model exactly."""
        for module in self.modules():
            if isinstance(module, Mix):
                module.set_alpha(value)

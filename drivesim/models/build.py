"""Fresh networks from typed configs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import torch
from diffusers import UNet2DConditionModel as UNet2DConditionModel

from drivesim.models.autoencoder import Autoencoder, AutoencoderKL, VQModel
from drivesim.models.temporal_stack import TemporalStack


class AutoencoderKind(str, Enum):
    """What keeps latents in bounds."""

    KL = "kl"  # a small pull towards a standard normal
    VQ = "vq"  # the decoder sees the nearest entries of a learned codebook


@dataclass(kw_only=True, slots=True)
class AutoencoderConfig:
    """Image autoencoder; its downsampling factor is 2 ** (levels - 1)."""

    kind: AutoencoderKind = AutoencoderKind.KL  # what keeps latents in bounds
    codebook_size: int = 16384  # entries; read by kind vq
    attention_at_last_level: bool = False  # self-attention in the blocks of the smallest resolution, not in the middle
    block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 256, 512])  # top to bottom
    layers_per_block: int = 2  # residual blocks of a level
    latent_channels: int = 4  # channels of a latent
    norm_num_groups: int = 32  # groups of the group norms


def make_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """A fresh `AutoencoderKL` or `VQModel`."""
    plain = len(config.block_out_channels) - 1
    last = "Attn" if config.attention_at_last_level else ""
    shared = {
        "block_out_channels": tuple(config.block_out_channels),
        "down_block_types": ("DownEncoderBlock2D",) * plain + (f"{last}DownEncoderBlock2D",),
        "up_block_types": (f"{last}UpDecoderBlock2D",) + ("UpDecoderBlock2D",) * plain,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_num_groups,
        "scaling_factor": 1.0,
    }
    if AutoencoderKind(config.kind) is AutoencoderKind.VQ:
        return VQModel(num_vq_embeddings=config.codebook_size, **shared)
    return AutoencoderKL(shift_factor=0.0, **shared)


@dataclass(kw_only=True, slots=True)
class BackboneConfig:
    """Image U-Net."""

    block_out_channels: list[int] = field(default_factory=lambda: [224, 448, 448, 672, 896])  # top to bottom
    attention: list[bool] = field(default_factory=lambda: [False, True, True, True, False])  # which levels have it
    layers_per_block: int = 4  # residual blocks of a level
    channels_per_head: int = 32  # width of an attention head
    norm_num_groups: int = 32  # groups of the group norms
    token_dim: int = 256  # width of conditioning tokens


def make_backbone(
    config: BackboneConfig,
    latent_channels: int,
    latent_hw: tuple[int, int],
    extra_channels: int = 0,
    *,
    num_levels: int | None = None,
) -> UNet2DConditionModel:
    """A fresh `UNet2DConditionModel`.

    Args:
        config: its size.
        latent_channels: channels that it denoises.
        latent_hw: height and width of a latent picture.
        extra_channels: channels that the conditioner appends to its input.
        num_levels: noise levels of a small picture in its input, of which it is told one; None = it is told none.

    Raises:
        ValueError: latents that the number of levels cannot halve.
    """
    levels = len(config.block_out_channels)
    if len(config.attention) != levels:
        raise ValueError(f"backbone: {len(config.attention)} entries in attention for {levels} block_out_channels")
    if any(side % 2 ** (levels - 1) for side in latent_hw):
        raise ValueError(f"backbone: latents of {latent_hw} cannot be halved {levels - 1} times; use fewer levels")
    down = tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in config.attention)
    up = tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(config.attention))
    return UNet2DConditionModel(
        sample_size=latent_hw,
        in_channels=latent_channels + extra_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(config.block_out_channels),
        down_block_types=down,
        up_block_types=up,
        layers_per_block=config.layers_per_block,
        attention_head_dim=tuple(c // config.channels_per_head for c in config.block_out_channels),
        norm_num_groups=config.norm_num_groups,
        cross_attention_dim=config.token_dim,
        num_class_embeds=num_levels,
    )


class SpatialLayers(str, Enum):
    """What the training of the temporal layers does with the image layers."""

    FROZEN = "frozen"  # they stay the image model's, as in the paper
    TUNED = "tuned"  # they begin as the image model's and are trained, too
    SCRATCH = "scratch"  # fresh weights of the same shape: the paper's comparison

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Parts that are trained beside the temporal layers."""
        return () if self is SpatialLayers.FROZEN else ("backbone", "conditioner")


@dataclass(kw_only=True, slots=True)
class TemporalConfig:
    """Temporal layers (Table 8)."""

    num_frames: int = 10  # frames of one call
    per_frame_alpha: bool = True  # one alpha a frame index; False = one for all frames
    context_channels: int = 128  # channels that given frames are convolved to
    feed_forward_mult: int = 4  # width of the temporal feed-forward layers
    hold_context: bool = False  # later frames see the last given one, as in Stable Video Diffusion; False = zeros
    context_noise: int = 0  # given frames are noised to diffusion steps up to this, and the step is told; 0 = clean
    time_kernel: int = 3  # frames that a temporal convolution sees; 1 = attention alone sees other frames
    ego_motion: bool = False  # the layers are told speed and yaw rate of the ego car, which a rollout may then ask for
    # horizontal degrees that the camera sees: the held given frame is moved along with the ego car; 0 = it stays
    view_fov_deg: float = 0.0
    spatial: SpatialLayers = SpatialLayers.FROZEN  # what becomes of the image layers

    def __post_init__(self) -> None:
        """Refuses what cannot be built."""
        if self.time_kernel < 1 or self.time_kernel % 2 == 0:
            raise ValueError(f"temporal.time_kernel is {self.time_kernel}; it must be an odd number, such as 1 or 3")
        if not 0 <= self.view_fov_deg < 180:
            raise ValueError(f"temporal.view_fov_deg is {self.view_fov_deg}; it must be from 0 up to 180")
        if self.view_fov_deg and not (self.ego_motion and self.hold_context):
            raise ValueError(
                f"temporal.view_fov_deg is {self.view_fov_deg}: the held frame moves with an ego car whose motion is "
                "told; that takes temporal.hold_context and temporal.ego_motion, too"
            )


@dataclass(kw_only=True, slots=True)
class InterpolationConfig:
    """Temporal layers that fill in frames between two given ones (Table 8)."""

    num_frames: int = 5  # frames of one call: two given ones and those between
    rates: list[float] = field(default_factory=lambda: [7.5, 30.0])  # frames a second after each pass of one model
    label_dim: int = 512  # width of the token that tells the rate
    context_channels: int = 128  # channels that given frames are convolved to
    feed_forward_mult: int = 4  # width of the temporal feed-forward layers
    hold_context: bool = False  # frames between see both given ones, mixed by how near they are; False = zeros
    context_shortcut: bool = False  # given frames also go past the temporal residual blocks' convolutions
    # where given latents are nearer than this, in standard deviations, frames between are rather their mix; 0 = nowhere
    still_below: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what cannot be sampled."""
        if not 0 <= self.still_below < math.inf:
            raise ValueError(f"interpolation.still_below is {self.still_below}; it must be a number from 0 up")

    def check(self, key_fps: float) -> None:
        """Raises ValueError when the passes do not lead from one rate to the next."""
        check_rates(self.num_frames, self.rates, key_fps)


def check_rates(num_frames: int, rates: list[float], key_fps: float) -> None:
    """Raises ValueError when passes of an interpolation of so many frames do not lead from one rate to the next."""
    if num_frames < 3:
        raise ValueError(f"interpolation.num_frames={num_frames}; at least 3 are needed to fill one in")
    factor = num_frames - 1
    wanted = [key_fps * factor ** (index + 1) for index in range(len(rates))]
    if not rates or any(abs(r - w) > 1e-6 * w for r, w in zip(rates, wanted, strict=True)):
        raise ValueError(
            f"interpolation.rates={rates}: {num_frames} frames a call make {factor} times the rate, "
            f"so from fps={key_fps:g} they must be {wanted or [key_fps * factor]}"
        )


@torch.no_grad()
def widened_input(backbone: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy whose input has also given latents and their mask; at first it does not look at them (Table 8)."""
    extra = backbone.config.out_channels + 1
    unet: UNet2DConditionModel = UNet2DConditionModel.from_config(
        backbone.config, in_channels=backbone.config.in_channels + extra
    )
    weights = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    known = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([known, known.new_zeros(len(known), extra, *known.shape[2:])], dim=1)
    unet.load_state_dict(weights, assign=True)
    return unet.requires_grad_(True)


def make_interpolation_stack(config: InterpolationConfig, backbone: UNet2DConditionModel) -> TemporalStack:
    """Fresh temporal layers that see both ends of a clip and a token for its rate."""
    return TemporalStack.for_backbone(
        backbone,
        num_frames=config.num_frames,
        per_frame_alpha=True,
        context_in_channels=backbone.config.out_channels + 1,
        context_channels=config.context_channels,
        cross_attention_dim=config.label_dim,
        feed_forward_mult=config.feed_forward_mult,
        hold_context=config.hold_context,
        context_shortcut=config.context_shortcut,
        still_below=config.still_below,
    )


def make_temporal_stack(config: TemporalConfig, backbone: UNet2DConditionModel) -> TemporalStack:
    """Fresh temporal layers for a backbone, with context from given frames."""
    return TemporalStack.for_backbone(
        backbone,
        num_frames=config.num_frames,
        per_frame_alpha=config.per_frame_alpha,
        context_in_channels=backbone.config.out_channels + 1,
        context_channels=config.context_channels,
        feed_forward_mult=config.feed_forward_mult,
        hold_context=config.hold_context,
        context_noise=config.context_noise,
        time_kernel=config.time_kernel,
        ego_motion=config.ego_motion,
        view_fov_deg=config.view_fov_deg,
        spatial=SpatialLayers(config.spatial).value,
    )

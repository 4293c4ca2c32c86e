"""The video decoder: an image autoencoder's decoder with layers over time, from latents to frames that do not flicker.

The encoder stays the image autoencoder's, frame by frame, so image and video models share their latents (§3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder, VectorQuantizer
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from drivesim.models.autoencoder import Autoencoder, VQModel
from drivesim.models.picture_decoding import layers_of
from drivesim.nn.temporal import Mix
from drivesim.nn.video_convolution import Cut, VideoConvLayer


@dataclass(kw_only=True, slots=True)
class VideoDecoderConfig:
    """Layers over time in the decoder, and the clips that they are trained on."""

    levels: list[bool] = field(default_factory=list)  # the middle, then low to high resolution; [] = all have layers
    num_convolutions: int = 1  # of the layer after each residual block; each lets a frame see one more on both sides
    num_frames: int = 6  # of a training clip
    fps: float = 30.0  # frames a second of training clips


class VideoDecoder(ModelMixin, ConfigMixin):
    """A decoder of its own, quantisation included, with a layer over time after each spatial residual block.

    Args:
        latent_channels: channels of a latent.
        out_channels: channels of a picture.
        up_block_types: diffusers' names, low to high resolution.
        block_out_channels: channels of the levels, high to low resolution.
        layers_per_block: residual blocks of a level, less one.
        norm_num_groups: groups of the group norms.
        act_fn: activation of the spatial blocks.
        mid_block_add_attention: whether the middle has self-attention.
        use_post_quant_conv: whether latents go through a 1 x 1 convolution first.
        codebook_size: entries of a VQ autoencoder's codebook; None = latents are decoded as they are.
        codebook_dim: width of an entry; None = latent_channels.
        scaling_factor: what the autoencoder's latents were multiplied by.
        shift_factor: what was taken off them before.
        temporal_levels: whether the middle, and each level from low to high resolution, has layers over time.
        num_convolutions: convolutions over time and space of each such layer.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        up_block_types: tuple[str, ...],
        block_out_channels: tuple[int, ...],
        layers_per_block: int,
        temporal_levels: tuple[bool, ...],
        num_convolutions: int = 1,
        out_channels: int = 3,
        norm_num_groups: int = 32,
        act_fn: str = "silu",
        mid_block_add_attention: bool = True,
        use_post_quant_conv: bool = True,
        codebook_size: int | None = None,
        codebook_dim: int | None = None,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ):
        super().__init__()
        width = codebook_dim or latent_channels
        self.quantize = VectorQuantizer(codebook_size, width, beta=0.25) if codebook_size else None
        self.post_quant_conv = nn.Conv2d(width, latent_channels, 1) if use_post_quant_conv else None
        self.decoder = Decoder(
            in_channels=latent_channels,
            out_channels=out_channels,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            act_fn=act_fn,
            mid_block_add_attention=mid_block_add_attention,
        )
        channels = (block_out_channels[-1], *reversed(block_out_channels))
        depths = (2, *(layers_per_block + 1 for _ in block_out_channels))
        self.temporal = nn.ModuleList(
            nn.ModuleList(
                VideoConvLayer(width, num_convolutions, norm_num_groups) for _ in range(depth if is_here else 0)
            )
            for is_here, width, depth in zip(temporal_levels, channels, depths, strict=True)
        )

    @classmethod
    def for_autoencoder(cls, autoencoder: Autoencoder, config: VideoDecoderConfig) -> VideoDecoder:
        """A video decoder that starts as the autoencoder's own decoder and takes the same scaled latents.

        Raises:
            ValueError: `levels` of another number than the autoencoder's, or a decoder whose norms see the latents.
        """
        made_of = autoencoder.config
        num_levels = len(made_of.block_out_channels)
        levels = tuple(config.levels) or (True,) * (num_levels + 1)
        if len(levels) != num_levels + 1:
            raise ValueError(
                f"video_decoder.levels has {len(levels)} entries; expected {num_levels + 1}: the middle, then the "
                f"{num_levels} levels of block_out_channels={list(made_of.block_out_channels)} from the last one up"
            )
        if made_of.get("norm_type", "group") != "group":
            raise ValueError(f"a decoder with norm_type={made_of.norm_type!r} has no video decoder; valid: 'group'")
        shared = ("latent_channels", "out_channels", "layers_per_block", "norm_num_groups", "act_fn")
        decoder = cls(
            **{name: made_of[name] for name in shared},
            **_quantisation(autoencoder),
            up_block_types=tuple(made_of.up_block_types),
            block_out_channels=tuple(made_of.block_out_channels),
            mid_block_add_attention=made_of.mid_block_add_attention,
            scaling_factor=made_of.scaling_factor,
            shift_factor=made_of.get("shift_factor") or 0.0,
            temporal_levels=levels,
            num_convolutions=config.num_convolutions,
        )
        for name, part in decoder.spatial_parts().items():
            part.load_state_dict(getattr(autoencoder, name).state_dict())
        return decoder

    def spatial_parts(self) -> dict[str, nn.Module]:
        """The parts that are the image decoder's, by its names."""
        parts = {"quantize": self.quantize, "post_quant_conv": self.post_quant_conv, "decoder": self.decoder}
        return {name: part for name, part in parts.items() if part is not None}

    @cached_property
    def radius(self) -> int:
        """How many frames before and after a frame its picture depends on."""
        return sum(layer.radius for layer in self.modules() if isinstance(layer, VideoConvLayer))

    def set_alpha(self, value: float) -> None:
        """Sets every alpha; 1.0 makes the video decoder the image decoder exactly."""
        for module in self.modules():
            if isinstance(module, Mix):
                module.set_alpha(value)

    @torch.no_grad()
    def move_towards_image_decoder(self, autoencoder: Autoencoder, share: float) -> None:
        """Mixes the image decoder's weights in, the layers over time fade by as much; at 1 it is that decoder.

        Between the weights that were tuned and those that they were tuned from there are often better ones than either
        (WiSE-FT, Wortsman et al. 2021, arXiv 2109.01903).
        """
        for name, part in self.spatial_parts().items():
            theirs = getattr(autoencoder, name).state_dict()
            for key, weight in part.state_dict().items():
                if weight.is_floating_point():
                    weight.lerp_(theirs[key].to(weight), share)
        for layer in (module for module in self.modules() if isinstance(module, VideoConvLayer)):
            for parameter in layer.convs[-1].parameters():
                parameter.mul_(1 - share)

    def forward(self, latents_BTCHW: Tensor, lead: int = 0, trail: int = 0) -> Tensor:
        """Decodes clips.

        Args:
            latents_BTCHW: scaled latents.
            lead: frames at the start that are context alone: `radius`, or less where the video begins with the first.
            trail: the same at the end.

        Returns:
            Frames (B, T - lead - trail, 3, H, W), about in [-1, 1].
        """
        b = len(latents_BTCHW)
        h = self.unscaled(latents_BTCHW.flatten(0, 1))
        for layer, cut in self.layers(lead, trail):
            h = run_layer(layer, h, b, cut)
        return h.unflatten(0, (b, -1))

    def unscaled(self, latents_NCHW: Tensor) -> Tensor:
        """Scaled latents to what the first convolution takes: unscaled, and the nearest entries of a codebook."""
        h = latents_NCHW / self.config.scaling_factor + self.config.shift_factor
        if self.quantize is not None:
            h = self.quantize(h)[0]
        return h if self.post_quant_conv is None else self.post_quant_conv(h)

    def layers(self, lead: int, trail: int) -> Iterator[tuple[nn.Module, Cut]]:
        """All layers from the first convolution to the picture, in order.

        Beside each stands how many frames a layer over time leaves out at both ends, because no later layer sees them.
        """
        still_to_see = self.radius
        for layer in self._in_order():
            cut = (0, 0)
            if isinstance(layer, VideoConvLayer):
                still_to_see -= layer.radius
                cut = (max(0, lead - still_to_see), max(0, trail - still_to_see))
                lead, trail = lead - cut[0], trail - cut[1]
            yield layer, cut

    def _in_order(self) -> Iterator[nn.Module]:
        levels: Any = self.temporal
        temporal = [iter(level) for level in levels]
        for level, layer in layers_of(self.decoder):
            yield layer
            if isinstance(layer, ResnetBlock2D):
                yield from islice(temporal[level], 1)


def run_layer(layer: nn.Module, frames_NCHW: Tensor, num_clips: int, cut: Cut) -> Tensor:
    """A layer on the frames of clips, `(B T) C H W`; `cut` is for layers over time, the others see one frame each."""
    if isinstance(layer, VideoConvLayer):
        return layer(frames_NCHW.unflatten(0, (num_clips, -1)), cut).flatten(0, 1)  # type: ignore[no-any-return]
    if isinstance(layer, ResnetBlock2D):
        return layer(frames_NCHW, None)  # type: ignore[no-any-return] # there is no time embedding
    return layer(frames_NCHW)  # type: ignore[no-any-return]


def _quantisation(autoencoder: Autoencoder) -> dict[str, Any]:
    """Between latents and the decoder's first convolution."""
    if not isinstance(autoencoder, VQModel):
        return {"use_post_quant_conv": autoencoder.config.use_post_quant_conv}
    made_of = autoencoder.config
    return {"codebook_size": made_of.num_vq_embeddings, "codebook_dim": made_of.vq_embed_dim}

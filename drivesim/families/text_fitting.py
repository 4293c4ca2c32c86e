"""Whether the parts of a text-to-video model belong together, told from their configs before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from drivesim.families.text_parts import TextParts
from drivesim.models.autoencoder import downsampling
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.text_to_image import LOW_RES_COLOURS

Pair = tuple[str, Any, Any]  # what both sides state, and what each states


def check_text_fit(index: dict[str, Any], parts: TextParts) -> None:
    """Raises ValueError when parts of different models were put together; names both sides and their values.

    Args:
        index: what `text_parts.read_text_index` gives.
        parts: with or without weights.
    """
    name = index["name"]
    parts.image.check(f"model {name!r}: image")
    if parts.image.is_upscaler:
        raise ValueError(
            f"model {name!r}: image is an upscaler (it has a low_res_scheduler); needed is a text-to-image model"
        )
    if parts.upscaler is not None:
        if not parts.upscaler.is_upscaler:
            channels = parts.upscaler.unet.config.in_channels
            raise ValueError(
                f"model {name!r}: upscaler: {channels} in_channels and no low_res_scheduler; needed is one with "
                f"{parts.upscaler.unet.config.out_channels + LOW_RES_COLOURS} in_channels, which sees the small picture"
            )
        parts.upscaler.check(f"model {name!r}: upscaler")
    for what, one, other in _pairs(index, parts):
        if one != other:
            raise ValueError(f"model {name!r}: parts do not fit together: {what}: {one} and {other}")


def _pairs(index: dict[str, Any], parts: TextParts) -> Iterator[Pair]:
    text = parts.base_text.text_encoder.config.hidden_size
    yield from _temporal("temporal", parts.temporal, parts.image.unet, text)
    yield "context channels (temporal, key frames have none)", parts.temporal.config.context_in_channels, 0
    if parts.interpolation is not None:
        yield from _interpolation(index, parts, text)
    if parts.video_decoder is not None:
        yield from _video_decoder(index, parts)
    if parts.upscaler is not None and parts.upscaler_temporal is not None:
        width = parts.upscaler.text_encoder.config.hidden_size
        stack = parts.upscaler_temporal
        yield from _temporal("upscaler_temporal", stack, parts.upscaler.unet, width)
        channels = stack.config.context_in_channels
        yield "context channels (upscaler_temporal, a small picture)", channels, LOW_RES_COLOURS


def _temporal(name: str, stack: TemporalStack, backbone: UNet2DConditionModel, text: int) -> Iterator[Pair]:
    whose = "upscaler" if name.startswith("upscaler") else "image"
    with torch.device("meta"):
        shape = TemporalStack.for_backbone(backbone).config
    for key, what in (
        ("block_out_channels", "channels of the levels"),
        ("layers_per_block", "layers of the levels"),
        ("attention_blocks", "levels with attention"),
    ):
        yield f"{what} ({name}, {whose}'s unet)", list(stack.config[key]), list(shape[key])
    yield f"width of a text token ({name}, {whose}'s text encoder)", stack.config.cross_attention_dim, text


def _interpolation(index: dict[str, Any], parts: TextParts, text: int) -> Iterator[Pair]:
    unet, stack, label = parts.interpolation_unet, parts.interpolation, parts.rate_label
    assert unet is not None and stack is not None and label is not None
    channels = parts.image.vae.config.latent_channels
    wanted = 2 * channels + 1
    yield "channels of the input (interpolation_unet, noisy + given latents + mask)", unet.config.in_channels, wanted
    yield "channels of a latent (interpolation_unet, image's vae)", unet.config.out_channels, channels
    yield "width of a text token (interpolation_unet, text encoder)", unet.config.cross_attention_dim, text
    levels = list(unet.config.block_out_channels)
    stack_levels = list(stack.config.block_out_channels)
    yield "channels of the levels (interpolation, interpolation_unet)", stack_levels, levels
    yield "width of a text token (interpolation, text encoder)", stack.config.cross_attention_dim, text
    yield "width of a rate token (rate_label, interpolation)", label.config.dim, stack.config.cross_attention_dim
    rates = [round(float(rate), 6) for rate in index["rates"]]
    yield "number of rates (model index, rate_label)", len(rates), label.config.num_rates
    factor = stack.config.num_frames - 1
    made = [round(float(index["fps"]) * factor ** (number + 1), 6) for number in range(len(rates))]
    yield "rates (model index, fps and frames of a call)", rates, made


def _video_decoder(index: dict[str, Any], parts: TextParts) -> Iterator[Pair]:
    assert parts.video_decoder is not None
    vae, decoder = parts.image.vae.config, parts.video_decoder.config
    yield "channels of a latent (image's vae, video_decoder)", vae.latent_channels, decoder.latent_channels
    yield "scale of latents (image's vae, video_decoder)", vae.scaling_factor, decoder.scaling_factor
    yield "shift of latents (image's vae, video_decoder)", vae.get("shift_factor") or 0.0, decoder.shift_factor
    yield (
        "channels of the levels (image's vae, video_decoder)",
        list(vae.block_out_channels),
        list(decoder.block_out_channels),
    )
    if index.get("video_decoder"):  # made by a recipe, which says at which rate
        fps = float(index["rates"][-1] if index.get("rates") else index["fps"])
        trained_fps = float(index["video_decoder"]["fps"])
        yield "frames a second (rates or fps of the model index, video_decoder)", fps, trained_fps


def check_text_size(parts: TextParts, size_hw: Sequence[int], key_frames: int) -> None:
    """Raises ValueError for pictures or clips that the networks cannot make, with the nearest that they can.

    Args:
        parts: of the model.
        size_hw: height and width in pixels before upscaling.
        key_frames: of a clip.
    """
    if len(size_hw) != 2:
        raise ValueError(f"size_hw={list(size_hw)}: expected [height, width]")
    f = downsampling(parts.image.vae)
    levels = [len(parts.image.unet.config.block_out_channels)]
    if parts.interpolation_unet is not None:
        levels.append(len(parts.interpolation_unet.config.block_out_channels))
    by = f * 2 ** (max(levels) - 1)
    if parts.upscaler is not None:
        by = max(by, 2 ** (len(parts.upscaler.unet.config.block_out_channels) - 1))  # both are powers of two
    if any(side < 1 or side % by for side in size_hw):
        nearest = [max(by, round(side / by) * by) for side in size_hw]
        raise ValueError(f"size_hw={list(size_hw)}: height and width must divide by {by}; the nearest is {nearest}")
    if key_frames < 1:
        raise ValueError(f"key_frames={key_frames}; at least 1 is needed")
    own = parts.temporal.config.num_frames
    if parts.temporal.config.per_frame_alpha and key_frames != own:
        raise ValueError(f"key_frames={key_frames}: these temporal layers have one alpha a frame and make {own} alone")
    if parts.interpolation is not None and key_frames < 2:
        raise ValueError("key_frames=1: interpolation needs two; leave it out with stages.interpolate=false")

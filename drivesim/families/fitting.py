"""Whether the parts of a model folder belong together, told from their configs before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drivesim.families.upsample import UpsamplingModel
from drivesim.models.autoencoder import downsampling

Pair = tuple[str, Any, Any]  # what both sides state, and what each states


def check_fit(index: dict[str, Any], parts: dict[str, Any]) -> None:
    """Raises ValueError when parts of different models were put into one folder; names both sides and their values.

    Args:
        index: what `folder.read_index` gives.
        parts: what `folder.blank_parts` or `folder.load_parts` gives.
    """
    pairs = [*_backbone(index, parts), *_temporal("temporal", parts)]
    if "rates" in index:
        pairs += [*_temporal("interpolation", parts), *_rates(index, parts)]
    if "video_decoder" in index:
        pairs += _video_decoder(index, parts)
    for what, one, other in pairs:
        if one != other:
            raise ValueError(f"model {index['name']!r}: parts do not fit together: {what}: {one} and {other}")
    if "upsampler" in index:
        _check_upsampler(index, parts)


def _backbone(index: dict[str, Any], parts: dict[str, Any]) -> Iterator[Pair]:
    autoencoder, backbone, conditioner = (parts[name] for name in ("autoencoder", "backbone", "conditioner"))
    channels, f = autoencoder.config.latent_channels, downsampling(autoencoder)
    yield "channels of a latent (autoencoder, backbone)", channels, backbone.config.out_channels
    yield (
        "channels of the backbone's input (backbone, autoencoder + conditioner)",
        backbone.config.in_channels,
        channels + conditioner.num_channels,
    )
    latent_hw = [side // f for side in index["size_hw"]]
    yield "size of a latent (model index, backbone)", latent_hw, list(backbone.config.sample_size)
    yield "width of a token (conditioner, backbone)", conditioner.config.dim, backbone.config.cross_attention_dim


def _temporal(name: str, parts: dict[str, Any]) -> Iterator[Pair]:
    stack, backbone = parts[name].config, parts["backbone"].config
    wanted = parts["autoencoder"].config.latent_channels + 1
    yield f"context channels ({name}, autoencoder + mask)", stack.context_in_channels, wanted
    yield (
        f"channels of the levels ({name}, backbone)",
        list(stack.block_out_channels),
        list(backbone.block_out_channels),
    )


def _rates(index: dict[str, Any], parts: dict[str, Any]) -> Iterator[Pair]:
    stack, label = parts["interpolation"].config, parts["rate_label"].config
    rates = [round(float(rate), 6) for rate in index["rates"]]
    yield "width of a rate token (rate_label, interpolation)", label.dim, stack.cross_attention_dim
    yield "number of rates (model index, rate_label)", len(rates), label.num_rates
    factor = stack.num_frames - 1
    wanted = [round(float(index["fps"]) * factor ** (number + 1), 6) for number in range(len(rates))]
    yield "rates (model index, fps and frames of a call)", rates, wanted


def _video_decoder(index: dict[str, Any], parts: dict[str, Any]) -> Iterator[Pair]:
    autoencoder, decoder = parts["autoencoder"].config, parts["video_decoder"].config
    yield "channels of a latent (autoencoder, video_decoder)", autoencoder.latent_channels, decoder.latent_channels
    yield "scale of latents (autoencoder, video_decoder)", autoencoder.scaling_factor, decoder.scaling_factor
    shift = autoencoder.get("shift_factor") or 0.0
    yield "shift of latents (autoencoder, video_decoder)", shift, decoder.shift_factor
    yield (
        "channels of the levels (autoencoder, video_decoder)",
        list(autoencoder.block_out_channels),
        list(decoder.block_out_channels),
    )
    fps = float(index["rates"][-1] if index.get("rates") else index["fps"])
    trained_fps = float(index["video_decoder"]["fps"])
    yield "frames a second (rates or fps of the model index, video_decoder)", fps, trained_fps


def _check_upsampler(index: dict[str, Any], parts: dict[str, Any]) -> None:
    try:
        networks = UpsamplingModel.from_parts(parts, index).networks
        networks.check_low((index["size_hw"][0], index["size_hw"][1]))
    except ValueError as error:
        raise ValueError(f"model {index['name']!r}: parts do not fit together: {error}") from error

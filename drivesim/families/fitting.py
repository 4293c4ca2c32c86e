"""Whether the parts of a model folder belong together, told from their configs before any weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from drivesim.families.facts import LATENT_SCALE
from drivesim.families.upsample import UpsamplingModel
from drivesim.models.autoencoder import Autoencoder, downsampling, latent_scale
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_unet import OF_BACKBONE

SCALE_TOLERANCE = 1e-4  # relative, of the latents' shift and scale
NUM_GIVEN = 2  # key frames that a call is given, where a model's index says nothing
Pair = tuple[str, Any, Any]  # what both sides state, and what each states


def check_fit(index: dict[str, Any], parts: dict[str, Any]) -> None:
    """Raises ValueError when parts of different models were put into one folder; names both sides and their values.

    Args:
        index: what `folder.read_index` gives.
        parts: what `folder.blank_parts` or `folder.load_parts` gives.
    """
    _check_size(index, parts)
    check_latents(index, parts["autoencoder"])
    for what, one, other in _pairs(index, parts):
        if one != other:
            raise ValueError(f"model {index['name']!r}: parts do not fit together: {what}: {one} and {other}")
    given, frames = index.get("num_given", NUM_GIVEN), parts["temporal"].config.num_frames
    if not given < frames:
        raise ValueError(
            f"model {index['name']!r}: num_given={given} of the model index, but temporal makes {frames} frames a "
            f"call, the given ones among them; at most {frames - 1} can be given"
        )
    if "upsampler" in index:
        _check_upsampler(index, parts)


def check_latents(index: dict[str, Any], autoencoder: Autoencoder) -> None:
    """Raises ValueError for an autoencoder whose latents are scaled otherwise than those of the model's training.

    Args:
        index: a model's; one that does not say how they were scaled fits any.
        autoencoder: the one in the model.
    """
    own, trained = latent_scale(autoencoder), index.get(LATENT_SCALE)
    if trained is None:
        return
    if not all(math.isclose(a, b, rel_tol=SCALE_TOLERANCE, abs_tol=1e-9) for a, b in zip(own, trained, strict=True)):
        raise ValueError(
            f"model {index['name']!r}: parts do not fit together: shift and scale of latents (autoencoder, "
            f"{LATENT_SCALE} of the model index, which its networks were trained on): {list(own)} and {trained}"
        )


def _check_size(index: dict[str, Any], parts: dict[str, Any]) -> None:
    f, size_hw = downsampling(parts["autoencoder"]), index["size_hw"]
    if any(side % f for side in size_hw):
        nearest = [max(f, round(side / f) * f) for side in size_hw]
        raise ValueError(
            f"model {index['name']!r}: parts do not fit together: size_hw={size_hw} of the model index does not divide "
            f"by the autoencoder's {f} pixels a latent; the nearest is {nearest}"
        )


def _pairs(index: dict[str, Any], parts: dict[str, Any]) -> Iterator[Pair]:
    yield from _backbone(index, parts)
    yield from _temporal("temporal", parts)
    yield "width of a token (temporal, prediction has none)", parts["temporal"].config.cross_attention_dim, None
    if "rates" in index:
        yield from _temporal("interpolation", parts)
        yield from _rates(index, parts)
    if "video_decoder" in index:
        yield from _video_decoder(index, parts)
    if "upsampler" in index and "upsampler_temporal" in index:
        yield from _layers("upsampler_temporal", parts, "upsampler")


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
    wanted = parts["autoencoder"].config.latent_channels + 1
    yield f"context channels ({name}, autoencoder + mask)", parts[name].config.context_in_channels, wanted
    yield from _layers(name, parts, "backbone")


def _layers(name: str, parts: dict[str, Any], backbone: str) -> Iterator[Pair]:
    """What `VideoUNet` asks of temporal layers and the U-Net that they stand in."""
    try:
        with torch.device("meta"):
            shape = TemporalStack.for_backbone(parts[backbone]).config
    except ValueError as error:
        raise ValueError(f"parts do not fit together: {name} and {backbone}: {error}") from error
    for key, what in OF_BACKBONE.items():
        yield f"{what} ({name}, {backbone})", _plain(parts[name].config[key]), _plain(shape[key])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


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
    layers = (autoencoder.layers_per_block, decoder.layers_per_block)
    yield "layers of the levels (autoencoder, video_decoder)", *layers
    fps = float(index["rates"][-1] if index.get("rates") else index["fps"])
    trained_fps = float(index["video_decoder"]["fps"])
    yield "frames a second (rates or fps of the model index, video_decoder)", fps, trained_fps


def _check_upsampler(index: dict[str, Any], parts: dict[str, Any]) -> None:
    try:
        networks = UpsamplingModel.from_parts(parts, index).networks
        networks.check_low((index["size_hw"][0], index["size_hw"][1]))
    except ValueError as error:
        raise ValueError(f"model {index['name']!r}: parts do not fit together: {error}") from error

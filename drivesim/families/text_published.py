"""The paper's text-to-video model by its sizes alone: networks without weights, for plans and counts.

Sizes from Tables 6 and 8 and App. H, and from the config.json of the public checkpoints, Stable Diffusion 2.1 and the
x4 upscaler; what is left out are the classes' own defaults.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from drivesim.conditioning.rate_label import RateLabel
from drivesim.families.text_parts import TextParts
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.text_to_image import TextToImage
from drivesim.models.video_decoder import VideoDecoder, VideoDecoderConfig

NUM_TOKENS, TEXT_WIDTH = 77, 1024
INDEX: dict[str, Any] = {
    "family": "text",
    "name": "published",
    "fps": 1.875,
    "rates": [7.5, 30.0],
    "size_hw": [320, 512],
}
_CROSS_DOWN, _CROSS_UP = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
STABLE_DIFFUSION_2 = {
    "sample_size": 96, "cross_attention_dim": TEXT_WIDTH, "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip
X4_UPSCALER = {
    "sample_size": 128, "in_channels": 7, "block_out_channels": (256, 512, 512, 1024),
    "down_block_types": ("DownBlock2D", *_CROSS_DOWN), "up_block_types": (*_CROSS_UP, "UpBlock2D"),
    "cross_attention_dim": TEXT_WIDTH, "attention_head_dim": 8, "use_linear_projection": True,
    "num_class_embeds": 1000, "only_cross_attention": (True, True, True, False),
}  # fmt: skip
STABLE_DIFFUSION_1: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
# Checkpoints by hub id, whose sizes are known without them: of which U-Net, and what it predicts.
_HUB_IDS: dict[str, tuple[dict[str, Any], str]] = {
    "CompVis/stable-diffusion-v1-4": (STABLE_DIFFUSION_1, "epsilon"),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (STABLE_DIFFUSION_1, "epsilon"),
    "stabilityai/stable-diffusion-2-base": (STABLE_DIFFUSION_2, "epsilon"),
    "stabilityai/stable-diffusion-2-1-base": (STABLE_DIFFUSION_2, "epsilon"),
    "stabilityai/stable-diffusion-2": (STABLE_DIFFUSION_2, "v_prediction"),
    "stabilityai/stable-diffusion-2-1": (STABLE_DIFFUSION_2, "v_prediction"),
    "stabilityai/stable-diffusion-x4-upscaler": (X4_UPSCALER, "v_prediction"),
}
# Sizes of the text encoders by the width of their tokens.
_TEXT_ENCODERS: dict[int, dict[str, Any]] = {
    768: {"intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    TEXT_WIDTH: {"intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16, "hidden_act": "gelu"},
}


class SizedTokenizer:
    """Stands for a tokenizer where prompts are counted and not read: every prompt fits."""

    model_max_length = NUM_TOKENS

    def __call__(self, text: str | list[str], *, return_tensors: str | None = None, **_: Any) -> Any:
        """Token ids of the right number, all zero."""
        ids: Tensor | list[int] = [0, 0] if isinstance(text, str) else torch.zeros(len(text), NUM_TOKENS).long()
        return SimpleNamespace(input_ids=ids)


def published_parts() -> TextParts:
    """All parts of the model, on the meta device, where they take no memory."""
    with torch.device("meta"):
        image, upscaler = _checkpoint(STABLE_DIFFUSION_2), _checkpoint(X4_UPSCALER)
        interpolation_unet = UNet2DConditionModel(**STABLE_DIFFUSION_2 | {"in_channels": 9})
        parts = TextParts(
            image=image,
            base_text=image.text_side,
            own_scheduler=image.scheduler,
            temporal=_stack(image.unet, num_frames=8),
            interpolation_unet=interpolation_unet,
            interpolation=_stack(interpolation_unet, num_frames=5),
            rate_label=RateLabel(num_rates=2, dim=TEXT_WIDTH),
            video_decoder=VideoDecoder.for_autoencoder(image.vae, VideoDecoderConfig()),
            upscaler=upscaler,
            upscaler_temporal=_stack(upscaler.unet, num_frames=8, context_in_channels=3, context_shortcut=True),
        )
    for network in parts.networks().values():
        network.eval().requires_grad_(False)
    return parts


def public_checkpoint(hub_id: str) -> TextToImage | None:
    """A public checkpoint by its sizes alone, on the meta device; None = one whose sizes are not known here."""
    if hub_id not in _HUB_IDS:
        return None
    with torch.device("meta"):
        return _checkpoint(*_HUB_IDS[hub_id])


def _stack(unet: UNet2DConditionModel, **more: int | bool) -> TemporalStack:
    return TemporalStack.for_backbone(unet, per_frame_alpha=False, cross_attention_dim=TEXT_WIDTH, **more)  # type: ignore[arg-type]


def _checkpoint(unet: dict[str, Any], prediction: str = "v_prediction") -> TextToImage:
    is_upscaler = "num_class_embeds" in unet
    vae_channels = (128, 256, 512) if is_upscaler else (128, 256, 512, 512)
    width = unet["cross_attention_dim"]
    text_encoder = CLIPTextModel(
        CLIPTextConfig(hidden_size=width, max_position_embeddings=NUM_TOKENS, **_TEXT_ENCODERS[width])
    )
    vae = AutoencoderKL(
        block_out_channels=vae_channels,
        down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(vae_channels),
        layers_per_block=2,
    )
    with torch.device("cpu"):  # schedulers read their numbers
        scheduler = DDIMScheduler(
            beta_start=0.0001 if is_upscaler else 0.00085, beta_end=0.02 if is_upscaler else 0.012,
            beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False, set_alpha_to_one=False,
            steps_offset=1,
        )  # fmt: skip
    return TextToImage(
        unet=UNet2DConditionModel(**unet),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=SizedTokenizer(),
        scheduler=scheduler,
        low_res_scheduler=scheduler if is_upscaler else None,
    )

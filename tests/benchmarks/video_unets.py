"""Networks of text-to-video stages for benchmarks: ours and those of diffusers' pipelines, of like size and shape."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    StableDiffusionUpscalePipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
)
from torch import Tensor, nn

from drivesim.config import compose
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_unet import DeepFeatures, VideoUNet

OURS = "VideoUNet"
NUM_TOKENS = 77
_ADDED_TIME_DIM = 256  # of Stable Video Diffusion's three numbers a clip
_COLOURS = 3  # of the small pictures that an upscaler sees
_NOISE_LEVELS = 1000

Run = Callable[[], Tensor]


@dataclass(kw_only=True, slots=True)
class Stage:
    """One network call of a stage of text-to-video, and what all networks of a comparison share."""

    name: str
    channels: tuple[int, ...]
    heads: tuple[int, ...]
    token_dim: int
    latent_hw: tuple[int, int]
    num_frames: int  # of a clip
    num_kept: int  # of our clips' frames, those that are added to the video
    num_clips: int = 1  # in a call; of both branches of guidance
    in_channels: int = 4
    is_upscaler: bool = False
    has_rate: bool = False  # whether our temporal layers see a rate label beside the text
    our_steps: int = 1  # network calls of a sample by preset fast

    @property
    def shared(self) -> dict[str, Any]:
        return {
            "sample_size": self.latent_hw, "in_channels": self.in_channels, "out_channels": 4, "layers_per_block": 2,
            "block_out_channels": self.channels, "cross_attention_dim": self.token_dim,
        }  # fmt: skip

    def block_types(self, kind: str) -> dict[str, tuple[str, ...]]:
        """Attention on all levels but the last one, of an upscaler on all but the first."""
        plain, many = (f"DownBlock{kind}", f"UpBlock{kind}"), len(self.channels) - 1
        down, up = (f"CrossAttnDownBlock{kind}",) * many, (f"CrossAttnUpBlock{kind}",) * many
        if self.is_upscaler:
            return {"down_block_types": (plain[0], *down), "up_block_types": (*up, plain[1])}
        return {"down_block_types": (*down, plain[0]), "up_block_types": (plain[1], *up)}

    def inputs(self, num_tokens: int = NUM_TOKENS) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, T, C, h, w), text tokens and a step."""
        dtype = torch.get_default_dtype()
        latents = torch.zeros(self.num_clips, self.num_frames, self.in_channels, *self.latent_hw)
        tokens = torch.zeros(self.num_clips, num_tokens, self.token_dim)
        return latents.to(dtype).normal_(), tokens.to(dtype).normal_(), torch.full((self.num_clips,), 500)


def _image_unet(stage: Stage) -> UNet2DConditionModel:
    more: dict[str, Any] = {}
    if stage.is_upscaler:
        only_cross = (True,) * (len(stage.channels) - 1) + (False,)
        more = {"num_class_embeds": _NOISE_LEVELS, "only_cross_attention": only_cross}
    return UNet2DConditionModel(
        **stage.shared, **stage.block_types("2D"), attention_head_dim=stage.heads, use_linear_projection=True, **more
    )


def ours(stage: Stage) -> tuple[nn.Module, Run]:
    network, call = _our_call(stage)
    return network, lambda: call(None)


def two_of_ours(stage: Stage) -> Run:
    """Two calls, the second of which reuses what deep levels made in the first: `deep_every=2`."""
    _, call = _our_call(stage)

    def run() -> Tensor:
        deep = DeepFeatures()
        call(deep)
        return call(deep)

    return run


def _our_call(stage: Stage) -> tuple[nn.Module, Callable[[DeepFeatures | None], Tensor]]:
    backbone = _image_unet(stage)
    context = {"context_in_channels": _COLOURS, "context_shortcut": True} if stage.is_upscaler else {}
    stack = TemporalStack.for_backbone(
        backbone, num_frames=stage.num_frames, per_frame_alpha=False, cross_attention_dim=stage.token_dim, **context
    )
    network = VideoUNet(backbone, stack)
    latents, tokens, step = stage.inputs()
    named: dict[str, Tensor] = {"temporal_tokens_BLC": tokens}
    if stage.has_rate:
        named["temporal_tokens_BLC"] = torch.cat([tokens, tokens[:, :1]], dim=1)
    if stage.is_upscaler:
        named |= {"context_BTCHW": latents[:, :, -_COLOURS:], "noise_level_B": torch.full_like(step, 30)}
    return network, lambda deep: network(latents, step, tokens, deep=deep, **named)


def stable_video_diffusion(stage: Stage, num_tokens: int = NUM_TOKENS) -> tuple[nn.Module, Run]:
    network = UNetSpatioTemporalConditionModel(
        **stage.shared, **stage.block_types("SpatioTemporal"), num_attention_heads=stage.heads,
        num_frames=stage.num_frames, addition_time_embed_dim=_ADDED_TIME_DIM,
        projection_class_embeddings_input_dim=3 * _ADDED_TIME_DIM,
    )  # fmt: skip
    latents, tokens, step = stage.inputs(num_tokens)
    network.to(latents.device)  # its mixers' alphas are made on the CPU whatever the default device is
    ids = torch.zeros(stage.num_clips, 3)
    return network, lambda: network(latents, step, tokens, added_time_ids=ids).sample


def of_one_token(stage: Stage) -> tuple[nn.Module, Run]:
    """As its own pipeline runs it: it is shown a picture, one token, and no text."""
    return stable_video_diffusion(stage, 1)


def animate_diff(stage: Stage) -> tuple[nn.Module, Run]:
    """Its motion modules see no text."""
    network = UNetMotionModel(
        **stage.shared, **stage.block_types("Motion"), num_attention_heads=stage.heads, motion_num_attention_heads=8,
        motion_max_seq_length=32, use_linear_projection=True,
    )  # fmt: skip
    latents, tokens, step = stage.inputs()
    video = latents.transpose(1, 2).contiguous()
    each = tokens.repeat_interleave(stage.num_frames, dim=0)  # as its pipeline does
    return network, lambda: network(video, step, each).sample


def frame_by_frame(stage: Stage) -> tuple[nn.Module, Run]:
    """The x4 upscaler's U-Net as its pipeline runs it: for each frame both branches of guidance."""
    network = _image_unet(stage)
    latents, tokens, step = stage.inputs()
    levels = torch.full_like(step, 30)

    def run() -> Tensor:
        made = [network(frame, step, tokens, class_labels=levels).sample for frame in latents.unbind(1)]
        return torch.stack(made, dim=1)

    return network, run


PEERS: dict[str, Callable[[Stage], tuple[nn.Module, Run]]] = {
    "UNetSpatioTemporalConditionModel, 77 tokens": stable_video_diffusion,
    "UNetSpatioTemporalConditionModel, 1 token": of_one_token,
    "UNetMotionModel": animate_diff,
}
UPSCALER_PEER = "UNet2DConditionModel, frame by frame"


def peers_of(stage: Stage) -> dict[str, Callable[[Stage], tuple[nn.Module, Run]]]:
    """Makers of the networks that a stage is measured beside."""
    return PEERS | ({UPSCALER_PEER: frame_by_frame} if stage.is_upscaler else {})


def make_runs(stage: Stage, device: str) -> dict[str, tuple[nn.Module, Run]]:
    """All networks of a comparison, and one call of each."""
    with torch.device(device):
        made = {name: make(stage) for name, make in ({OURS: ours} | peers_of(stage)).items()}
    return {name: (network.eval(), torch.no_grad()(run)) for name, (network, run) in made.items()}


def default_steps(name: str) -> int:
    """Network calls of a sample that a peer's pipeline makes when nothing is said."""
    pipelines: dict[str, Any] = {UPSCALER_PEER: StableDiffusionUpscalePipeline, "UNetMotionModel": AnimateDiffPipeline}
    pipeline = pipelines.get(name, StableVideoDiffusionPipeline)
    return int(inspect.signature(pipeline.__call__).parameters["num_inference_steps"].default)


def our_steps() -> tuple[int, int, int]:
    """Network calls of a sample by default: of key frames, of interpolation, of upscaling."""
    command = compose("rollout", ["family=text", "preset=fast", "model=none"])
    steps = command.sampler.steps, command.stages.interpolate_sampler.steps, command.stages.upsample_sampler.steps
    return tuple(int(number) for number in steps)  # type: ignore[return-value]

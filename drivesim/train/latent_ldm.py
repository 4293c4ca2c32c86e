"""Training of the image LDM and of the temporal layers of the video LDM, both on cached latents."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.conditioning.driving import DrivingConditions
from drivesim.conditioning.given_frames import first_frames_given, noised
from drivesim.diffusion.objective import add_noise, diffusion_loss, draw_timesteps
from drivesim.diffusion.settings import PredictionSamplingConfig, SamplingConfig
from drivesim.families.generate import generate_frames, predict_frames, prediction_context
from drivesim.models.autoencoder import decode
from drivesim.models.build import SpatialLayers
from drivesim.models.video_unet import VideoUNet
from drivesim.train.box_weights import box_weights
from drivesim.train.optim import OptimConfig
from drivesim.train.stage import Batch, Stage


def conditions_of(batch: Batch, frame: int) -> DrivingConditions:
    """What is known of one frame of each clip."""
    return DrivingConditions(
        boxes_BN4=batch["boxes_BTN4"][:, frame],
        classes_BN=batch["classes_BTN"][:, frame],
        has_boxes_B=batch["has_boxes_B"],
        is_night_B=batch["is_night_B"],
        num_cars_B=batch["num_cars_BT"][:, frame],
    )


def losses(prediction_BTCHW: Tensor, target_BTCHW: Tensor, batch: Batch, box_weight: float) -> dict[str, Tensor]:
    """The error to descend, and beside it the plain one where boxes count more."""
    plain = diffusion_loss(prediction_BTCHW, target_BTCHW)
    if box_weight == 0:
        return {"loss": plain}
    height, width = target_BTCHW.shape[-2:]
    weights = box_weights(batch["boxes_BTN4"], batch["classes_BTN"], (height, width), box_weight)
    return {"loss": diffusion_loss(prediction_BTCHW, target_BTCHW, weights), "plain": plain.detach()}


@dataclass(kw_only=True, slots=True)
class ImageLossConfig:
    """How often conditions are left out, so that the model also knows the scene without them."""

    drop_boxes: float = 0.3  # share of samples whose boxes are unknown
    drop_labels: float = 0.1  # share of samples in which day or night is unknown, and likewise number of cars (Table 6)
    drop_all: float = 0.1  # share of samples of which nothing is known: the unconditional branch of guidance
    box_weight: float = 0.0  # how much more an error inside a box counts; 0 = as outside


class ImageStage(Stage):
    """Trains the image backbone and its conditioner on single latents; parts: these, autoencoder, scheduler."""

    def __init__(
        self,
        parts: dict[str, Any],
        loss: ImageLossConfig,
        sampling: SamplingConfig,
        optim: OptimConfig,
        seed: int,
    ):
        trained = nn.ModuleDict({name: parts[name] for name in ("backbone", "conditioner")})
        super().__init__(trained, nn.ModuleDict({"autoencoder": parts["autoencoder"]}), optim, seed)
        self.backbone, self.conditioner = parts["backbone"], parts["conditioner"]
        self.autoencoder, self.schedule = parts["autoencoder"], parts["scheduler"]
        self.drop, self.sampling = loss, sampling

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction for latents_BTCHW, T = 1."""
        x = batch["latents_BTCHW"][:, 0]
        b = len(x)
        # Each by itself: a scene may tell the night and leave the cars open, or the other way round.
        shares = torch.tensor([self.drop.drop_boxes, self.drop.drop_labels, self.drop.drop_labels])
        nothing = torch.rand(1, b, generator=generator) < self.drop.drop_all
        masks = (torch.rand(3, b, generator=generator) < shares[:, None]) | nothing
        boxes, night, cars = masks.to(x.device)
        conditions = conditions_of(batch, 0).dropped(boxes, night, cars)
        steps = draw_timesteps(b, self.schedule, generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        noisy, target = add_noise(x, noise, steps, self.schedule)
        tokens, mask = self.conditioner(conditions)
        prediction = self.backbone(self.conditioner.placed(noisy), steps, tokens, encoder_attention_mask=mask).sample
        return losses(prediction[:, None], target[:, None], batch, self.drop.box_weight)

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """Real frames above, frames made from their boxes and labels below."""
        x = batch["latents_BTCHW"][:8, 0]
        conditions = conditions_of({name: value[:8] for name, value in batch.items()}, 0)
        generators = [torch.Generator().manual_seed(self.seed + index) for index in range(len(x))]
        with self.ema.swapped_in():
            made = generate_frames(
                self.backbone, self.conditioner, self.schedule, conditions, self.sampling, generators
            )
        rows = [np.concatenate(list(decode(self.autoencoder, row)), axis=1) for row in (x, made)]
        return np.concatenate(rows)


@dataclass(kw_only=True, slots=True)
class PredictionLossConfig:
    """Prediction conditioning."""

    given: list[int] = field(default_factory=lambda: [0, 1, 2])  # numbers of given frames that are drawn
    given_shares: list[float] = field(default_factory=lambda: [0.2, 0.3, 0.5])  # how often each
    drop_labels: float = 0.3  # share of clips in which day or night is unknown, as it is for a photo
    drop_motion: float = 0.4  # share of clips whose motion is unknown; read where `temporal.ego_motion` is
    box_weight: float = 0.0  # how much more an error inside a box counts; 0 = as outside

    def __post_init__(self) -> None:
        """Refuses numbers of frames that cannot be given, and shares that are not theirs."""
        if not self.given or min(self.given) < 0:
            raise ValueError(
                f"prediction_loss.given={self.given}; it must list one number of frames or more, from 0 on"
            )
        if len(self.given_shares) != len(self.given):
            raise ValueError(
                f"prediction_loss.given_shares={self.given_shares}: {len(self.given_shares)} shares; "
                f"given={self.given} needs {len(self.given)}, one each"
            )
        if not (min(self.given_shares) >= 0 and 0 < sum(self.given_shares) < math.inf):
            raise ValueError(
                f"prediction_loss.given_shares={self.given_shares}; none may be below 0, and one must be above it"
            )


def told_motion(motion_BT2: Tensor, drop_share: float, generator: torch.Generator) -> Tensor:
    """The motion that a prediction is told of clips: none, all of it, or up to a frame from which on it is unknown.

    Args:
        motion_BT2: of the clips (`core.motion`).
        drop_share: share of clips of which it is unknown; of the others half are told all.
        generator: chooses.
    """
    b, t = motion_BT2.shape[:2]
    told_B = torch.full((b,), t)
    told_B = torch.where(
        torch.rand(b, generator=generator) < 0.5, torch.randint(1, t, (b,), generator=generator), told_B
    )
    told_B = torch.where(torch.rand(b, generator=generator) < drop_share, 0, told_B)
    is_told_BT = torch.arange(t)[None] < told_B[:, None]
    return torch.where(is_told_BT[..., None].to(motion_BT2.device), motion_BT2, torch.nan)


def known_on_the_way(batch: Batch, drop_night_B: Tensor) -> DrivingConditions:
    """What a rollout knows of clips: at most day or night. Boxes and number of cars change on the way."""
    all_unknown = torch.ones_like(drop_night_B)
    return conditions_of(batch, 0).dropped(all_unknown, drop_night_B, all_unknown)


class PredictionStage(Stage):
    """Trains the temporal layers in the image model, frozen or not (`temporal.spatial`), to continue given frames.

    Parts: autoencoder, backbone, conditioner, temporal, scheduler.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        loss: PredictionLossConfig,
        sampling: PredictionSamplingConfig,
        optim: OptimConfig,
        seed: int,
        fps: float,
    ):
        trained = ("temporal", *SpatialLayers(parts["temporal"].config.spatial).trained_parts)
        frozen = [name for name in ("autoencoder", "backbone", "conditioner") if name not in trained]
        groups = [nn.ModuleDict({name: parts[name] for name in names}) for names in (trained, frozen)]
        super().__init__(groups[0], groups[1], optim, seed)
        self.autoencoder, self.conditioner = parts["autoencoder"], parts["conditioner"]
        self.schedule = parts["scheduler"]
        self.video_unet = VideoUNet(parts["backbone"], parts["temporal"])
        self.prediction, self.sampling, self.gap_s = loss, sampling, 1 / fps

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction for clips latents_BTCHW."""
        x = batch["latents_BTCHW"]
        b, t = x.shape[:2]
        shares = torch.tensor(self.prediction.given_shares)
        drawn = torch.multinomial(shares, b, replacement=True, generator=generator)
        num_given = torch.tensor(self.prediction.given)[drawn].to(x.device)
        drop_night = (torch.rand(b, generator=generator) < self.prediction.drop_labels).to(x.device)
        conditions = known_on_the_way(batch, drop_night)
        steps = draw_timesteps(b, self.schedule, generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        noisy, target = add_noise(x, noise, steps, self.schedule)
        tokens, mask = self.conditioner(conditions)
        shown, level = self._shown(x, generator)
        stack, motion = self.video_unet.temporal.config, None
        if stack.ego_motion:
            motion = told_motion(batch["motion_BT2"], self.prediction.drop_motion, generator)
        context = prediction_context(shown, first_frames_given(num_given, t), motion, self.gap_s, stack)
        prediction = self.video_unet(
            self.conditioner.placed(noisy),
            steps,
            tokens,
            token_mask_BL=mask,
            context_BTCHW=context,
            noise_level_B=level,
            motion_BT2=motion,
        )
        return losses(prediction, target, batch, self.prediction.box_weight)

    def _shown(self, x_BTCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The frames as they are given, and the noise level that is told: None for a model that sees clean ones."""
        most = self.video_unet.temporal.config.context_noise
        if not most:
            return x_BTCHW, None
        level = torch.randint(0, most + 1, (len(x_BTCHW),), generator=generator).to(x_BTCHW.device)
        noise = torch.randn(x_BTCHW.shape, generator=generator).to(x_BTCHW)
        return noised(x_BTCHW, level, noise, self.schedule), level

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """For three clips: the real one above, its first frame continued below, told the real motion if it may be."""
        x = batch["latents_BTCHW"][:3]
        conditions = known_on_the_way(
            {name: value[:3] for name, value in batch.items()}, torch.zeros(len(x), dtype=torch.bool, device=x.device)
        )
        generators = [torch.Generator().manual_seed(self.seed + index) for index in range(len(x))]
        with self.ema.swapped_in():
            made = predict_frames(
                self.video_unet, self.conditioner, self.schedule, x[:, :1], x.shape[1], conditions, self.sampling,
                generators, batch["motion_BT2"][:3] if self.video_unet.temporal.config.ego_motion else None, self.gap_s,
            )  # fmt: skip
        rows = [clip for pair in zip(x, made, strict=True) for clip in pair]
        return np.concatenate([np.concatenate(list(decode(self.autoencoder, row)), axis=1) for row in rows])

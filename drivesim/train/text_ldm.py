"""Training of text models on cached latents: an image model on single frames, temporal layers of key frames on clips.

Axes: B samples, T frames, C H W latents, L tokens, D channels of a token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drivesim.conditioning.text import TextConditioner
from drivesim.data.captions import texts_of
from drivesim.diffusion.objective import add_noise, draw_timesteps
from drivesim.diffusion.sampling import Denoiser, Guidance, sample
from drivesim.diffusion.settings import SamplingConfig
from drivesim.models.autoencoder import decode
from drivesim.models.video_unet import VideoUNet
from drivesim.train.latent_ldm import losses
from drivesim.train.optim import OptimConfig
from drivesim.train.stage import Batch, Stage
from drivesim.train.text_config import TextLossConfig


class TextStage(Stage):
    """What the text stages share: captions as tokens, noise, the error.

    Args:
        parts: autoencoder, tokenizer, text_encoder, scheduler, and those that are trained.
        trains: names of the parts whose weights move.
        loss: dropout of text.
        sampling: of the sample pictures.
        optim: optimizer and averaging.
        seed: key of all noise.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        trains: tuple[str, ...],
        *,
        loss: TextLossConfig,
        sampling: SamplingConfig,
        optim: OptimConfig,
        seed: int,
    ):
        frozen = [n for n, part in parts.items() if isinstance(part, nn.Module) and n not in trains]
        trained, kept = (nn.ModuleDict({name: parts[name] for name in names}) for names in (trains, frozen))
        super().__init__(trained, kept, optim, seed)
        self.autoencoder, self.schedule = parts["autoencoder"], parts["scheduler"]
        self.text = TextConditioner(parts["tokenizer"], parts["text_encoder"])
        self.text_loss, self.sampling = loss, sampling

    def enable_gradient_checkpointing(self) -> None:
        """Layers are computed again in the backward pass instead of being kept."""
        network: Any = self.video_unet if hasattr(self, "video_unet") else self.backbone
        network.enable_gradient_checkpointing()

    def captions(self, batch: Batch, generator: torch.Generator) -> list[str]:
        """The captions of a batch, some of them left out.

        Raises:
            ValueError: data without captions.
        """
        if "caption_BL" not in batch:
            raise ValueError("this stage learns from captions; the data has none (data=toytown_text, data=captioned)")
        texts = texts_of(batch["caption_BL"])
        dropped = torch.rand(len(texts), generator=generator) < self.text_loss.drop_text
        return ["" if drop else text for text, drop in zip(texts, dropped.tolist(), strict=True)]

    def tokens(self, texts: list[str]) -> Tensor:
        """(B, L, D), all prompts in one call of the encoder; what does not fit is left out."""
        ids_BL = self.text.token_ids(texts, cut=True).to(self.device)
        tokens_BLD: Tensor = self.text.text_encoder(ids_BL)[0]
        return tokens_BLD

    def denoised(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy samples, their steps, and what the network has to predict."""
        steps = draw_timesteps(len(x), self.schedule, generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        noisy, target = add_noise(x, noise, steps, self.schedule)
        return noisy, steps, target

    def sampled(self, denoise: Denoiser, without: Denoiser, shape: tuple[int, ...], num: int) -> Tensor:
        """Samples (num, *shape) with the averaged weights and guidance, always the same noise."""
        generators = [torch.Generator().manual_seed(self.seed + index) for index in range(num)]
        guided = Guidance(denoise, without, self.sampling.guidance)
        dtype = next(self.trained.parameters()).dtype  # another than float32 with precision=bf16-true
        return sample(guided, shape, self.schedule, self.sampling, generators, device=self.device, dtype=dtype)


class TextImageStage(TextStage):
    """Trains an image model on single latents; parts: autoencoder, tokenizer, text_encoder, scheduler, backbone."""

    def __init__(self, parts: dict[str, Any], trains: tuple[str, ...], **settings: Any):
        super().__init__(parts, trains, **settings)
        self.backbone = parts["backbone"]

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction for latents_BTCHW, T = 1."""
        tokens = self.tokens(self.captions(batch, generator))
        noisy, steps, target = self.denoised(batch["latents_BTCHW"][:, 0], generator)
        prediction = self.backbone(noisy, steps, tokens).sample
        return losses(prediction[:, None], target[:, None], batch, self.text_loss.box_weight)

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """Real frames above, frames made from their captions below."""
        x = batch["latents_BTCHW"][:8, 0]
        with self.ema.swapped_in():
            tokens = self.tokens(texts_of(batch["caption_BL"][:8]))
            none = self.tokens([""] * len(x))
            made = self.sampled(
                lambda z, step: self.backbone(z, step, tokens).sample,
                lambda z, step: self.backbone(z, step, none).sample,
                tuple(x.shape[1:]),
                len(x),
            )
        rows = [np.concatenate(list(decode(self.autoencoder, row)), axis=1) for row in (x, made)]
        return np.concatenate(rows)


class KeyFrameStage(TextStage):
    """Trains temporal layers in a frozen image model on clips of key frames; both see the caption.

    Parts: autoencoder, tokenizer, text_encoder, scheduler, backbone, temporal.
    """

    def __init__(self, parts: dict[str, Any], trains: tuple[str, ...], **settings: Any):
        super().__init__(parts, trains, **settings)
        self.video_unet = VideoUNet(parts["backbone"], parts["temporal"])

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction for clips latents_BTCHW."""
        tokens = self.tokens(self.captions(batch, generator))
        noisy, steps, target = self.denoised(batch["latents_BTCHW"], generator)
        prediction = self.video_unet(noisy, steps, tokens, temporal_tokens_BLC=tokens)
        return losses(prediction, target, batch, self.text_loss.box_weight)

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """For three clips: the real one above, the one made from its caption below."""
        x = batch["latents_BTCHW"][:3]
        with self.ema.swapped_in():
            tokens, none = self.tokens(texts_of(batch["caption_BL"][:3])), self.tokens([""] * len(x))
            made = self.sampled(
                lambda z, step: self.video_unet(z, step, tokens, temporal_tokens_BLC=tokens),
                lambda z, step: self.video_unet(z, step, none, temporal_tokens_BLC=none),
                tuple(x.shape[1:]),
                len(x),
            )
        rows = [clip for pair in zip(x, made, strict=True) for clip in pair]
        return np.concatenate([np.concatenate(list(decode(self.autoencoder, row)), axis=1) for row in rows])

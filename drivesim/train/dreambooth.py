"""DreamBooth: a text-to-image model learns one subject by a rare token, and keeps what it knew of the subject's class.

After Ruiz et al. 2022 (arXiv 2208.12242); the paper: 800 steps at 1e-6, 256 class pictures.
Axes: B samples, N class pictures, C h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from drivesim.conditioning.text import TextConditioner
from drivesim.core.files import atomic_path
from drivesim.core.seeds import torch_generator
from drivesim.data.captions import texts_of
from drivesim.diffusion.objective import diffusion_loss
from drivesim.diffusion.sampling import Guidance, sample
from drivesim.diffusion.settings import SamplingConfig
from drivesim.models.autoencoder import decode
from drivesim.nn.lora import LoraLayers
from drivesim.train.stage import Batch
from drivesim.train.text_ldm import TextImageStage

AT_ONCE = 4  # class pictures that are made together and kept in one file


class LoraReach(str, Enum):
    """Layers that low-rank changes reach, in backbone and text encoder."""

    ATTENTION = "attention"  # its four projections, as diffusers' training does
    ALL = "all"  # every linear layer and convolution (LoCon, arXiv 2309.14859)


_ENDINGS: dict[LoraReach, dict[str, tuple[str, ...]]] = {
    LoraReach.ATTENTION: {
        "backbone": ("to_q", "to_k", "to_v", "to_out.0"),
        "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
    },
    LoraReach.ALL: {"backbone": ("",), "text_encoder": ("",)},
}


@dataclass(kw_only=True, slots=True)
class DreamBoothConfig:
    """What the subject is one of, and how strongly the class is kept."""

    class_prompt: str = "a car"  # what pictures of the class are made from, by the model itself
    more_class_prompts: list[str] = field(default_factory=list)  # in turn with it: at night, turning; [] = it alone
    num_class_pictures: int = 256  # made before the first step
    prior_weight: float = 1.0  # of the class pictures' error beside the subject's; 0 = no prior preservation
    lora_rank: int = 8  # of each change; this and the next are read by stage dreambooth_lora
    lora_reach: LoraReach = LoraReach.ATTENTION  # layers that are changed

    def __post_init__(self) -> None:
        """Refuses prior preservation without pictures."""
        if self.prior_weight and self.num_class_pictures < 1:
            raise ValueError("dreambooth.num_class_pictures must be 1 or more, or prior_weight=0")

    def class_prompts(self, numbers: Iterable[int]) -> list[str]:
        """What the pictures of the class with these numbers show."""
        prompts = [self.class_prompt, *self.more_class_prompts]
        return [prompts[number % len(prompts)] for number in numbers]


@dataclass(kw_only=True, slots=True, frozen=True)
class ClassPictures:
    """Latents of class pictures that the model itself makes, kept in files so that a stopped run goes on.

    Runs that ask for more or fewer of the same pictures share the files, so each is of `AT_ONCE` whole.
    """

    config: DreamBoothConfig  # how many, of what
    shape: tuple[int, int, int]  # of one: C, h, w
    sampling: SamplingConfig  # how they are sampled
    seed: int  # key of their noise
    folder: Path  # of this model, prompt, shape, sampling and seed alone
    load: Callable[[], dict[str, Any]]  # backbone, tokenizer, text_encoder, scheduler, as before any training

    def blank(self) -> Tensor:
        """What `latents` gives, without weights."""
        return torch.zeros(self.config.num_class_pictures, *self.shape, device="meta")

    def latents(self, device: torch.device | str) -> Tensor:
        """(N, C, h, w) on the CPU; those that no file holds are made on `device`."""
        starts = range(0, self.config.num_class_pictures, AT_ONCE)
        paths = [self.folder / f"{first:05d}-{first + AT_ONCE - 1:05d}.safetensors" for first in starts]
        if not all(path.is_file() for path in paths):
            parts = self.load()
            for name in ("backbone", "text_encoder"):
                parts[name].to(device)
            for first, path in zip(starts, paths, strict=True):
                if not path.is_file():
                    made = self.made(parts, range(first, first + AT_ONCE))
                    with atomic_path(path) as temporary:
                        save_file({"latents": made.cpu().contiguous()}, temporary)
        return torch.cat([load_file(path)["latents"] for path in paths])[: self.config.num_class_pictures]

    @torch.no_grad()
    def made(self, parts: dict[str, Any], numbers: range) -> Tensor:
        """Latents (B, C, h, w) of the pictures with these numbers, by what `load` gives, on its backbone's device."""
        text, backbone = TextConditioner(parts["tokenizer"], parts["text_encoder"]), parts["backbone"]
        tokens, none = text(self.config.class_prompts(numbers)), text([""] * len(numbers))
        guided = Guidance(_denoiser(backbone, tokens), _denoiser(backbone, none), self.sampling.guidance)
        generators = [torch_generator(self.seed, "class picture", number) for number in numbers]
        return sample(guided, self.shape, parts["scheduler"], self.sampling, generators, device=backbone.device)


def _denoiser(backbone: Any, tokens: Tensor) -> Any:
    return lambda x, step: backbone(x, step, tokens).sample


class DreamBoothStage(TextImageStage):
    """Trains backbone and text encoder on a subject's latents and on those of its class, half and half.

    Parts: those of `TextImageStage`, and class_pictures. These are made when the training begins: on its device, and by
    its first process alone; the others wait and read the files.
    """

    def __init__(self, parts: dict[str, Any], trains: tuple[str, ...], *, config: DreamBoothConfig, **settings: Any):
        super().__init__(parts, trains, **settings)
        self.config = config
        self.class_pictures: ClassPictures = parts["class_pictures"]
        self.class_latents = self.class_pictures.blank()  # (N, C, h, w)

    def setup(self, stage: str) -> None:
        """Makes the class pictures, or reads them."""
        if not self.config.prior_weight:
            return
        strategy = self.trainer.strategy
        if self.trainer.is_global_zero:
            self.class_pictures.latents(strategy.root_device)
        strategy.barrier("class pictures")
        self.class_latents = self.class_pictures.latents(strategy.root_device)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The subject's error, and the class's beside it."""
        x, texts = batch["latents_BTCHW"][:, 0], texts_of(batch["caption_BL"])
        b = len(x)
        if self.config.prior_weight:
            chosen = torch.randint(0, len(self.class_latents), (b,), generator=generator)
            x = torch.cat([x, self.class_latents[chosen.to(self.class_latents.device)].to(x)])
            texts = texts + self.config.class_prompts(chosen.tolist())
        noisy, steps, target = self.denoised(x, generator)
        prediction = self.predict(noisy, steps, texts)
        subject = diffusion_loss(prediction[:b], target[:b])
        if not self.config.prior_weight:
            return {"loss": subject}
        prior = diffusion_loss(prediction[b:], target[b:])
        return {
            "loss": subject + self.config.prior_weight * prior,
            "subject": subject.detach(),
            "prior": prior.detach(),
        }

    def predict(self, noisy: Tensor, steps: Tensor, texts: list[str]) -> Tensor:
        """The backbone's prediction for texts."""
        made: Tensor = self.backbone(noisy, steps, self.tokens(texts)).sample
        return made

    @torch.no_grad()
    def sample_pictures(self, batch: Batch) -> NDArray[np.uint8]:
        """The subject's own pictures above, made ones of it in the middle, of its class below."""
        x = batch["latents_BTCHW"][:4, 0]
        texts = texts_of(batch["caption_BL"][:4])
        rows = [x]
        with self.ema.swapped_in():
            for prompts in (texts, self.config.class_prompts(range(len(x)))):
                rows.append(
                    self.sampled(
                        lambda z, step, prompts=prompts: self.predict(z, step, prompts),  # type: ignore[misc]
                        lambda z, step: self.predict(z, step, [""] * len(z)),
                        tuple(x.shape[1:]),
                        len(x),
                    )
                )
        return np.concatenate([np.concatenate(list(decode(self.autoencoder, row)), axis=1) for row in rows])


class DreamBoothLoraStage(DreamBoothStage):
    """The light way: backbone and text encoder stay, low-rank changes of some of their layers are trained.

    Parts: those of `DreamBoothStage`, and lora, a module of `LoraLayers` backbone and text_encoder. Layers cannot be
    computed again in the backward pass: they would run without the changes, which are handed to the first pass alone.
    """

    def predict(self, noisy: Tensor, steps: Tensor, texts: list[str]) -> Tensor:
        """The changed backbone's prediction for texts, as the changed encoder reads them."""
        lora: Any = self.trained["lora"]
        encoder = self.text.text_encoder
        ids_BL = self.text.token_ids(texts, cut=True).to(self.device)
        tokens = functional_call(encoder, lora["text_encoder"].weights(encoder), (ids_BL,))[0]
        made = functional_call(self.backbone, lora["backbone"].weights(self.backbone), (noisy, steps, tokens))
        prediction: Tensor = made.sample
        return prediction


def make_lora(parts: dict[str, Any], config: DreamBoothConfig) -> nn.ModuleDict:
    """Fresh changes of a model's layers, as many and as far as configured."""
    endings = _ENDINGS[config.lora_reach]
    return nn.ModuleDict({name: LoraLayers(parts[name], of, config.lora_rank) for name, of in endings.items()})

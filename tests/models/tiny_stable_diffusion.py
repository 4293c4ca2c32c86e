"""Tiny checkpoints of the public models' own classes, made here: Stable Diffusion 1.x, 2.x and the x4 upscaler."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from drivesim.models.text_to_image import TextToImage, save_text_to_image

KINDS = ("v1", "v2", "upscaler")
WIDTH = {"v1": 24, "v2": 32, "upscaler": 32}  # of a text token
NUM_TOKENS = 16  # of a prompt; 77 in the public ones
LATENT_CHANNELS = 4
WORDS = ("night", "day", "car", "cars", "left", "turn", "road")  # of more than one letter that are one token


def tiny_text_to_image(kind: str = "v1", seed: int = 0) -> TextToImage:
    """The parts of a checkpoint with random weights: v1 (e target), v2 (v target, linear projections) or upscaler.

    Pictures are 2 times (v1, v2) or 4 times (upscaler) as high and wide as latents.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        return TextToImage(
            unet=tiny_unet(kind).eval(),
            vae=tiny_vae(kind).eval(),
            text_encoder=tiny_text_encoder(kind, tokenizer).eval(),
            tokenizer=tokenizer,
            scheduler=tiny_scheduler(kind),
            low_res_scheduler=_schedule_of(DDPMScheduler, 0.0001, 0.02) if kind == "upscaler" else None,
        )


def save_tiny(folder: Path, kind: str = "v1", seed: int = 0) -> Path:
    """Writes such a checkpoint as a diffusers folder and returns the folder."""
    save_text_to_image(tiny_text_to_image(kind, seed), folder)
    return folder


def tiny_unet(kind: str) -> UNet2DConditionModel:
    upscaler = kind == "upscaler"
    cross, plain = "CrossAttn", ""
    levels = (plain, cross) if upscaler else (cross, plain)  # as the public ones: not at the top, or not at the bottom
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS + 3 * upscaler,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=tuple(f"{here}DownBlock2D" for here in levels),
        up_block_types=tuple(f"{here}UpBlock2D" for here in reversed(levels)),
        norm_num_groups=8,
        cross_attention_dim=WIDTH[kind],
        attention_head_dim=2 if kind == "v1" else (2, 4),  # diffusers' name for the number of heads
        use_linear_projection=kind != "v1",
        num_class_embeds=1000 if upscaler else None,
        only_cross_attention=(True, False) if upscaler else False,
    )


def tiny_vae(kind: str) -> AutoencoderKL:
    channels = (8, 8, 16) if kind == "upscaler" else (8, 16)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.08333 if kind == "upscaler" else 0.18215,
    )


def tiny_text_encoder(kind: str, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH[kind],
            intermediate_size=2 * WIDTH[kind],
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=NUM_TOKENS,
            hidden_act="quick_gelu" if kind == "v1" else "gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tiny_scheduler(kind: str) -> PNDMScheduler | DDIMScheduler:
    if kind == "v1":
        return _schedule_of(PNDMScheduler, 0.00085, 0.012, steps_offset=1, skip_prk_steps=True)
    more = {"prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return _schedule_of(DDIMScheduler, *((0.0001, 0.02) if kind == "upscaler" else (0.00085, 0.012)), **more)


def _schedule_of(scheduler_class: type, beta_start: float, beta_end: float, **more: object):  # type: ignore[no-untyped-def]
    return scheduler_class(beta_start=beta_start, beta_end=beta_end, beta_schedule="scaled_linear", **more)


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer with a vocabulary of all bytes and a few words."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def write_tokenizer(folder: Path, words: tuple[str, ...] = WORDS) -> None:
    """A tokenizer folder in its published form: vocabulary, merges and settings."""
    characters = list(_byte_characters())
    merges: list[tuple[str, str]] = []
    for word in words:
        left = word[0]
        for index, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if index == len(word) - 1 else "")
            merges.append((left, right))
            left += right
    pieces = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in dict.fromkeys(merges))]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in dict.fromkeys(merges))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": NUM_TOKENS, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _byte_characters() -> list[str]:
    """A printable character for each of the 256 bytes, as byte-level BPE has them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]

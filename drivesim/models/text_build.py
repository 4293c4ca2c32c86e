"""The text side of small text-to-image models: fresh tokenizers and text encoders of CLIP's classes."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"  # CLIP's mark of a word's last piece


@dataclass(kw_only=True, slots=True)
class TextEncoderConfig:
    """Tokenizer and text encoder of a model that is trained from nothing; their width is the backbone's token_dim."""

    words: list[str] = field(default_factory=list)  # that are one token each; all other text is spelt byte by byte
    num_tokens: int = 24  # of a prompt, start and end included
    num_layers: int = 2  # transformer blocks
    num_heads: int = 4  # of their attention
    feed_forward_mult: int = 2  # width of their feed-forward layers


def make_tokenizer(config: TextEncoderConfig) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer with a vocabulary of all bytes and the configured words.

    Raises:
        ValueError: a word that is not of lower-case letters a to z.
    """
    merges: list[tuple[str, str]] = []
    for word in config.words:
        if not (word.isascii() and word.isalpha() and word.islower()):
            raise ValueError(f"text_encoder.words: {word!r}; a word is of the letters a to z, in lower case")
        merges += _merges_of(word)
    merges = list(dict.fromkeys(merges))
    characters = _byte_characters()
    pieces = [*characters, *(c + _WORD_END for c in characters), *("".join(pair) for pair in merges), _START, _END]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": config.num_tokens, "pad_token": _END}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (Path(folder) / "merges.txt").write_text("\n".join(lines) + "\n")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def _merges_of(word: str) -> list[tuple[str, str]]:
    """Pairs of pieces that make one token of a word, from its left end."""
    letters = [*word[:-1], word[-1] + _WORD_END]
    pairs, left = [], letters[0]
    for right in letters[1:]:
        pairs.append((left, right))
        left += right
    return pairs


def _byte_characters() -> list[str]:
    """A printable character for each of the 256 bytes: the bytes that are none take those from 256 on (GPT-2's map)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def make_text_encoder(config: TextEncoderConfig, tokenizer: CLIPTokenizer, dim: int) -> CLIPTextModel:
    """A fresh encoder for a tokenizer, with tokens of width `dim`."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=dim,
            intermediate_size=config.feed_forward_mult * dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=config.num_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@torch.no_grad()
def without_shift(autoencoder: AutoencoderKL) -> AutoencoderKL:
    """A copy with the same latents and pictures, but no shift in its config: Stable Diffusion's pipelines read none.

    The shift goes into the biases of the convolutions around the latents.

    Raises:
        ValueError: an autoencoder without those convolutions.
    """
    shift = autoencoder.config.get("shift_factor") or 0.0
    folded = copy.deepcopy(autoencoder)
    if shift and (folded.quant_conv is None or folded.post_quant_conv is None):
        raise ValueError(
            "an autoencoder with a shift_factor needs quant_conv and post_quant_conv, to take the shift in"
        )
    if shift:
        folded.quant_conv.bias[: folded.config.latent_channels] -= shift  # the mean; the rest is the variance
        folded.post_quant_conv.bias += shift * folded.post_quant_conv.weight.sum(dim=(1, 2, 3))
    folded.register_to_config(shift_factor=None)
    return folded

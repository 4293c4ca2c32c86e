"""Prompts as tokens, against diffusers' own encoding."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from drivesim.conditioning.text import TextConditioner
from tests.models.tiny_stable_diffusion import NUM_TOKENS, tiny_text_to_image


@pytest.fixture(scope="module")
def conditioner() -> TextConditioner:
    parts = tiny_text_to_image("v2")
    return TextConditioner(parts.tokenizer, parts.text_encoder)


@torch.no_grad()
def test_prompts_become_the_tokens_that_the_stock_pipeline_makes_of_them(conditioner: TextConditioner) -> None:
    parts = tiny_text_to_image("v2")
    pipeline = StableDiffusionPipeline(
        parts.vae, parts.text_encoder, parts.tokenizer, parts.unet, parts.scheduler, None, None, None, False
    )
    prompt, negative = pipeline.encode_prompt("A car, at night", "cpu", 1, True, "snow")
    made = conditioner(["A car, at night", "snow", "A car, at night"])
    assert made.shape == (3, conditioner.num_tokens, conditioner.dim) == (3, NUM_TOKENS, 32)
    assert torch.equal(made, torch.cat([prompt, negative, prompt]))


@torch.no_grad()
def test_a_prompts_tokens_do_not_depend_on_the_others(conditioner: TextConditioner) -> None:
    alone = conditioner(["left turn"])
    batches: list[int] = []
    embedding = conditioner.text_encoder.get_input_embeddings()
    seen = embedding.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    among = conditioner(["", "left turn", "", "day"])
    seen.remove()
    assert torch.equal(alone[0], among[1]) and torch.equal(among[0], among[2])
    assert not torch.equal(among[0], among[1])
    assert batches == [1, 1, 1]  # each by itself, and once


def test_a_prompt_that_is_too_long_is_refused_with_what_of_it_fits_or_cut(conditioner: TextConditioner) -> None:
    fits = NUM_TOKENS - 2
    assert conditioner(["car " * fits]).shape[0] == 1
    words = ["night", *["car"] * fits]
    with pytest.raises(ValueError, match=rf"a prompt of {fits + 1} tokens; the text encoder takes {fits}") as told:
        conditioner(["day", " ".join(words)])
    assert str(told.value).endswith(f"up to {' '.join(words[:-1])!r}")
    assert torch.equal(conditioner([" ".join(words)], cut=True), conditioner([" ".join(words[:-1])]))


def test_gradients_reach_the_text_encoder(conditioner: TextConditioner) -> None:
    conditioner(["day", "night", "day"]).square().sum().backward()
    gradient = conditioner.text_encoder.final_layer_norm.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_a_tokenizer_of_longer_prompts_than_the_encoder_takes_is_refused() -> None:
    parts = tiny_text_to_image("v1")
    parts.tokenizer.model_max_length = NUM_TOKENS + 1
    with pytest.raises(ValueError, match=f"{NUM_TOKENS + 1} tokens a prompt, but {NUM_TOKENS} positions"):
        TextConditioner(parts.tokenizer, parts.text_encoder)

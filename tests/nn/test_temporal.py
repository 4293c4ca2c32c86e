"""Temporal layers against closed forms and torch's own layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from drivesim.nn.temporal import Attention, Mix, TemporalResBlock, near_frames

HEADS, WIDTH = 2, 8
DIM, TOKEN_DIM = HEADS * WIDTH, 12


def by_multi_head_attention(
    attention: Attention, x_NTC: torch.Tensor, source_NLC: torch.Tensor, blocked_TT: torch.Tensor | None = None
) -> torch.Tensor:
    out, _ = F.multi_head_attention_forward(
        *(tensor.transpose(0, 1) for tensor in (x_NTC, source_NLC, source_NLC)),
        DIM, HEADS, None, torch.zeros(3 * DIM), None, None, False, 0.0, attention.to_out.weight, attention.to_out.bias,
        use_separate_proj_weight=True, q_proj_weight=attention.to_q.weight, k_proj_weight=attention.to_k.weight,
        v_proj_weight=attention.to_v.weight, attn_mask=blocked_TT,
    )  # fmt: skip
    return out.transpose(0, 1)


@pytest.mark.parametrize("num_tokens", [1, 3, WIDTH, WIDTH + 1])
def test_attention_to_few_and_to_many_tokens_is_that_of_torch(num_tokens: int) -> None:
    torch.manual_seed(0)
    attention = Attention(DIM, HEADS, TOKEN_DIM)
    x, tokens = 3 * torch.randn(2, 5, DIM), 3 * torch.randn(2, num_tokens, TOKEN_DIM)
    made, expected = attention(x, tokens), by_multi_head_attention(attention, x, tokens)
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-5)
    parameters = list(attention.parameters())
    for got, want in zip(
        torch.autograd.grad(made.square().sum(), parameters, allow_unused=True),
        torch.autograd.grad(expected.square().sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert got is not None
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_attention_to_near_frames_is_that_of_torch() -> None:
    torch.manual_seed(0)
    attention, x, near = Attention(DIM, HEADS), torch.randn(2, 5, DIM), near_frames(5, 2, torch.device("cpu"))
    assert near is not None
    assert near.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    expected = by_multi_head_attention(attention, x, x, ~near)
    torch.testing.assert_close(attention(x, near_TT=near), expected, atol=1e-6, rtol=1e-5)
    assert near_frames(3, 2, torch.device("cpu")) is None  # all are near


def test_context_goes_past_a_residual_blocks_convolutions_where_asked_to() -> None:
    torch.manual_seed(0)
    video, embedding, context = torch.randn(2, 8, 3, 4), torch.randn(2, 3, 6), torch.randn(2, 4, 3, 4)
    block = TemporalResBlock(8, 6, groups=4, context_channels=4, context_shortcut=True)
    assert not block(video, embedding, context).any()  # a fresh one changes nothing
    assert block.shortcut is not None
    torch.nn.init.normal_(block.shortcut.weight)
    torch.testing.assert_close(block(video, embedding, context), block.shortcut(context))


def test_attention_to_few_tokens_runs_in_mixed_precision() -> None:
    torch.manual_seed(0)
    attention = Attention(DIM, HEADS, TOKEN_DIM)
    x, tokens = torch.randn(2, 5, DIM), torch.randn(2, 3, TOKEN_DIM)
    expected = attention(x, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        made = attention(x, tokens)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), expected, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("num_alphas", [1, 4])
def test_a_mix_weighs_frames_by_alpha_and_gives_spatial_ones_back_at_one(num_alphas: int) -> None:
    torch.manual_seed(0)
    mix = Mix(num_alphas)
    mix.logit.data.normal_()
    spatial, change = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    alpha = mix.logit.sigmoid().view(1, -1, 1, 1)
    expected = alpha * spatial + (1 - alpha) * (spatial + change)
    torch.testing.assert_close(mix(spatial, spatial + change), expected)
    torch.testing.assert_close(mix.add(spatial, change), expected)
    mix.set_alpha(1.0)
    assert torch.equal(mix(spatial, spatial + change), spatial)
    assert torch.equal(mix.add(spatial, change), spatial)

"""Layers that see a stack of frames in time: convolution, attention and the mix with the image layers.

Axes: B samples, T frames, C channels, H W picture, P = H * W positions. Image layers see frames as
`(B T) C H W`. In channels-last memory that tensor and `B C T P` are views of each other, so a
(3, 1, 1) convolution is a (3, 1) Conv2d on the view and nothing is copied.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# CUDA's fused attention kernels refuse batches of 65,536 and above.
MAX_ATTENTION_BATCH = 32_768
# Numbers of an activation that are taken at once on a CPU, whose caches then hold what a feed-forward layer makes of
# them: a forward pass takes 2 % less time (64, 128 and 256 channels, 10 frames of 16 x 32) and a peak of less memory.
# Twice as many take the same time.
CPU_PORTION = 2**16
MOST_COUNTED = 8  # portions of one layer, on the meta device


def to_time_view(frames_NCHW: Tensor, num_frames: int) -> Tensor:
    """`(B T) C H W` -> `B C T P`; a view when the input is channels-last."""
    n, c, h, w = frames_NCHW.shape
    channels_last = frames_NCHW.permute(0, 2, 3, 1)
    return channels_last.reshape(n // num_frames, num_frames, h * w, c).permute(0, 3, 1, 2)


def from_time_view(video_BCTP: Tensor, like_NCHW: Tensor) -> Tensor:
    """`B C T P` -> `(B T) C H W` in the memory layout of `like_NCHW`; the inverse of `to_time_view`.

    The layout is kept because convolution kernels of another layout round differently: alpha = 1 has
    to give the image model's picture bit for bit.
    """
    n, c, h, w = like_NCHW.shape
    frames = video_BCTP.permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)
    return frames.contiguous() if like_NCHW.is_contiguous() else frames


def sinusoidal(positions: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embeddings (N, dim) of positions (N,), cosines first (as diffusers' flip_sin_to_cos)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=positions.device) / half)
    angles = positions.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class NoiseLevelEmbedding(nn.Module):
    """A diffusion step, to which given frames are noised, as an addition to the time embedding; begins at zero."""

    def __init__(self, dim: int, num_frequencies: int = 64):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.proj_in = nn.Linear(num_frequencies, dim)
        self.proj_out = nn.Linear(dim, dim)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, level_B: Tensor) -> Tensor:
        """(B,) steps to (B, dim)."""
        waves = sinusoidal(level_B, self.num_frequencies).to(self.proj_in.weight.dtype)
        return self.proj_out(F.silu(self.proj_in(waves)))  # type: ignore[no-any-return]


class MotionEmbedding(nn.Module):
    """How the ego car drives, as an addition to the time embedding of each frame; begins at zero.

    What is not known adds nothing, so that a network is the same where nobody says anything.
    """

    _SCALES = (10.0, 0.4)  # m/s and rad/s that are much

    def __init__(self, dim: int, width: int = 64):
        super().__init__()
        self.proj_in = nn.Linear(4, width)
        self.proj_out = nn.Linear(width, dim)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, motion_BT2: Tensor) -> Tensor:
        """Speeds in m/s and yaw rates in rad/s (B, T, 2), NaN = unknown, to (B, T, dim)."""
        weight = self.proj_in.weight
        is_known = ~motion_BT2.isnan()
        scaled = motion_BT2.to(weight) / torch.tensor(self._SCALES, device=weight.device, dtype=weight.dtype)
        numbers = torch.cat([torch.where(is_known, scaled, torch.zeros_like(scaled)), is_known.to(weight)], dim=-1)
        told = self.proj_out(F.silu(self.proj_in(numbers)))
        return told * is_known.any(-1, keepdim=True)  # type: ignore[no-any-return]


class Mix(nn.Module):
    """`alpha * spatial + (1 - alpha) * temporal`, alpha = sigmoid of a learned number (§3.1).

    Args:
        num_alphas: 1 = one alpha for all frames; T = one for each frame index.
    """

    def __init__(self, num_alphas: int = 1, initial: float = 0.5):
        super().__init__()
        self.logit = nn.Parameter(torch.full((num_alphas,), math.log(initial / (1 - initial))))

    def set_alpha(self, value: float) -> None:
        """Sets alpha; at 1 the spatial layers are all there is."""
        self.logit.data.fill_(math.inf if value >= 1 else math.log(max(value, 1e-12) / (1 - value)))

    def alpha(self, num_frames: int) -> Tensor:
        """(T,) in [0, 1], or (1,) when all frames share one."""
        if len(self.logit) not in (1, num_frames):
            assert num_frames < len(self.logit), f"{num_frames} frames, but alphas for {len(self.logit)}"
            return torch.sigmoid(self.logit[:num_frames])
        return torch.sigmoid(self.logit)

    def forward(self, spatial_BTX: Tensor, temporal_BTX: Tensor) -> Tensor:
        """Both (B, T, ...); alpha = 1 gives back `spatial_BTX` exactly."""
        return torch.lerp(temporal_BTX.to(spatial_BTX.dtype), spatial_BTX, self._alpha_like(spatial_BTX))

    def add(self, spatial_BTX: Tensor, change_BTX: Tensor) -> Tensor:
        """The mix of `spatial_BTX` and `spatial_BTX + change_BTX`, both (B, T, ...), in one pass over memory."""
        return torch.addcmul(spatial_BTX, change_BTX.to(spatial_BTX.dtype), 1 - self._alpha_like(spatial_BTX))

    def _alpha_like(self, x_BTX: Tensor) -> Tensor:
        return self.alpha(x_BTX.shape[1]).to(x_BTX.dtype).view(1, -1, *([1] * (x_BTX.ndim - 2)))


class TemporalResBlock(nn.Module):
    """Two (3, 1, 1) convolutions over time, as in Stable Video Diffusion's residual blocks: what is added to the video.

    With `context_channels` the given frames' features are concatenated before the first convolution
    (fig. 4), and with `context_shortcut` they also go past both, as the input of a residual block does that is wider
    than its output. What is added last starts at zero, so a fresh block changes nothing. With a `time_kernel` of 1
    it still brings the context in, and sees and normalises each frame by itself: attention alone then sees others.
    """

    def __init__(
        self,
        channels: int,
        time_embed_dim: int,
        *,
        groups: int = 32,
        context_channels: int = 0,
        context_shortcut: bool = False,
        time_kernel: int = 3,
        eps: float = 1e-6,
    ):
        super().__init__()
        wide = channels + context_channels
        kernel, padding = (time_kernel, 1), (time_kernel // 2, 0)
        self.sees_one_frame = time_kernel == 1
        self.norm1 = nn.GroupNorm(math.gcd(groups, wide), wide, eps=eps)
        self.conv1 = nn.Conv2d(wide, channels, kernel, padding=padding)
        self.time_emb_proj = nn.Linear(time_embed_dim, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv2 = nn.Conv2d(channels, channels, kernel, padding=padding)
        self.shortcut = nn.Conv2d(context_channels, channels, 1) if context_channels and context_shortcut else None
        last = [self.conv2, *([] if self.shortcut is None else [self.shortcut])]
        for parameter in (parameter for layer in last for parameter in layer.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, video_BCTP: Tensor, time_embed_BTD: Tensor, context_BCTP: Tensor | None = None) -> Tensor:
        """`B C T P` -> `B C T P`, the change."""
        x = video_BCTP if context_BCTP is None else torch.cat([video_BCTP, context_BCTP], dim=1)
        x = self._normalised(self.norm1, x)
        x = self.conv1(F.silu(x, inplace=not torch.is_grad_enabled()))
        x = x + self.time_emb_proj(F.silu(time_embed_BTD)).transpose(1, 2)[..., None]
        x = self._normalised(self.norm2, x)
        change: Tensor = self.conv2(F.silu(x, inplace=not torch.is_grad_enabled()))
        return change if self.shortcut is None else change + self.shortcut(context_BCTP)

    def _normalised(self, norm: nn.GroupNorm, x_BCTP: Tensor) -> Tensor:
        """Groups over all frames, or over each frame by itself."""
        if not self.sees_one_frame:
            return norm(x_BCTP)  # type: ignore[no-any-return]
        frames_NCP = x_BCTP.transpose(1, 2).flatten(0, 1)
        return norm(frames_NCP).unflatten(0, (len(x_BCTP), -1)).transpose(1, 2)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Gated linear unit with GELU (GEGLU), `mult` times wider inside."""

    def __init__(self, dim: int, mult: int = 4):
        super().__init__()
        self.proj_in = nn.Linear(dim, 2 * mult * dim)
        self.proj_out = nn.Linear(mult * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        hidden, gate = self.proj_in(x).chunk(2, dim=-1)
        gate = F.gelu(gate)
        gated = hidden * gate if torch.is_grad_enabled() else gate.mul_(hidden)
        del hidden, gate  # a quarter of what is held while it is projected back
        return self.proj_out(gated)


class ProjectedTokens(NamedTuple):
    """What attention sees of tokens; projected once a sample, whatever the number of positions that see them."""

    keys: Tensor  # (N, H, L, D), or (N, H L, C) folded
    values: Tensor  # likewise
    num_folded: int  # L where they are folded; 0 = they are not


class Attention(nn.Module):
    """Multi-head attention; keys and values may come from other tokens, shared by all positions."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x_NTC: Tensor, context_NLC: Tensor | None = None, *, near_TT: Tensor | None = None) -> Tensor:
        """(N, T, C) -> (N, T, C), softmax over T, or over L when tokens are given.

        Args:
            x_NTC: what asks.
            context_NLC: what is seen; None = `x_NTC` itself.
            near_TT: which of T sees which, True = it does; None = all. Only without tokens.
        """
        if context_NLC is not None:
            return self.to_tokens(x_NTC, self.projected(context_NLC))
        q, k, v = (self._split(to(x_NTC)) for to in (self.to_q, self.to_k, self.to_v))
        return self._out(F.scaled_dot_product_attention(q, k, v, attn_mask=near_TT))

    def projected(self, context_NLC: Tensor) -> ProjectedTokens:
        """Keys and values of tokens (N, L, C'), for any number of `to_tokens`.

        Where a head has fewer tokens than channels, to_q is folded into the keys and to_out into the values. Both
        then are matrices of C x (H L), smaller than to_q and to_out, and no query is ever made.
        """
        k_NHLD, v_NHLD = self._split(self.to_k(context_NLC)), self._split(self.to_v(context_NLC))
        _, heads, num_tokens, width = k_NHLD.shape
        if num_tokens > width:
            return ProjectedTokens(k_NHLD, v_NHLD, 0)
        to_q_HDC = self.to_q.weight.view(heads, width, -1)
        to_out_HDC = self.to_out.weight.t().reshape(heads, width, -1)
        keys_NMC = (k_NHLD @ to_q_HDC).flatten(1, 2) * width**-0.5
        return ProjectedTokens(keys_NMC, (v_NHLD @ to_out_HDC).flatten(1, 2), num_tokens)

    def to_tokens(self, x_NTC: Tensor, tokens: ProjectedTokens) -> Tensor:
        """(N, T, C) -> (N, T, C), softmax over tokens."""
        keys, values, num_folded = tokens
        if not num_folded:
            return self._out(F.scaled_dot_product_attention(self._split(self.to_q(x_NTC)), keys, values))
        weights_NTHL = (x_NTC @ keys.mT).unflatten(-1, (self.heads, num_folded)).softmax(-1)
        bias = self.to_out.bias.to(values.dtype)
        return torch.baddbmm(bias, weights_NTHL.flatten(2).to(values.dtype), values)

    def _out(self, x_NHTD: Tensor) -> Tensor:
        return self.to_out(x_NHTD.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TemporalTransformerBlock(nn.Module):
    """Attention over the frames of one position, in Stable Video Diffusion's order of layers."""

    def __init__(self, dim: int, heads: int, *, context_dim: int | None = None, feed_forward_mult: int = 4):
        super().__init__()
        self.norm_in = nn.LayerNorm(dim)
        self.ff_in = FeedForward(dim, feed_forward_mult)
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim) if context_dim is not None else None
        self.attn2 = Attention(dim, heads, context_dim) if context_dim is not None else None
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, feed_forward_mult)

    def projected(self, tokens_BLC: Tensor | None) -> ProjectedTokens | None:
        """What `forward` sees of tokens; None = a block without cross-attention."""
        if self.attn2 is None:
            return None
        assert tokens_BLC is not None, "this temporal stack was built with cross-attention: tokens are needed"
        return self.attn2.projected(tokens_BLC)

    def forward(self, x_BTPC: Tensor, tokens: ProjectedTokens | None = None, near_TT: Tensor | None = None) -> Tensor:
        """`B T P C` -> `B T P C`; `tokens` are one sample's, seen by all its positions; `near_TT` as in `Attention`."""
        b, t, p, c = x_BTPC.shape
        x = x_BTPC.transpose(1, 2).contiguous().view(b * p, t, c)
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x), near_TT=near_TT)
        if self.attn2 is not None and self.norm2 is not None and tokens is not None:
            # All positions of a sample as one sequence: what it sees is not repeated for each of them.
            x = x + self.attn2.to_tokens(self.norm2(x).view(b, p * t, c), tokens).view(b * p, t, c)
        x = x + self.ff(self.norm3(x))
        return x.view(b, p, t, c).transpose(1, 2)


def near_frames(num_frames: int, window: int, device: torch.device) -> Tensor | None:
    """Which frames see which: those at most `window` apart, bool (T, T); None = all.

    So clips of more frames than a stack was trained on are made convolutionally in time.
    """
    if num_frames <= window + 1:
        return None
    index = torch.arange(num_frames, device=device)
    return (index[:, None] - index[None]).abs() <= window


def positions_at_once(video_BTPC: Tensor) -> int:
    """How many positions a temporal transformer takes at once: they don't see one another."""
    b, t, positions, c = video_BTPC.shape
    kind = video_BTPC.device.type
    if kind == "cpu":
        return max(1, CPU_PORTION // (t * c) // b)
    if kind == "meta":  # what is counted is a CPU's; of portions that are all alike so many that it ends some time
        return max(1, CPU_PORTION // (t * c) // b, -(-positions // MOST_COUNTED))
    return max(1, MAX_ATTENTION_BATCH // b)

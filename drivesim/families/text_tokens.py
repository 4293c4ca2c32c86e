"""Prompts over time as the tokens that networks see: of every frame for spatial layers, of a clip for temporal ones.

Axes: B clips, T frames, F of them that are told something of their own (1 where all are told the same), L tokens,
D channels of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drivesim.families.prompts import Mix, Prompts, mixes_at

Encode = Callable[[Sequence[str]], Tensor]  # prompts to tokens (B, L, D)
MOST_KEPT = 64  # prompts whose tokens are kept


@dataclass(kw_only=True, slots=True)
class Told:
    """What networks are told of clips: one branch of guidance, or both in one batch."""

    spatial_BFLD: Tensor
    temporal_BLD: Tensor

    def followed_by(self, other: Told) -> Told:
        """Both as one batch."""
        return Told(
            spatial_BFLD=torch.cat([self.spatial_BFLD, other.spatial_BFLD]),
            temporal_BLD=torch.cat([self.temporal_BLD, other.temporal_BLD]),
        )


@dataclass(slots=True)
class PromptEncoder:
    """A text encoder that remembers the prompts of a video."""

    encode: Encode
    _known: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def at(self, prompts: Sequence[str], mixes: Sequence[Mix]) -> Tensor:
        """Tokens (T, L, D) at moments; between two prompts those in between."""
        return torch.stack([self._mixed(prompts, mix) for mix in mixes])

    def _mixed(self, prompts: Sequence[str], mix: Mix) -> Tensor:
        tokens_LD = self._tokens(prompts[mix.index])
        if mix.share_of_next == 0:
            return tokens_LD
        return torch.lerp(tokens_LD, self._tokens(prompts[mix.index + 1]), mix.share_of_next)

    def _tokens(self, prompt: str) -> Tensor:
        if prompt not in self._known:
            if len(self._known) == MOST_KEPT:
                self._known.clear()
            self._known[prompt] = self.encode([prompt])[0]
        return self._known[prompt]


@dataclass(slots=True)
class Telling:
    """Tells networks of clips what their prompts are.

    Spatial layers are told the prompt of each frame, by the image model's text encoder. Temporal layers, which move
    from one image model to another, are told the prompt without a personal subject, by the encoder that they were
    trained with; and one thing for a whole clip, the mean over its frames, because what they see of tokens is projected
    once a sample.
    """

    spatial: PromptEncoder
    temporal: PromptEncoder
    knows_subject: bool = True  # whether the spatial layers are those of a personal subject, where there is one

    def told(self, prompts: Prompts, moments_BT: Sequence[Sequence[float]], duration_s: float, scale: float) -> Told:
        """What clips of one video are told; without prompts first, then with them, where guidance needs both.

        Args:
            prompts: of the video.
            moments_BT: seconds from the video's beginning of each frame of each clip.
            duration_s: of the video.
            scale: of guidance.
        """
        without_subject = prompts.without_subject()
        spatial = prompts.prompts if self.knows_subject else without_subject
        mixes = [mixes_at(prompts, moments_T, duration_s) for moments_T in moments_BT]
        own = 1 if all(_is_one(of_clip) for of_clip in mixes) else None  # frames told something of their own
        conditional = Told(
            spatial_BFLD=torch.stack([self.spatial.at(spatial, of_clip[:own]) for of_clip in mixes]),
            temporal_BLD=torch.stack([self._of_clip(without_subject, of_clip) for of_clip in mixes]),
        )
        if scale == 1.0:
            return conditional
        always = [[Mix(index=0, share_of_next=0.0)] * len(moments_T) for moments_T in moments_BT]
        negative = [prompts.negative_prompt]
        unconditional = Told(
            spatial_BFLD=torch.stack([self.spatial.at(negative, of_clip[:own]) for of_clip in always]),
            temporal_BLD=torch.stack([self.temporal.at(negative, of_clip[:1])[0] for of_clip in always]),
        )
        return unconditional.followed_by(conditional)

    def _of_clip(self, prompts: Sequence[str], mixes: Sequence[Mix]) -> Tensor:
        """Tokens (L, D) for temporal layers: the mean over frames, exactly one prompt's where there is but one."""
        if _is_one(mixes):
            return self.temporal.at(prompts, mixes[:1])[0]
        return self.temporal.at(prompts, mixes).mean(dim=0)


def _is_one(mixes: Sequence[Mix]) -> bool:
    return all(mix == mixes[0] for mix in mixes)

"""Prompts as CLIP tokens, the way Stable Diffusion sees them (§4.2, App. H).

Axes: B prompts, L tokens (77), D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer


class TextConditioner(nn.Module):
    """A tokenizer and a text encoder; the empty prompt is what classifier-free guidance calls unconditional.

    Args:
        tokenizer: of the checkpoint that the encoder is from.
        text_encoder: its last hidden state is what attention layers see.
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel):
        super().__init__()
        if text_encoder.config.max_position_embeddings < tokenizer.model_max_length:
            raise ValueError(
                f"tokenizer and text encoder do not belong together: {tokenizer.model_max_length} tokens a prompt, but "
                f"{text_encoder.config.max_position_embeddings} positions"
            )
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder

    @property
    def num_tokens(self) -> int:
        """Tokens of every prompt, padding included: L."""
        return int(self.tokenizer.model_max_length)

    @property
    def dim(self) -> int:
        """Channels of a token: D."""
        return int(self.text_encoder.config.hidden_size)

    def forward(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:
        """Tokens (B, L, D), in the encoder's dtype and with its gradients.

        Args:
            prompts: any text; "" = unconditional.
            cut: what does not fit is left out (captions of a data set); False = a prompt that is too long is refused.

        Raises:
            ValueError: a prompt that is too long; says what of it fits.
        """
        ids_BL = self.token_ids(prompts, cut=cut)
        # Each prompt by itself: a matrix product of another batch size rounds differently, so that the same prompt
        # would not always be the same tokens.
        each = {row: self._encoded(torch.tensor([row])) for row in dict.fromkeys(map(tuple, ids_BL.tolist()))}
        return torch.cat([each[tuple(row)] for row in ids_BL.tolist()])

    def token_ids(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:
        """int64 (B, L) of prompts, padded; errors as in `forward`."""
        if not cut:
            for prompt in prompts:
                self.check(prompt)
        encoded = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.num_tokens, truncation=True, return_tensors="pt"
        )
        ids_BL: Tensor = encoded.input_ids
        return ids_BL

    def check(self, prompt: str, what: str = "a prompt") -> None:
        """Raises ValueError for a prompt, called so, that is too long; says what of it fits."""
        ids = self.tokenizer(prompt, verbose=False).input_ids  # what is too long for it is told here
        if len(ids) <= self.num_tokens:
            return
        fits = self.tokenizer.decode(ids[1 : self.num_tokens - 1]).strip()
        raise ValueError(
            f"{what} of {len(ids) - 2} tokens; the text encoder takes {self.num_tokens - 2}, which is up to {fits!r}"
        )

    def _encoded(self, ids_1L: Tensor) -> Tensor:
        tokens_1LD: Tensor = self.text_encoder(ids_1L.to(self.text_encoder.device))[0]
        return tokens_1LD

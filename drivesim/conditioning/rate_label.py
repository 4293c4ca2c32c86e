"""Which frame rate an interpolation makes, as a token for its temporal layers (§3.3, Table 8)."""

from __future__ import annotations

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class RateLabel(ModelMixin, ConfigMixin):
    """One learned token a rate.

    Args:
        num_rates: rates that one model serves, the lowest first.
        dim: width of the token; the temporal stack's `cross_attention_dim`.
    """

    @register_to_config
    def __init__(self, num_rates: int = 2, dim: int = 512):
        super().__init__()
        self.label = nn.Embedding(num_rates, dim)

    def forward(self, rate_B: Tensor) -> Tensor:
        """Tokens (B, 1, dim) of rates (B,) int64, 0 = the lowest."""
        token: Tensor = self.label(rate_B)
        return token[:, None]

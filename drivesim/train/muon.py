"""Muon: momentum whose matrices are made orthogonal before each step, with AdamW for everything else.

Muon (Jordan et al. 2024) is for the weight matrices of hidden layers. Its steps are scaled as Liu et
al. 2025 ("Muon is scalable for LLM training") do, so that a learning rate tuned for AdamW fits. A
convolution kernel counts as the matrix (out, in * height * width); torch.optim.Muon refuses those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the odd polynomial that drives all singular values towards 1 in five iterations (Jordan et al.).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
RMS_OF_ADAMW = 0.2  # root mean square of a typical AdamW step, in units of the learning rate


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Trained weights of linear layers and convolutions, without embeddings, norms and biases."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found: list[object] = [layer.weight for layer in module.modules() if isinstance(layer, kinds)]
    # Attention of torch.nn keeps its projections outside of linear layers.
    found += [layer.in_proj_weight for layer in module.modules() if isinstance(layer, nn.MultiheadAttention)]
    return [weight for weight in found if isinstance(weight, nn.Parameter) and weight.requires_grad]


def orthogonalized(matrix_OI: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly: singular values end between 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix_OI.shape[0] > matrix_OI.shape[1]
    x = matrix_OI.T if is_tall else matrix_OI
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x


class Muon(torch.optim.AdamW):
    """AdamW, except that the parameter groups with `is_matrix` set take Muon's steps.

    Args:
        matrices: parameters of two or more axes; the first one is the output.
        others: parameters for AdamW.
        momentum: of the matrices' gradients (Nesterov).
        adamw: the keyword arguments of `torch.optim.AdamW`; `lr` and `weight_decay` hold for all.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], momentum: float, **adamw: Any):
        groups = [
            {"params": others, "is_matrix": False, "momentum": momentum},
            {"params": matrices, "is_matrix": True, "momentum": momentum},
        ]
        super().__init__([group for group in groups if group["params"]], **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        all_groups = self.param_groups
        try:
            self.param_groups = [group for group in all_groups if not group["is_matrix"]]
            super().step()
        finally:
            self.param_groups = all_groups
        for group in all_groups:
            if group["is_matrix"]:
                self._matrix_step(group)
        return loss

    def _matrix_step(self, group: dict[str, Any]) -> None:
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if "momentum" not in state:
                state["step"] = torch.zeros(())  # AdamW asks for it when a state is loaded
                state["momentum"] = torch.zeros_like(weight)
            state["step"] += 1
            state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            nesterov = weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
            step = orthogonalized(nesterov).view_as(weight)
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(step, alpha=-group["lr"] * RMS_OF_ADAMW * max(nesterov.shape) ** 0.5)

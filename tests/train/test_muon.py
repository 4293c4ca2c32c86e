"""Muon: orthogonal steps for matrices, AdamW's own for the rest."""

import copy

import torch
from torch import nn

from drivesim.train.muon import Muon, hidden_matrices, orthogonalized
from drivesim.train.optim import OptimConfig, OptimizerName, make_optimizer


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 3))


def with_gradients(module: nn.Module) -> nn.Module:
    module(torch.tensor([0, 2, 4])).square().sum().backward()
    return module


def test_a_matrix_becomes_nearly_orthonormal_and_keeps_its_directions() -> None:
    torch.manual_seed(0)
    for shape in ((6, 20), (20, 6), (8, 8)):
        matrix = torch.randn(shape)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        matrix = u @ torch.diag(s.clamp(min=0.3 * float(s.max()))) @ v  # five iterations lift no tiny values
        result = orthogonalized(matrix)
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6
        assert values.max() < 1.3
        nearest = u @ v
        assert torch.nn.functional.cosine_similarity(result.flatten(), nearest.flatten(), dim=0) > 0.97


def test_weights_of_layers_count_as_matrices_and_nothing_else_does() -> None:
    module = nn.ModuleList([net(), nn.Conv2d(2, 4, 3), nn.MultiheadAttention(8, 2)])
    module[1].weight.requires_grad_(False)
    names = {id(p): name for name, p in module.named_parameters()}
    found = {names[id(weight)] for weight in hidden_matrices(module)}
    assert found == {"0.1.weight", "0.3.weight", "2.in_proj_weight", "2.out_proj.weight"}


def test_what_is_no_matrix_moves_as_with_adamw() -> None:
    one, other = net(), net()
    matrices = hidden_matrices(one)
    of_matrices = {id(weight) for weight in matrices}
    rest = [p for p in one.parameters() if id(p) not in of_matrices]
    arguments = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    muon, adamw = Muon(matrices, rest, 0.95, **arguments), torch.optim.AdamW(other.parameters(), **arguments)
    for _ in range(2):
        # The same gradients for both, though their matrices part after the first step.
        for module in (one, other):
            module.zero_grad()
        with_gradients(other)
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            p.grad = q.grad.clone()
        muon.step()
        adamw.step()
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q) == (id(p) not in of_matrices), name


def test_the_first_step_of_a_matrix_is_orthogonal_times_the_rate_of_adamw() -> None:
    module = net()
    optimizer, schedule = make_optimizer(
        module, OptimConfig(optimizer=OptimizerName.MUON, learning_rate=0.01, warmup_steps=0), max_steps=10
    )
    weight = module[1].weight
    before = weight.detach().clone()
    with_gradients(module)
    wanted = orthogonalized(weight.grad)
    optimizer.step()
    schedule.step()
    torch.testing.assert_close(before - weight.detach(), 0.01 * 0.2 * 12**0.5 * wanted, rtol=1e-4, atol=1e-6)


def test_a_saved_and_loaded_optimizer_goes_on_alike() -> None:
    config = OptimConfig(optimizer=OptimizerName.MUON, learning_rate=0.01)
    one = net()
    optimizer, _ = make_optimizer(one, config, 10)
    with_gradients(one)
    optimizer.step()
    other = copy.deepcopy(one)
    loaded, _ = make_optimizer(other, config, 10)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for module, its in ((one, optimizer), (other, loaded)):
        module.zero_grad()
        with_gradients(module)
        its.step()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)

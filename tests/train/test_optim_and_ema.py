"""Learning-rate course and averaged weights."""

import pytest
import torch
from torch import nn

from drivesim.train.ema import EmaWeights
from drivesim.train.optim import LearningRate, OptimConfig, learning_rate_share


def test_cosine_warms_up_linearly_peaks_and_ends_at_its_final_share() -> None:
    config = OptimConfig(schedule=LearningRate.COSINE, warmup_steps=10, final_share=0.1)
    shares = [learning_rate_share(step, 110, config) for step in range(111)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[10] == pytest.approx(1.0)
    assert shares[60] == pytest.approx(0.55)
    assert shares[110] == pytest.approx(0.1)


def test_constant_stays_at_the_peak() -> None:
    config = OptimConfig(schedule=LearningRate.CONSTANT, warmup_steps=4)
    assert [learning_rate_share(step, 9, config) for step in (3, 4, 8)] == [1.0, 1.0, 1.0]


def test_averages_follow_the_trained_weights_alone_and_swap_in_and_out() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    net[1].requires_grad_(False)
    ema = EmaWeights(net, decay=0.5)
    assert len(list(ema.buffers())) == 2
    before = net[0].weight.detach().clone()
    net[0].weight.data += 1.0
    ema.update(step=1000)
    with ema.swapped_in():
        assert torch.allclose(net[0].weight, before + 0.5)
    assert torch.allclose(net[0].weight, before + 1.0)


def test_averages_forget_fresh_weights_early() -> None:
    net = nn.Linear(1, 1)
    ema = EmaWeights(net, decay=0.999)
    before = net.weight.detach().clone()
    net.weight.data += 1.0
    ema.update(step=0)
    with ema.swapped_in():
        assert torch.allclose(net.weight, before + 0.9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_averages_have_32_bits_or_more_and_follow_weights_of_16(dtype: torch.dtype) -> None:
    owner = nn.ModuleDict({"net": nn.Linear(1, 1)})
    owner["ema"] = EmaWeights(owner["net"], decay=0.999)
    owner.to(dtype)
    ema = owner["ema"]
    assert isinstance(ema, EmaWeights)
    assert ema.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    nn.init.ones_(owner["net"].weight)
    ema.get_buffer("weight").fill_(0.9)
    ema.update(step=100_000)
    assert ema.get_buffer("weight").item() == pytest.approx(0.9001, abs=1e-6)
    with ema.swapped_in():
        assert owner["net"].weight.dtype is dtype
        assert owner["net"].weight.item() == pytest.approx(0.9001, rel=torch.finfo(dtype).eps)
    assert owner["net"].weight.item() == 1.0
    assert ema.to("meta").get_buffer("weight").is_meta


def test_averages_of_16_bits_in_an_older_checkpoint_are_read() -> None:
    ema = EmaWeights(nn.Linear(1, 1), decay=0.999)
    ema.load_state_dict({name: torch.full_like(t, 0.5, dtype=torch.bfloat16) for name, t in ema.state_dict().items()})
    assert ema.dtype is torch.float32
    assert ema.get_buffer("weight").item() == 0.5

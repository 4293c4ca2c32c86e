"""Perceptual distances against the formula, computed another way."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from drivesim.nn.perceptual import NETWORKS, PerceptualDistance, _unit

REAL = Path(__file__).resolve().parents[3] / "shared" / "weights" / "squeezenet1_0_imagenet_fp16.safetensors"


def random_weights(network: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weights = {f"features.{name}": tensor for name, tensor in NETWORKS[network][0]().state_dict().items()}
    return weights | {"classifier.1.weight": torch.zeros(3)}


def pictures(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    ("network", "channels", "is_lpips"),
    [
        ("vgg16", [64, 128, 256, 512, 512], True),
        ("squeezenet1_1", [64, 128, 256, 384, 384, 512, 512], True),
        ("squeezenet1_0", [96, 128, 256, 384, 384, 512, 512], False),
    ],
)
def test_each_layer_counts_by_its_normalised_difference(network: str, channels: list[int], is_lpips: bool) -> None:
    distance = PerceptualDistance(network, random_weights(network))
    assert ("LPIPS" in distance.name) == is_lpips
    a, b = pictures(0), pictures(1)
    taps = [list(distance._taps(x)) for x in (a, b)]
    assert [tap.shape[1] for tap in taps[0]] == channels
    total = torch.zeros(2)
    for index, (x, y) in enumerate(zip(*taps, strict=True)):
        squares = (F.normalize(x, dim=1) - F.normalize(y, dim=1)) ** 2
        weight = torch.ones(x.shape[1]) if distance.linear is None else distance.linear[index].flatten()
        total += torch.einsum("bchw,c->bhw", squares, weight).mean(dim=(1, 2))
    torch.testing.assert_close(distance(a, b), total, rtol=1e-4, atol=1e-6)
    assert (distance(a, a) == 0).all()


def test_nothing_of_it_is_trained_and_pictures_get_gradients() -> None:
    distance = PerceptualDistance("squeezenet1_1", random_weights("squeezenet1_1"))
    assert not any(p.requires_grad for p in distance.parameters())
    a = pictures(0).requires_grad_()
    distance(a, pictures(1)).sum().backward()
    assert a.grad is not None
    assert a.grad.abs().max() > 0


def test_a_position_without_any_feature_has_a_finite_gradient() -> None:
    features = torch.zeros(1, 3, 2, 2)
    features[..., 0] = 1.0
    features.requires_grad_()
    _unit(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_weights_of_another_network_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"weights of squeezenet1_0: features.0.weight is of shape \(64, 3, 3, 3\)"):
        PerceptualDistance("squeezenet1_0", random_weights("squeezenet1_1"))
    with pytest.raises(ValueError, match="features.0.weight is missing"):
        PerceptualDistance("vgg16", {})
    with pytest.raises(ValueError, match="valid: vgg16, squeezenet1_1, squeezenet1_0"):
        PerceptualDistance("alexnet", {})


@pytest.mark.skipif(not REAL.is_file(), reason=f"real weights are not there: {REAL}")
def test_with_real_weights_a_blur_is_further_off_than_as_much_noise() -> None:
    distance = PerceptualDistance("squeezenet1_0", load_file(REAL))
    stripes = (torch.arange(64) // 4 % 2 * 2.0 - 1).expand(1, 3, 48, 64) * 0.5
    blurred = F.avg_pool2d(stripes, 5, 1, 2, count_include_pad=False)
    brighter = stripes + (blurred - stripes).square().mean().sqrt()
    assert distance(blurred, stripes) > 2 * distance(brighter, stripes)

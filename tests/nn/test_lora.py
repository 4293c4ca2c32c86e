"""Low-rank changes: nothing at first; what is trained is what a file of them adds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.func import functional_call

from drivesim.models.lora import fuse_lora
from drivesim.nn.lora import LoraLayers
from tests.models.tiny_stable_diffusion import tiny_text_to_image

INPUTS = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5]), torch.ones(1, 3, 24))
ENDINGS = ("to_q", "to_out.0")
EVERY = ("",)


@pytest.mark.parametrize("endings", [ENDINGS, EVERY], ids=["attention", "all"])
def test_fresh_changes_change_nothing_and_trained_ones_are_what_the_loader_fuses(
    endings: tuple[str, ...], tmp_path: Path
) -> None:
    model = tiny_text_to_image("v1")
    layers = LoraLayers(model.unet, endings, rank=2)
    assert all(name.endswith(endings) for name in layers.names)
    assert ("conv_in" in layers.names) == (endings == EVERY), "a convolution, too"
    before = model.unet(*INPUTS).sample
    assert torch.equal(functional_call(model.unet, layers.weights(model.unet), INPUTS).sample, before)
    with torch.no_grad():
        for up in layers.up:
            up.normal_(std=0.1 if endings == EVERY else 1, generator=torch.Generator().manual_seed(1))
    changed = functional_call(model.unet, layers.weights(model.unet), INPUTS).sample
    assert not torch.allclose(changed, before, atol=1e-2)
    assert torch.equal(model.unet(*INPUTS).sample, before), "the network itself is as it was"
    save_file(layers.tensors("unet"), tmp_path / "pytorch_lora_weights.safetensors")
    fuse_lora(tmp_path, model.unet, model.text_encoder)
    torch.testing.assert_close(model.unet(*INPUTS).sample, changed, rtol=1e-4, atol=1e-4)


def test_the_change_of_a_convolution_is_two_convolutions_one_after_the_other() -> None:
    """As peft runs it, through which diffusers loads such files: a kernel in lora_A, one of 1 x 1 in lora_B."""
    unet = tiny_text_to_image("v1").unet
    layers = LoraLayers(unet, ("conv1",), rank=2)
    with torch.no_grad():
        for up in layers.up:
            up.normal_()
    name, tensors = layers.names[0], layers.tensors("unet")
    conv = unet.get_submodule(name)
    down, up = (tensors[f"unet.{name}.lora_{which}.weight"] for which in "AB")
    assert down.shape == (2, conv.in_channels, 3, 3)
    assert up.shape == (conv.out_channels, 2, 1, 1)
    change = layers.weights(unet)[f"{name}.weight"] - conv.weight
    frames = torch.randn(1, conv.in_channels, 4, 4)
    one_after_the_other = F.conv2d(F.conv2d(frames, down, padding=1), up)
    assert one_after_the_other.abs().max() > 0.1
    torch.testing.assert_close(F.conv2d(frames, change, padding=1), one_after_the_other, rtol=1e-3, atol=1e-3)


def test_gradients_reach_the_changes_alone() -> None:
    unet = tiny_text_to_image("v1").unet.requires_grad_(False)
    layers = LoraLayers(unet, ENDINGS, rank=1)
    functional_call(unet, layers.weights(unet), INPUTS).sample.square().mean().backward()
    assert all(up.grad is not None and up.grad.abs().max() > 0 for up in layers.up)
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_what_cannot_be_changed_is_refused() -> None:
    unet = tiny_text_to_image("v1").unet
    with pytest.raises(ValueError, match="rank 0; it must be 1 or more"):
        LoraLayers(unet, ENDINGS, rank=0)
    with pytest.raises(ValueError, match="no layer's name ends in 'nothing'"):
        LoraLayers(unet, ("nothing",), rank=1)
    with pytest.raises(ValueError, match="in groups of channels have no low-rank change here: 0"):
        LoraLayers(torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=2)), EVERY, rank=1)

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


def test_a_file_of_convolutions_is_what_peft_makes_of_them(tmp_path: Path) -> None:
    """diffusers loads such files through peft: kernels in lora_A, 1 x 1 kernels in lora_B."""
    layers = LoraLayers(tiny_text_to_image("v1").unet, ("conv1",), rank=2)
    tensors = layers.tensors("unet")
    name = f"unet.{layers.names[0]}"
    conv = tiny_text_to_image("v1").unet.get_submodule(layers.names[0])
    assert tensors[f"{name}.lora_A.weight"].shape == (2, conv.in_channels, 3, 3)
    assert tensors[f"{name}.lora_B.weight"].shape == (conv.out_channels, 2, 1, 1)
    down = F.conv2d(x := torch.randn(1, conv.in_channels, 4, 4), tensors[f"{name}.lora_A.weight"], padding=1)
    both = F.conv2d(x, (layers.up[0].flatten(1) @ layers.down[0].flatten(1)).view_as(conv.weight), padding=1)
    torch.testing.assert_close(F.conv2d(down, tensors[f"{name}.lora_B.weight"]), both)


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
    with pytest.raises(ValueError, match="no layer's name ends in nothing"):
        LoraLayers(unet, ("nothing",), rank=1)

"""Losses of the autoencoder stage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from drivesim.core.files import sha256_file
from drivesim.families.folder import load_parts, save_parts
from drivesim.models.autoencoder import (
    Autoencoder,
    VQModel,
    decode,
    encode,
    encode_pictures,
    measure_scale,
    to_picture_range,
)
from drivesim.models.build import AutoencoderConfig, AutoencoderKind, make_autoencoder
from drivesim.nn.perceptual import squeezenet1_0
from drivesim.train.autoencoder import AutoencoderLossConfig, AutoencoderStage
from drivesim.train.optim import OptimConfig
from drivesim.train.perceptual import PerceptualConfig


def stage(**loss: object) -> AutoencoderStage:
    torch.manual_seed(0)
    net = make_autoencoder(
        AutoencoderConfig(block_out_channels=[8, 8, 8, 8], layers_per_block=1, latent_channels=4, norm_num_groups=4)
    )
    return AutoencoderStage(net, AutoencoderLossConfig(discriminator_channels=8, **loss), OptimConfig(), seed=0)  # type: ignore[arg-type]


def batch() -> dict[str, torch.Tensor]:
    return {"frames_BTCHW": torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1}


def test_the_discriminator_learns_to_tell_and_the_decoder_is_pulled() -> None:
    training = stage(adversarial_weight=0.5)
    terms = training.loss(batch(), torch.Generator().manual_seed(0))
    terms["loss"].backward()
    discriminator = training.trained["discriminator"]
    gradients = [p.grad for p in discriminator.parameters()]
    assert all(g is not None for g in gradients)

    plain = stage()
    plain.loss(batch(), torch.Generator().manual_seed(0))["loss"].backward()
    with_pull, without = (s.autoencoder.decoder.conv_out.weight.grad for s in (training, plain))
    assert not torch.allclose(with_pull, without)
    # Both pulls are as long as each other, so half of one on top of the other moves the sum by half a length.
    assert torch.isclose((with_pull - without).norm() / without.norm(), torch.tensor(0.5), rtol=1e-3)


def test_the_discriminators_gradient_is_that_of_its_own_loss_alone() -> None:
    training = stage(adversarial_weight=0.5)
    terms = training.loss(batch(), torch.Generator().manual_seed(0))
    weights = list(training.trained["discriminator"].parameters())
    own = torch.autograd.grad(terms["discriminator"], weights, retain_graph=True)
    total = torch.autograd.grad(terms["loss"], weights)
    for a, b in zip(own, total, strict=True):
        assert torch.equal(a, b)


def test_validation_judges_reconstructions_alone() -> None:
    training = stage(adversarial_weight=0.5).eval()
    assert set(training.loss(batch(), torch.Generator())) == {"loss", "l1", "mse", "perceptual", "regulariser"}


def vq(attention: bool = False) -> VQModel:
    torch.manual_seed(0)
    return make_autoencoder(
        AutoencoderConfig(
            kind=AutoencoderKind.VQ, codebook_size=32, attention_at_last_level=attention,
            block_out_channels=[8, 8, 8, 8], layers_per_block=1, latent_channels=4, norm_num_groups=4,
        )
    )  # fmt: skip


def test_a_vq_autoencoder_trains_its_encoder_its_codebook_and_its_decoder() -> None:
    training = AutoencoderStage(vq(), AutoencoderLossConfig(), OptimConfig(), seed=0)
    terms = training.loss(batch(), torch.Generator().manual_seed(0))
    terms["loss"].backward()
    for part in ("encoder", "quantize", "decoder"):
        gradients = [p.grad for p in getattr(training.autoencoder, part).parameters()]
        assert all(g is not None for g in gradients)
        assert any(float(g.abs().max()) > 0 for g in gradients)
    assert float(terms["regulariser"].detach()) > 0


def test_a_vq_autoencoder_is_measured_saved_and_loaded(tmp_path: Path) -> None:
    net = vq(attention=True).eval()
    assert any("attentions" in name for name, _ in net.encoder.down_blocks[-1].named_parameters())
    assert not any("attentions" in name for name, _ in net.encoder.down_blocks[0].named_parameters())
    frames = to_picture_range(batch()["frames_BTCHW"].flatten(0, 1))
    shift, scale = measure_scale(net, frames)
    assert shift == 0.0
    latents = encode(net, frames)
    assert latents.square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-4)
    save_parts(tmp_path, {"autoencoder": net})
    loaded = load_parts(tmp_path, ["autoencoder"])["autoencoder"]
    assert isinstance(loaded, VQModel)
    assert loaded.config.scaling_factor == pytest.approx(scale)
    np.testing.assert_array_equal(decode(loaded, latents), decode(net, latents))


def test_a_decoded_vq_latent_is_that_of_the_nearest_codebook_entry() -> None:
    net = vq().eval()
    entries = net.quantize.embedding.weight.detach()[:8].reshape(1, 2, 4, 4).permute(0, 3, 1, 2)
    near = entries + 1e-4 * torch.randn(entries.shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(decode(net, near), decode(net, entries))


def test_the_perceptual_term_comes_from_a_checked_file_and_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "squeeze.safetensors"
    save_file({f"features.{name}": t for name, t in squeezenet1_0().state_dict().items()}, path)
    config = PerceptualConfig(network="squeezenet1_0", weights=str(path), sha256=sha256_file(path))
    with_network, without = stage(perceptual=config), stage()
    assert with_network.frozen["perceptual"].name == "perceptual distance (squeezenet1_0, channels unweighted)"
    assert without.frozen["perceptual"].name == "picture gradients"
    one, other = (s.loss(batch(), torch.Generator().manual_seed(0))["perceptual"] for s in (with_network, without))
    assert float(one.detach()) != pytest.approx(float(other.detach()), rel=0.01)
    config.sha256 = "0" * 64
    with pytest.raises(ValueError, match="not the expected weights"):
        stage(perceptual=config)


def test_a_perceptual_network_without_its_file_or_name_is_refused() -> None:
    with pytest.raises(ValueError, match="needs perceptual.weights and perceptual.sha256"):
        PerceptualConfig(network="vgg16")
    with pytest.raises(ValueError, match="perceptual.network=vgg; valid: vgg16"):
        PerceptualConfig(network="vgg")


@pytest.mark.parametrize(
    ("size_hw", "parts"),
    [((64, 128), [8, 1]), ((320, 512), [8, 1]), ((512, 1024), [2, 2, 2, 2, 1]), ((1280, 2048), [1] * 9)],
)
def test_the_larger_frames_are_the_fewer_are_encoded_at_once(size_hw: tuple[int, int], parts: list[int]) -> None:
    net, seen = stage().autoencoder.to("meta"), []
    net.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    assert encode_pictures(net, torch.zeros(9, 3, *size_hw, device="meta")).shape[0] == 9
    assert seen == parts


class OnApple(torch.Tensor):
    """A tensor that has float32 at most until it comes to the CPU."""

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        """Where there is float64."""
        return self.as_subclass(torch.Tensor)

    def double(self) -> torch.Tensor:
        """What MPS says."""
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")


def test_the_scale_is_measured_in_float64_also_of_a_device_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    net, frames = stage().autoencoder, to_picture_range(batch()["frames_BTCHW"].flatten(0, 1))
    here = measure_scale(net, frames)

    def encode_there(autoencoder: Autoencoder, frames_THWC: NDArray[np.uint8]) -> OnApple:
        return encode(autoencoder, frames_THWC).as_subclass(OnApple)

    monkeypatch.setattr("drivesim.models.autoencoder.encode", encode_there)
    assert measure_scale(net, frames) == here

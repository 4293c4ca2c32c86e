"""Losses of the autoencoder stage."""

import torch

from drivesim.models.build import AutoencoderConfig, make_autoencoder
from drivesim.train.autoencoder import AutoencoderLossConfig, AutoencoderStage
from drivesim.train.optim import OptimConfig


def stage(**loss: float) -> AutoencoderStage:
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
    assert set(training.loss(batch(), torch.Generator())) == {"loss", "l1", "mse", "edges", "kl"}

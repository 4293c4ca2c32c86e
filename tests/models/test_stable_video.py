"""Stable Video Diffusion's U-Net against ours, with the same weights and inputs."""

from __future__ import annotations

import warnings

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel
from torch import Tensor

from drivesim.models.stable_video import added_time_waves, export_stable_video, import_spatial, import_temporal
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_unet import VideoUNet
from tests.models.test_video_unet import with_random_weights

B, T, WIDTH, ADDED_DIM = 2, 5, 24, 16


def tiny_stable_video() -> UNetSpatioTemporalConditionModel:
    """With 8 in-channels, as the public one, and mixing factors that differ from layer to layer."""
    torch.manual_seed(0)
    video = UNetSpatioTemporalConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=2,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=WIDTH, num_attention_heads=(2, 4), num_frames=T,
        addition_time_embed_dim=ADDED_DIM, projection_class_embeddings_input_dim=3 * ADDED_DIM,
    ).eval()  # fmt: skip
    for parameter in video.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return video


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, steps, one token a sample, and frame rate, motion and noise."""
    torch.manual_seed(1)
    ids = torch.tensor([[6.0, 127.0, 0.02], [23.0, 20.0, 0.3]])
    return torch.randn(B, T, 8, 8, 16), torch.tensor([3.0, 700.0]), torch.randn(B, 1, WIDTH), ids


def ours(backbone: UNet2DConditionModel, stack: TemporalStack, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    latents, step, tokens, ids = inputs
    waves = added_time_waves(ids, ADDED_DIM)
    network = VideoUNet(backbone, stack)
    return network(latents, step, tokens, temporal_tokens_BLC=tokens, noise_level_B=waves)


@torch.no_grad()
def test_imported_weights_give_what_diffusers_gives(inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    video = tiny_stable_video()
    latents, step, tokens, ids = inputs
    expected = video(latents, step, tokens, added_time_ids=ids).sample
    made = ours(import_spatial(video), import_temporal(video), inputs)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_exported_weights_give_what_ours_give(inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    video = tiny_stable_video()
    backbone, stack = import_spatial(video), import_temporal(video)
    again = export_stable_video(backbone, stack)
    for name, tensor in video.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("linear", [False, True])
@torch.no_grad()
def test_a_text_to_video_model_becomes_a_stable_video_unet(linear: bool) -> None:
    torch.manual_seed(0)
    backbone = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=2, use_linear_projection=linear,
    ).eval()  # fmt: skip
    stack = with_random_weights(
        TemporalStack.for_backbone(backbone, num_frames=T, per_frame_alpha=False, cross_attention_dim=WIDTH)
    )
    latents, step, tokens = torch.randn(B, T, 4, 8, 8), torch.tensor([3.0, 700.0]), torch.randn(B, 7, WIDTH)
    expected = VideoUNet(backbone, stack)(latents, step, tokens, temporal_tokens_BLC=tokens)
    exported = export_stable_video(backbone, stack)
    made = exported(latents, step, tokens, added_time_ids=torch.tensor([[6.0, 127.0, 0.02]] * B)).sample
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_imported_temporal_layers_fit_another_backbone_and_survive_a_folder(tmp_path) -> None:  # type: ignore[no-untyped-def]
    stack = import_temporal(tiny_stable_video())
    stack.save_pretrained(tmp_path)
    again = TemporalStack.from_pretrained(tmp_path)
    assert again.config.norm_eps == 1e-5 and not again.config.per_frame_alpha
    image = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=(2, 4), use_linear_projection=True,
    )  # fmt: skip
    latents, tokens = torch.randn(1, T, 4, 8, 8), torch.randn(1, 3, WIDTH)
    made = [
        VideoUNet(image, one)(latents, torch.tensor([9]), tokens, temporal_tokens_BLC=tokens) for one in (stack, again)
    ]
    assert torch.equal(*made)


def test_the_published_size_is_taken_apart_without_a_tensor_left_over() -> None:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # copying into nothing does nothing
        video = UNetSpatioTemporalConditionModel().to("meta")  # the public one's settings are the defaults
        parts = import_spatial(video), import_temporal(video)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (video, *parts)]
    assert sizes[0] == sizes[1] + sizes[2]
    assert sizes[2] == pytest.approx(656e6, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_frame_alpha": True, "cross_attention_dim": WIDTH}, "per_frame_alpha is True, it must be False"),
        ({"per_frame_alpha": False}, f"cross_attention_dim is None, it must be {WIDTH}"),
        (
            {"per_frame_alpha": False, "cross_attention_dim": WIDTH, "context_in_channels": 3},
            "context_in_channels is 3, it must be 0",
        ),
    ],
)
def test_what_stable_video_has_no_place_for_is_refused(settings: dict[str, object], message: str) -> None:
    backbone = import_spatial(tiny_stable_video())
    with pytest.raises(ValueError, match=message):
        export_stable_video(backbone, TemporalStack.for_backbone(backbone, **settings))

"""Keys and values of tokens that are kept from one diffusion step to the next."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from drivesim.core.seeds import torch_generator
from drivesim.diffusion.settings import KeyFrameSamplingConfig
from drivesim.families.text_generate import generate_keys
from drivesim.families.text_tokens import Told
from drivesim.models.seen_tokens import SeenTokens
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_unet import DeepFeatures, VideoUNet
from drivesim.nn import frame_groups

FRAMES, TOKENS, WIDTH = 5, 7, 24


def make_network(only_tokens: bool = False) -> VideoUNet:
    """`only_tokens`: both attentions of a block see tokens, as in the x4 upscaler."""
    torch.manual_seed(0)
    backbone = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=(2, 4), norm_num_groups=8,
        only_cross_attention=(only_tokens, False),
    )  # fmt: skip
    stack = TemporalStack.for_backbone(backbone, num_frames=FRAMES, cross_attention_dim=WIDTH)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return VideoUNet(backbone, stack).eval().requires_grad_(False)


def forget_projections(network: VideoUNet) -> None:
    """From here on whoever projects tokens gets NaN."""
    for name, parameter in network.named_parameters():
        if (".to_k." in name or ".to_v." in name) and parameter.shape[1] == WIDTH:
            parameter.fill_(torch.nan)


@pytest.mark.parametrize("is_one_by_one", [False, True])
@pytest.mark.parametrize("only_tokens", [False, True])
@pytest.mark.parametrize("own", [None, 1, FRAMES], ids=["of a sample", "of one frame", "of each frame"])
@torch.no_grad()
def test_tokens_are_projected_at_the_first_pass_alone(
    own: int | None, only_tokens: bool, is_one_by_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_one_by_one:
        monkeypatch.setattr(frame_groups, "_AT_ONCE", {"cpu": 2**8})
        monkeypatch.setattr(frame_groups, "_SAMPLES_AT_ONCE", {"cpu": 2**8})
    network = make_network(only_tokens)
    shape = (2, TOKENS, WIDTH) if own is None else (2, own, TOKENS, WIDTH)
    tokens, over_time, mask = torch.randn(shape), torch.randn(2, TOKENS, WIDTH), torch.ones(2, TOKENS)
    mask[1, 4:] = 0
    told = {"temporal_tokens_BLC": over_time, "token_mask_BL": mask}
    samples, steps = torch.randn(3, 2, FRAMES, 4, 8, 8), torch.tensor([700, 700])
    expected = [network(sample, steps, tokens, **told) for sample in samples]
    seen = SeenTokens()
    assert torch.equal(network(samples[0], steps, tokens, seen=seen, **told), expected[0])
    forget_projections(network)
    for sample, wanted in zip(samples[1:], expected[1:], strict=True):
        assert torch.equal(network(sample, steps, tokens, seen=seen, **told), wanted)
    assert network(samples[1], steps, tokens, **told).isnan().any()


@torch.no_grad()
def test_what_frames_see_alike_is_kept_once() -> None:
    network, sizes = make_network(), {}
    for own in (1, FRAMES):
        seen = SeenTokens()
        sample, tokens = torch.randn(1, FRAMES, 4, 8, 8), torch.randn(1, own, TOKENS, WIDTH)
        network(sample, torch.tensor([1]), tokens, temporal_tokens_BLC=torch.randn(1, TOKENS, WIDTH), seen=seen)
        layer = network.backbone.down_blocks[0].attentions[0].transformer_blocks[0].attn2
        keys, _ = seen._of_layer[layer]
        sizes[own] = keys.untyped_storage().nbytes()
    assert sizes[FRAMES] == FRAMES * sizes[1] == 4 * FRAMES * TOKENS * 32


@torch.no_grad()
def test_passes_of_the_top_level_alone_use_them_too() -> None:
    network, seen, deep = make_network(), SeenTokens(), DeepFeatures()
    sample, tokens, step = torch.randn(1, FRAMES, 4, 8, 8), torch.randn(1, TOKENS, WIDTH), torch.tensor([700])
    whole = network(sample, step, tokens, temporal_tokens_BLC=tokens, seen=seen, deep=deep)
    forget_projections(network)
    assert torch.equal(network(sample, step, tokens, temporal_tokens_BLC=tokens, seen=seen, deep=deep), whole)


@pytest.mark.parametrize("start_weight", [0.0, 10.0])
def test_a_sample_projects_its_tokens_once(start_weight: float) -> None:
    """A start frame that leads asks for gradients and runs layers again."""
    network = make_network()
    told = Told(spatial_BFLD=torch.randn(2, 1, TOKENS, WIDTH), temporal_BLD=torch.randn(2, TOKENS, WIDTH))

    def make(forgets: bool) -> torch.Tensor:
        sampling = KeyFrameSamplingConfig(steps=4, guidance=3.0, start_weight=start_weight)
        return generate_keys(
            network, DDIMScheduler(), told, (FRAMES, 4, 8, 8), sampling, [torch_generator("keys")],
            given_BSCHW=torch.ones(1, 1, 4, 8, 8),
            on_step=lambda done, *_: forget_projections(network) if forgets and done == 1 else None,
        )  # fmt: skip

    expected = make(forgets=False)
    assert expected.isfinite().all()
    assert torch.equal(make(forgets=True), expected)

"""The composed video network against its backbone."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from drivesim.models.seen_tokens import SeenTokens
from drivesim.models.temporal_stack import TemporalAttentionLayer, TemporalStack
from drivesim.models.video_unet import DeepFeatures, VideoUNet
from drivesim.nn import frame_groups, temporal
from tests.benchmarks.measuring import MIB, tally_of
from tests.benchmarks.video_unets import Stage, ours


def make_backbone(linear: bool = False, layers: int = 2, **told: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=(8, 16),
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=layers,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        use_linear_projection=linear,
        norm_num_groups=8,
        **told,
    ).eval()


def with_random_weights(stack: TemporalStack) -> TemporalStack:
    torch.manual_seed(1)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return stack.eval()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("linear", [False, True])
@torch.no_grad()
def test_alpha_one_gives_the_backbones_output_bit_for_bit(linear: bool, layout: torch.memory_format) -> None:
    backbone = make_backbone(linear).to(memory_format=layout)  # type: ignore[call-overload]
    stack = with_random_weights(
        TemporalStack.for_backbone(backbone, num_frames=5, context_in_channels=5, ego_motion=True)
    )
    video = VideoUNet(backbone, stack)
    latents_BTCHW = torch.randn(2, 5, 4, 8, 16)
    frames_NCHW = latents_BTCHW.flatten(0, 1).to(memory_format=layout)
    steps, tokens, mask = torch.tensor([7, 800]), torch.randn(2, 6, 24), torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    context = torch.randn(2, 5, 5, 8, 16)
    expected = backbone(
        frames_NCHW,
        steps.repeat_interleave(5),
        tokens.repeat_interleave(5, 0),
        encoder_attention_mask=mask.repeat_interleave(5, 0),
    ).sample.unflatten(0, (2, 5))
    sample = frames_NCHW.unflatten(0, (2, 5))

    mixed = video(sample, steps, tokens, token_mask_BL=mask, context_BTCHW=context)
    assert not torch.equal(mixed, expected)
    stack.set_alpha(1.0)
    assert torch.equal(video(sample, steps, tokens, token_mask_BL=mask, context_BTCHW=context), expected)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("num_frames", "groups"), [(8, [4, 4]), (33, [16, 17])])
@torch.no_grad()
def test_clips_too_large_to_be_taken_at_once_are_the_backbones_output_bit_for_bit(
    num_frames: int, groups: list[int], linear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = make_backbone(linear)
    stack = with_random_weights(TemporalStack.for_backbone(backbone, per_frame_alpha=False, cross_attention_dim=24))
    video = VideoUNet(backbone, stack)
    sizes: list[int] = []
    backbone.down_blocks[0].resnets[0].register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    samples, steps = torch.randn(2, num_frames, 4, 32, 32), torch.tensor([7, 800])
    tokens = torch.randn(2, 77, 24)
    expected = torch.stack([
        backbone(frames, step.expand(num_frames), text.expand(num_frames, -1, -1)).sample
        for frames, step, text in zip(samples, steps, tokens, strict=True)
    ])  # fmt: skip
    sizes.clear()
    mixed = video(samples, steps, tokens, temporal_tokens_BLC=tokens)
    assert sizes == 2 * groups  # one sample after the other
    stack.set_alpha(1.0)
    assert torch.equal(video(samples, steps, tokens, temporal_tokens_BLC=tokens), expected)
    with_random_weights(stack)
    monkeypatch.setattr(frame_groups, "_AT_ONCE", {"cpu": 2**30})
    monkeypatch.setattr(frame_groups, "_SAMPLES_AT_ONCE", {"cpu": 2**30})
    at_once = video(samples, steps, tokens, temporal_tokens_BLC=tokens)
    torch.testing.assert_close(at_once, mixed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("with_gradients", [False, True])
def test_samples_and_groups_of_frames_compile_to_one_graph(
    with_gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_groups, "_AT_ONCE", {"cpu": 4 * 32 * 8 * 16})  # 4 of 9 frames
    monkeypatch.setattr(frame_groups, "_SAMPLES_AT_ONCE", {"cpu": 2**10})  # one sample of two
    backbone = make_backbone(layers=1)
    video = VideoUNet(backbone, with_random_weights(TemporalStack.for_backbone(backbone, num_frames=9)))
    inputs = torch.randn(2, 9, 4, 8, 16), torch.tensor([7, 800]), torch.randn(2, 6, 24)
    torch.compiler.reset()
    with torch.set_grad_enabled(with_gradients):
        compiled = torch.compile(video, backend="eager", fullgraph=True, dynamic=False)
        assert torch.equal(compiled(*inputs), video(*inputs))


@torch.no_grad()
def test_what_samples_left_that_were_made_in_parts_is_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = make_backbone()
    video = VideoUNet(backbone, with_random_weights(TemporalStack.for_backbone(backbone, num_frames=4)))
    steps, tokens = torch.tensor([7, 800, 300]), torch.randn(3, 6, 24)
    samples = torch.randn(2, 3, 4, 4, 32, 32)  # of two steps
    sizes: list[int] = []
    backbone.conv_in.register_forward_hook(lambda _, args, __: sizes.append(len(args[0]) // 4))
    made = []
    for numbers, parts in ((2**17, [1, 1, 1]), (2**18, [2, 1]), (2**19, [3])):
        monkeypatch.setattr(frame_groups, "_SAMPLES_AT_ONCE", {"cpu": numbers})
        deep, seen = DeepFeatures(), SeenTokens()
        sizes.clear()
        made.append(torch.stack([video(sample, steps, tokens, deep=deep, seen=seen) for sample in samples]))
        assert sizes == 2 * parts
        assert deep.features_NCHW is not None and len(deep.features_NCHW) == 12
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made[0], made[2], atol=1e-4, rtol=1e-4)


def test_a_portion_of_an_upscaler_holds_no_more_than_its_layers_need() -> None:
    """45.8 MiB where what came up and was kept is held until a layer's end, 33.8 where it is let go."""
    stage = Stage(
        name="upscaler", channels=(64, 128, 256), heads=(2, 4, 8), token_dim=256, latent_hw=(32, 48), num_frames=8,
        num_kept=6, in_channels=7, is_upscaler=True,
    )  # fmt: skip
    with torch.device("meta"):
        network, run = ours(stage)
    network.eval()
    assert tally_of(torch.no_grad()(run)).peak_bytes < 35 * MIB


@pytest.mark.parametrize("told", [{"class_embed_type": "timestep"}, {"num_class_embeds": 300}])
@torch.no_grad()
def test_a_noise_level_is_told_as_the_backbone_tells_its_class_labels(told: dict[str, object]) -> None:
    backbone = make_backbone(**told)
    stack = with_random_weights(TemporalStack.for_backbone(backbone, num_frames=3))
    stack.set_alpha(1.0)
    video = VideoUNet(backbone, stack)
    sample, steps, tokens = torch.randn(2, 3, 4, 8, 16), torch.tensor([7, 800]), torch.randn(2, 6, 24)
    levels = torch.tensor([0, 250])
    expected = backbone(
        sample.flatten(0, 1),
        steps.repeat_interleave(3),
        tokens.repeat_interleave(3, 0),
        class_labels=levels.repeat_interleave(3),
    ).sample.unflatten(0, (2, 3))
    assert torch.equal(video(sample, steps, tokens, noise_level_B=levels), expected)
    assert not torch.equal(video(sample, steps, tokens, noise_level_B=levels.flip(0)), expected)
    stack.set_alpha(0.5)  # the temporal layers are told as well
    layer = stack.down_blocks[0].resnets[0].block
    told_apart = []
    layer.time_emb_proj.register_forward_pre_hook(lambda _, args: told_apart.append(args[0]))
    for level in (levels, levels.flip(0)):
        video(sample, steps, tokens, noise_level_B=level)
    assert not torch.equal(told_apart[0], told_apart[1])


def test_a_backbone_that_concatenates_its_class_embedding_is_refused() -> None:
    backbone = make_backbone(class_embed_type="timestep", class_embeddings_concat=True)
    with pytest.raises(ValueError, match="class_embeddings_concat"):
        VideoUNet(backbone, TemporalStack.for_backbone(backbone))


@torch.no_grad()
def test_a_fresh_stack_without_attention_weights_changes_nothing_through_its_convolutions() -> None:
    backbone = make_backbone()
    stack = TemporalStack.for_backbone(backbone, num_frames=4).eval()
    layer = stack.down_blocks[0].resnets[0]
    h, time_embed = torch.randn(8, 32, 8, 16), torch.randn(2, 4, 128)
    assert torch.allclose(layer(h, time_embed, None), h, atol=1e-6)


@torch.no_grad()
def test_frames_see_one_another_only_through_the_temporal_layers() -> None:
    backbone = make_backbone()
    stack = with_random_weights(TemporalStack.for_backbone(backbone, num_frames=4))
    video = VideoUNet(backbone, stack)
    sample, step, tokens = torch.randn(1, 4, 4, 8, 16), torch.tensor([10]), torch.randn(1, 3, 24)
    changed = sample.clone()
    changed[:, 3] += 1.0
    before, after = video(sample, step, tokens), video(changed, step, tokens)
    assert (before[:, 0] - after[:, 0]).abs().max() > 1e-4
    stack.set_alpha(1.0)
    before, after = video(sample, step, tokens), video(changed, step, tokens)
    assert torch.equal(before[:, :3], after[:, :3])


@torch.no_grad()
def test_positions_that_attend_over_time_in_portions_give_what_all_at_once_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = make_backbone()
    stack = with_random_weights(TemporalStack.for_backbone(backbone, num_frames=4, cross_attention_dim=24))
    video = VideoUNet(backbone, stack)
    sample, step, tokens = torch.randn(2, 4, 4, 8, 16), torch.tensor([10, 700]), torch.randn(2, 3, 24)
    whole = video(sample, step, tokens, temporal_tokens_BLC=tokens)
    monkeypatch.setattr(temporal, "CPU_PORTION", 2 * 3 * 4 * 64)  # of 2 samples of 4 frames, 3 of 32 positions
    assert temporal.positions_at_once(torch.empty(2, 4, 32, 64)) == 3
    in_portions = video(sample, step, tokens, temporal_tokens_BLC=tokens)
    torch.testing.assert_close(in_portions, whole, atol=1e-5, rtol=1e-4)


def test_a_stack_for_another_backbone_is_refused_naming_both_sides() -> None:
    stack = TemporalStack.for_backbone(make_backbone(layers=1))
    with pytest.raises(ValueError, match=r"layers_per_block is \(1, 1\), the backbone has \(2, 2\)"):
        VideoUNet(make_backbone(layers=2), stack)


def test_a_saved_stack_loads_with_the_same_config_and_weights(tmp_path) -> None:  # type: ignore[no-untyped-def]
    stack = with_random_weights(TemporalStack.for_backbone(make_backbone(), num_frames=5, context_in_channels=5))
    stack.save_pretrained(tmp_path)
    again = TemporalStack.from_pretrained(tmp_path)
    assert tuple(again.config["num_heads"]) == tuple(stack.config["num_heads"])
    for name, value in stack.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@torch.no_grad()
def test_positions_as_numbers_compute_the_same_with_fewer_weights() -> None:
    backbone = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2, cross_attention_dim=8,
    ).eval()  # fmt: skip
    stack = TemporalStack.for_backbone(
        backbone, num_frames=6, cross_attention_dim=8, context_noise=9, ego_motion=True
    ).eval()
    for parameter in stack.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    folded = stack.with_position_table().eval()
    sample, step, tokens = torch.randn(2, 6, 4, 8, 8), torch.tensor([3, 400]), torch.randn(2, 3, 8)
    more = {"temporal_tokens_BLC": tokens, "noise_level_B": torch.tensor([0, 9]), "motion_BT2": torch.randn(2, 6, 2)}
    made = [VideoUNet(backbone, one)(sample, step, tokens, **more) for one in (stack, folded)]
    torch.testing.assert_close(made[0], made[1])
    sizes = [sum(p.numel() for p in one.parameters()) for one in (stack, folded)]
    assert sizes[1] < 0.9 * sizes[0]
    assert not any(".position." in name for name in folded.state_dict())


@torch.no_grad()
def test_a_clip_longer_than_trained_on_sees_frames_as_far_as_in_training() -> None:
    """Through one layer of attention; convolutions and the norms over time see further."""
    layer = TemporalAttentionLayer(
        16, 2, {"num_frames": 3, "position_table": False, "feed_forward_mult": 2, "layers": 1, "num_alphas": 1}, 8
    ).eval()
    h_BTPC, tokens = torch.randn(2, 9, 5, 16), torch.randn(2, 4, 8)
    changed = h_BTPC.clone()
    changed[:, 8] += 1.0
    seen = layer.blocks[0].projected(tokens)
    made = [layer(0, x, layer.positions(9, x), seen) for x in (h_BTPC, changed)]
    differs_T = (made[0] != made[1]).flatten(2).any(2).any(0)
    assert differs_T.tolist() == [False] * 5 + [True] * 4


@pytest.mark.parametrize(("num_frames", "is_same"), [(3, True), (4, True), (6, False)])
@torch.no_grad()
def test_clips_as_long_as_trained_on_are_not_masked(num_frames: int, is_same: bool) -> None:
    backbone = make_backbone()
    settings = {"per_frame_alpha": False, "cross_attention_dim": 24}
    stacks = [TemporalStack.for_backbone(backbone, num_frames=trained, **settings) for trained in (3, 99)]
    stacks[1].load_state_dict(with_random_weights(stacks[0]).state_dict())
    sample, step, tokens = torch.randn(1, num_frames, 4, 8, 16), torch.tensor([10]), torch.randn(1, 3, 24)
    made = [VideoUNet(backbone, stack.eval())(sample, step, tokens, temporal_tokens_BLC=tokens) for stack in stacks]
    assert torch.equal(*made) == is_same


@pytest.mark.parametrize("num_tokens", [3, 40])
@torch.no_grad()
def test_text_is_projected_once_a_sample_whatever_the_number_of_positions(
    num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = make_backbone()
    stack = with_random_weights(TemporalStack.for_backbone(backbone, num_frames=4, cross_attention_dim=24))
    monkeypatch.setattr(temporal, "CPU_PORTION", 2 * 3 * 4 * 64)  # attention over time takes portions of positions
    rows: list[int] = []
    projections = [m for name, m in stack.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    for module in projections:
        module.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[:-1].numel()))
    sample, step, tokens = torch.randn(2, 4, 4, 8, 16), torch.tensor([10, 700]), torch.randn(2, num_tokens, 24)
    VideoUNet(backbone, stack)(sample, step, tokens, temporal_tokens_BLC=tokens)
    assert rows == [2 * num_tokens] * len(projections)


@torch.no_grad()
def test_motion_is_told_frame_by_frame_and_what_is_unknown_says_nothing() -> None:
    backbone = make_backbone()
    fresh = TemporalStack.for_backbone(backbone, num_frames=4, ego_motion=True).eval()
    sample, step, tokens = torch.randn(2, 4, 4, 8, 16), torch.tensor([10, 700]), torch.randn(2, 3, 24)
    motion_BT2 = torch.tensor([8.0, 0.3]).expand(2, 4, 2).clone()
    unsaid = VideoUNet(backbone, fresh)(sample, step, tokens)
    assert torch.equal(VideoUNet(backbone, fresh)(sample, step, tokens, motion_BT2=motion_BT2), unsaid)
    video = VideoUNet(backbone, with_random_weights(fresh))
    unsaid, said = video(sample, step, tokens), video(sample, step, tokens, motion_BT2=motion_BT2)
    assert not torch.allclose(said, unsaid, atol=1e-3)
    assert torch.equal(video(sample, step, tokens, motion_BT2=torch.full_like(motion_BT2, torch.nan)), unsaid)
    motion_BT2[1] = torch.nan  # of the second clip nothing is known
    torch.testing.assert_close(video(sample, step, tokens, motion_BT2=motion_BT2)[1], unsaid[1])
    deaf = VideoUNet(backbone, TemporalStack.for_backbone(backbone, num_frames=4))
    with pytest.raises(AssertionError, match="motion is told to stacks that were built to be told"):
        deaf(sample, step, tokens, motion_BT2=motion_BT2)


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients() -> None:
    backbone = make_backbone(layers=1)
    stack = with_random_weights(TemporalStack.for_backbone(backbone, num_frames=4, cross_attention_dim=24))
    sample, step, tokens = torch.randn(1, 4, 4, 8, 16), torch.tensor([10]), torch.randn(1, 3, 24)
    gradients, kept = [], []
    for is_checkpointed in (False, True):
        video = VideoUNet(backbone, stack).train()
        if is_checkpointed:
            video.enable_gradient_checkpointing()
        video.zero_grad(set_to_none=True)
        numbers: list[int] = []

        def pack(x: torch.Tensor, numbers: list[int] = numbers) -> torch.Tensor:
            numbers.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = video(sample, step, tokens, temporal_tokens_BLC=tokens).square().mean()
        loss.backward()
        gradients.append([p.grad for p in video.parameters()])
        kept.append(sum(numbers))
    assert kept[1] < kept[0] / 3
    for made, expected in zip(*gradients, strict=True):
        assert made is not None and expected is not None
        torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-6)

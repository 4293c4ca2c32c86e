"""The video decoder: the image decoder with layers over time, at once, in chunks and in tiles."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from drivesim.families.folder import load_parts, save_parts
from drivesim.models.autoencoder import Autoencoder, decode, to_picture_range
from drivesim.models.build import AutoencoderConfig, AutoencoderKind, make_autoencoder
from drivesim.models.video_decoder import VideoDecoder, VideoDecoderConfig
from drivesim.models.video_decoding import decode_chunks, decode_clip


def image_autoencoder(kind: AutoencoderKind = AutoencoderKind.KL) -> Autoencoder:
    torch.manual_seed(0)
    net = make_autoencoder(
        AutoencoderConfig(
            kind=kind, codebook_size=32, attention_at_last_level=kind is AutoencoderKind.VQ,
            block_out_channels=[8, 8, 16], layers_per_block=1, latent_channels=4, norm_num_groups=4,
        )
    )  # fmt: skip
    net.register_to_config(scaling_factor=1.7, **({"shift_factor": 0.3} if kind is AutoencoderKind.KL else {}))
    return net.eval()


def video_decoder(kind: AutoencoderKind = AutoencoderKind.KL, **config: Any) -> VideoDecoder:
    """One whose layers over time do something."""
    decoder = VideoDecoder.for_autoencoder(image_autoencoder(kind), VideoDecoderConfig(**config)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in decoder.named_parameters():
        if name.startswith("temporal") or parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return decoder


def video(num_frames: int, height: int = 6, width: int = 5) -> Tensor:
    return torch.randn(num_frames, 4, height, width, generator=torch.Generator().manual_seed(2))


BOTH = pytest.mark.parametrize("kind", list(AutoencoderKind))


@BOTH
def test_a_fresh_decoder_and_alpha_one_are_the_image_decoder(kind: AutoencoderKind) -> None:
    image = image_autoencoder(kind)
    fresh = VideoDecoder.for_autoencoder(image, VideoDecoderConfig()).eval()
    changed = video_decoder(kind)
    for name, part in changed.spatial_parts().items():
        part.load_state_dict(getattr(image, name).state_dict())
    latents = video(5)
    unscaled = latents / image.config.scaling_factor + (image.config.get("shift_factor") or 0.0)
    with torch.no_grad():
        wanted = image.decode(unscaled).sample
        torch.testing.assert_close(fresh(latents[None])[0], wanted)
        assert (changed(latents[None])[0] - wanted).abs().max() > 0.01
        changed.set_alpha(1.0)
        assert torch.equal(changed(latents[None])[0], wanted)
    one = to_picture_range(decode_clip(changed, latents[:1], 0, 1))
    np.testing.assert_array_equal(one, decode(image, latents[:1]))


@BOTH
def test_on_the_way_to_the_image_decoder_weights_are_mixed_and_layers_over_time_fade(kind: AutoencoderKind) -> None:
    image, latents = image_autoencoder(kind), video(5)[None]
    own, start, mixed, whole = video_decoder(kind), video_decoder(kind), video_decoder(kind), video_decoder(kind)
    mixed.move_towards_image_decoder(image, 0.25)
    whole.move_towards_image_decoder(image, 1.0)
    start.move_towards_image_decoder(image, 0.0)
    with torch.no_grad():
        torch.testing.assert_close(whole(latents), VideoDecoder.for_autoencoder(image, VideoDecoderConfig())(latents))
        assert torch.equal(start(latents), own(latents))
    norm, theirs = "decoder.conv_norm_out.weight", image.decoder.conv_norm_out.weight
    torch.testing.assert_close(mixed.get_parameter(norm), 0.75 * own.get_parameter(norm) + 0.25 * theirs)
    last = "temporal.2.0.convs.0.weight"
    torch.testing.assert_close(mixed.get_parameter(last), 0.75 * own.get_parameter(last))


@pytest.mark.parametrize("num_convolutions", [1, 2])
def test_a_frame_depends_on_the_frames_within_the_radius_and_on_no_other(num_convolutions: int) -> None:
    decoder = video_decoder(levels=[False, False, True, True], num_convolutions=num_convolutions)
    radius = decoder.radius
    assert radius == 4 * num_convolutions
    latents = video(2 * radius + 3, 2, 3)
    middle = radius + 1
    others = latents.clone()
    others[middle] += 1.0
    with torch.no_grad():
        moved = (decoder(others[None]) - decoder(latents[None]))[0].abs().amax(dim=(1, 2, 3))
    assert torch.equal(moved.nonzero()[:, 0], torch.arange(1, 2 * radius + 2))


@BOTH
@pytest.mark.parametrize("config", [{}, {"levels": [True, False, False, True], "num_convolutions": 2}])
def test_chunks_and_tiles_are_the_whole_video(kind: AutoencoderKind, config: dict[str, Any]) -> None:
    decoder = video_decoder(kind, **config)
    latents = video(decoder.radius + 4)
    with torch.no_grad():
        wanted = decoder(latents[None])[0].clamp(-1, 1)
    assert wanted.std() > 0.1
    for frames_at_once, tiles in ((1, (1, 1)), (5, (2, 3)), (100, (6, 2))):
        chunks = list(decode_chunks(decoder, latents, 0, len(latents), frames_at_once=frames_at_once, tiles=tiles))
        assert max(map(len, chunks)) <= frames_at_once
        torch.testing.assert_close(torch.cat(chunks), wanted, rtol=0, atol=1e-5)


def test_a_part_of_a_video_needs_no_more_than_its_radius() -> None:
    decoder = video_decoder(levels=[False, False, True, False])
    latents = video(12)
    wanted = decode_clip(decoder, latents, 5, 7)
    near = decode_clip(decoder, latents[3:9], 2, 4)
    torch.testing.assert_close(near, wanted, rtol=0, atol=1e-6)
    assert (decode_clip(decoder, latents[4:8], 1, 3) - wanted).abs().max() > 1e-4


class LiveBytes(TorchDispatchMode):
    """Counts the memory of all tensors that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak_bytes(decoder: VideoDecoder, latents: Tensor, **how: Any) -> int:
    with LiveBytes() as live:
        for _ in decode_chunks(decoder, latents, 0, len(latents), **how):
            pass
    return live.peak


def test_memory_goes_down_with_tiles_and_does_not_grow_with_the_video() -> None:
    decoder = video_decoder(levels=[False, False, False, True])
    assert decoder.radius == 2
    latents = video(6, 16, 16)
    whole, four, many = (
        peak_bytes(decoder, latents, frames_at_once=6, tiles=tiles) for tiles in ((1, 1), (2, 2), (8, 2))
    )
    print(f"\npeak of 6 frames of 64 x 64: {whole} bytes whole, {four} in 4 tiles, {many} in 16")
    assert many < four < whole
    assert many < whole / 2
    for tiles in ((1, 1), (2, 2)):
        short, long = (peak_bytes(decoder, video(num_frames), frames_at_once=2, tiles=tiles) for num_frames in (6, 20))
        assert long - short == video(14).nbytes  # the latents themselves


@pytest.mark.parametrize("kind", list(AutoencoderKind))
def test_it_is_saved_and_loaded_alone(kind: AutoencoderKind, tmp_path: Path) -> None:
    decoder = video_decoder(kind)
    save_parts(tmp_path, {"video_decoder": decoder})
    loaded = load_parts(tmp_path, ["video_decoder"])["video_decoder"]
    assert isinstance(loaded, VideoDecoder)
    latents = video(3)
    assert torch.equal(decode_clip(loaded, latents, 0, 3), decode_clip(decoder, latents, 0, 3))


def test_levels_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="video_decoder.levels has 2 entries; expected 4: the middle, then"):
        VideoDecoder.for_autoencoder(image_autoencoder(), VideoDecoderConfig(levels=[True, True]))


def test_frames_and_tiles_that_are_not_there_are_refused() -> None:
    decoder = video_decoder()
    with pytest.raises(ValueError, match=r"frames \[2, 5\) of 4"):
        decode_clip(decoder, video(4), 2, 5)
    with pytest.raises(ValueError, match=r"tiles=\(7, 1\); valid: rows and columns from 1 to \(6, 5\)"):
        decode_clip(decoder, video(4), 0, 4, tiles=(7, 1))

"""The text recipes on captioned clips, as a person runs them: a CSV at 24 frames a second, tars at 30."""

from __future__ import annotations

import io
import json
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from drivesim.core.video import probe
from drivesim.families.folder import load_parts
from tests.command_line import drivesim
from tests.models.tiny_stable_diffusion import save_tiny

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

CAPTIONS = {"a": "a car at night", "b": "two cars, by day", "c": "a road"}
LARGE_HW = (64, 128)  # four times the size that the model works in
TINY = [
    "size_hw=[16,32]", "crop.size_hw=[32,32]", "text_temporal.num_frames=3", "text_temporal.feed_forward_mult=1",
    "text_interpolation.feed_forward_mult=1", "text_upscaler.num_frames=3", "text_upscaler.overlap=1",
    "text_upscaler.context_channels=4", "text_upscaler.feed_forward_mult=1", "design_sampling.steps=1",
    "interpolate_sampling.steps=1", "upsample_sampling.steps=1", "loader.batch_size=1", "loader.num_workers=0",
    "loader.num_val_items=1", "trainer.max_steps=1", "trainer.devices=1", "trainer.accelerator=cpu",
    "trainer.progress=false", "trainer.validate_every=1", "cache_dir=cache", "data.val_share=0.3",
]  # fmt: skip
TINY_DECODER = ["video_decoder.num_frames=3", "video_decoder_loss.discriminator_channels=8", "crop.size_hw=[]"]
# What a model at 24 frames a second needs beside the recipes, which make one at 30: its rates.
AT_24 = {
    "image": ["fps=1.5", "cache_fps=1.5"],
    "key_frames": ["fps=1.5", "cache_fps=1.5"],
    "interpolation": ["fps=1.5", "cache_fps=24", "text_interpolation.rates=[6,24]"],
    "video_decoder": ["cache_fps=24", "video_decoder.fps=24"],
    "upscaler": ["fps=1.5", "cache_fps=1.5"],
}


def write_clips(folder: Path, fps: int) -> dict[str, Path]:
    """A video for each caption, of 36 frames that grow brighter."""
    paths = {}
    for seed, name in enumerate(CAPTIONS):
        base = np.random.default_rng(seed).integers(0, 180, (*LARGE_HW, 3))
        paths[name] = folder / f"{name}.mp4"
        with av.open(str(paths[name]), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps))
            stream.height, stream.width, stream.pix_fmt = *LARGE_HW, "yuv420p"
            stream.codec_context.thread_count = 1
            for number in range(36):
                frame = av.VideoFrame.from_ndarray((base + 2 * number).astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return paths


def as_csv(folder: Path, fps: int) -> str:
    """The key that names them, as a table."""
    rows = [f'{path.name},"{CAPTIONS[name]}"' for name, path in write_clips(folder, fps).items()]
    (folder / "clips.csv").write_text("\n".join(["video,caption", *rows]) + "\n")
    return "data.csv=clips.csv"


def as_tars(folder: Path, fps: int) -> str:
    """The keys that name them, as tars in WebDataset's format: a caption is a text or in a JSON file."""
    for name, path in write_clips(folder, fps).items():
        as_json = json.dumps({"caption": CAPTIONS[name]}).encode()
        told = {"json": as_json} if name == "a" else {"txt": CAPTIONS[name].encode()}
        with tarfile.open(folder / f"clips-{name}.tar", "w") as shard:
            for ending, content in {"mp4": path.read_bytes(), **told}.items():
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
        path.unlink()
    return "data.csv=null data.tars=[clips-*.tar]"  # the recipes name a table


def train(recipe: str, data: str, init: str, *more: str) -> str:
    """Runs a recipe for a step and returns the folder of the model that it made."""
    command = ["train", f"experiment=text/{recipe}", "data=captioned", *data.split(), f"init={init}"]
    assert drivesim(*command, *TINY, *more, f"out={recipe}") == 0
    return f"{recipe}/model"


def rollout_info(model: str, *more: str) -> tuple[int, float, float, tuple[int, int]]:
    """Frames, frames a second, seconds and size of what the model makes of a prompt."""
    assert drivesim("rollout", "family=text", f"model={model}", "prompt=a car at night", "out=run", *more) == 0
    info = probe(Path("run/future_000.mp4"))
    return info.num_frames, info.fps, info.num_frames / info.fps, info.size_hw


def test_a_table_of_clips_becomes_a_model_at_24_frames_a_second(tmp_path: Path) -> None:
    data = as_csv(tmp_path, 24)
    save_tiny(tmp_path / "sd", "v2")
    save_tiny(tmp_path / "x4", "upscaler")
    image = train("image", data, "sd", *AT_24["image"])
    keys = train("key_frames", data, image, *AT_24["key_frames"])
    filled = train("interpolation", data, image, f"joins=[{keys}]", *AT_24["interpolation"])
    decoded = train("video_decoder", data, image, f"joins=[{filled}]", *TINY_DECODER, *AT_24["video_decoder"])
    model = train("upscaler", data, "x4", f"joins=[{decoded}]", *AT_24["upscaler"])
    index = json.loads(Path(model, "model_index.json").read_text())
    assert (index["fps"], index["rates"], index["video_decoder"]) == (1.5, [6.0, 24.0], {"fps": 24.0})
    assert rollout_info(model) == (33, 24.0, 33 / 24, LARGE_HW), "3 key frames, 9 after one pass, 33 after two"


def test_shards_of_clips_become_a_model_at_30_frames_a_second_as_the_recipes_say(tmp_path: Path) -> None:
    data = as_tars(tmp_path, 30)
    save_tiny(tmp_path / "sd", "v2")
    save_tiny(tmp_path / "x4", "upscaler")
    image = train("image", data, "sd")
    keys = train("key_frames", data, image)
    filled = train("interpolation", data, image, f"joins=[{keys}]")
    model = train("upscaler", data, "x4", f"joins=[{filled}]")
    assert load_parts(Path(model), ["interpolation_unet"])["interpolation_unet"].config.in_channels == 9
    assert rollout_info(model, "stages.upsampling=NONE") == (33, 30.0, 33 / 30, (16, 32))


def test_rates_changed_in_one_place_alone_and_tars_beside_a_table_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, init = as_csv(tmp_path, 24), save_tiny(tmp_path / "sd", "v2")
    command = ["train", "experiment=text/interpolation", "data=captioned", data, f"init={init}", "joins=[]", "out=run"]
    assert drivesim(*command, *TINY, "fps=1.5", "cache_fps=24") == 2
    assert "from fps=1.5 they must be [6.0, 24.0]" in capsys.readouterr().err
    assert drivesim(*command, *TINY, "data.tars=[clips-*.tar]") == 2
    assert "data.csv=null takes it out" in capsys.readouterr().err

"""CLIP embeddings by a tiny random CLIP: how pictures are prepared, what is normalised, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from drivesim import evaluate_command
from drivesim.core.files import sha256_file
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.extractors import ExtractorConfig
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.report import ReportConfig
from drivesim.evaluate.run import evaluate_protocols
from drivesim.evaluate.scores import ScoreRow
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.text_similarity import ClipSimilarity
from drivesim.models import text_frame_embeddings
from drivesim.models.text_frame_embeddings import TextFrameEmbedder

WORDS = ["ca", "car</w>", "<|startoftext|>", "<|endoftext|>"]
LETTERS = sorted(set("acroadnight"))
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's CLIP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of the real class at tiny size, with a vocabulary of letters and one word."""
    path = tmp_path_factory.mktemp("clip")
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *WORDS]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\nc a\nca r</w>\n")
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 10})
    )
    (path / "preprocessor_config.json").write_text(
        json.dumps({
            "crop_size": 32, "size": 32, "do_center_crop": True, "do_resize": True, "do_normalize": True,
            "image_mean": MEAN, "image_std": STD, "resample": 3, "image_processor_type": "CLIPImageProcessor",
        })
    )  # fmt: skip
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"]}
    text = CLIPTextConfig(
        vocab_size=len(vocabulary), max_position_embeddings=10, pad_token_id=ends["eos_token_id"], **sizes, **ends
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12))
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def embedder(folder: Path) -> TextFrameEmbedder:
    return TextFrameEmbedder.from_pretrained(str(folder))


def frames(height: int = 40, width: int = 70) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, size=(2, 3, height, width, 3), dtype=np.uint8)


def prepared(picture: NDArray[np.uint8]) -> torch.Tensor:
    """OpenAI's steps: short side to 32 by Pillow's bicubic, middle, scale, normalise."""
    height, width = picture.shape[:2]
    size = (int(32 * width / height), 32) if height <= width else (32, int(32 * height / width))
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)) / 255
    top, left = (size[1] - 32) // 2, (size[0] - 32) // 2
    middle = (resized[top : top + 32, left : left + 32] - MEAN) / STD
    return torch.from_numpy(middle).float().permute(2, 0, 1)


@pytest.mark.parametrize("size", [(40, 70), (90, 64), (32, 32)])
def test_frames_are_prepared_as_openai_does(embedder: TextFrameEmbedder, size: tuple[int, int]) -> None:
    clips = frames(*size)
    found = embedder.frames(clips)
    assert found.shape == (2, 3, 12) and found.dtype == torch.float32
    pixels = torch.stack([prepared(picture) for picture in clips.reshape(-1, *clips.shape[2:])])
    with torch.inference_mode():
        hidden = embedder.network.vision_model(pixel_values=pixels).pooler_output
        expected = hidden @ embedder.network.visual_projection.weight.T
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


def test_pictures_of_three_rows_are_not_taken_for_channels_first(embedder: TextFrameEmbedder) -> None:
    assert embedder.frames(frames(3, 50)).shape == (2, 3, 12)


def test_prompts_are_embedded_alike_alone_and_beside_longer_ones(embedder: TextFrameEmbedder) -> None:
    together = embedder.texts(["a car", "a car on a road"])
    assert together.shape == (2, 12) and together.dtype == torch.float32
    torch.testing.assert_close(embedder.texts(["a car"]), together[:1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_prompts_that_are_too_long_are_cut_off(embedder: TextFrameEmbedder) -> None:
    assert embedder.texts(["a car " * 40]).shape == (1, 12)


def test_frames_of_another_kind_are_refused(embedder: TextFrameEmbedder) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        embedder.frames(frames()[0])
    with pytest.raises(ValueError, match="expected uint8"):
        embedder.frames(frames() / 255)  # type: ignore[arg-type]


def test_a_network_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="openai/clip-vit-base-patch32"):
        TextFrameEmbedder.from_pretrained(str(tmp_path / "absent"))


def test_missing_weights_are_never_replaced_by_random_ones(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip"
    shutil.copytree(folder, path)
    weights = load_file(path / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing keys, the first is text_projection\.weight"):
        TextFrameEmbedder.from_pretrained(str(path))


def test_the_published_network_is_known_by_its_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = TextFrameEmbedder.from_pretrained(str(folder))
    assert not other.is_standard
    monkeypatch.setattr(text_frame_embeddings, "VIT_B_32_SHA256", sha256_file(folder / "model.safetensors"))
    assert TextFrameEmbedder.from_pretrained(str(folder)).is_standard
    with torch.no_grad():
        other.network.text_projection.weight[0, 0] += 1
    changed = TextFrameEmbedder(other.network, other.tokenizer, other.processor)
    assert changed.feature_dim == 12 and len(changed.fingerprint) == 64
    assert changed.fingerprint != other.fingerprint


def test_an_evaluation_takes_the_network_from_the_command_line_and_the_prompts_from_the_folder(
    folder: Path, embedder: TextFrameEmbedder, tmp_path: Path
) -> None:
    made, prompts = tmp_path / "made", ["a car", "night", "road"]
    made.mkdir()
    clips = np.random.default_rng(3).integers(0, 256, size=(3, 4, 32, 32, 3), dtype=np.uint8)
    for index, clip in enumerate(clips):
        np.save(made / f"{index}.npy", clip)
    lines = ["file,prompt", *(f"{index}.npy,{prompt}" for index, prompt in enumerate(prompts))]
    (made / "captions.csv").write_text("\n".join(lines))
    network = ExtractorConfig(name="clip-vit-b-32", weights=str(folder))
    protocol = ProtocolConfig(num_frames=4, context_frames=0, extractors=[network])
    config = EvaluateConfig(
        diversity=False, drift=DriftConfig(enabled=False), report=ReportConfig(num_generated=0, num_real=0)
    )
    makers = {"clip-vit-b-32": evaluate_command._text_frame_extractor}
    (scores,) = evaluate_protocols(config, [protocol], made, clips[::-1], tmp_path / "out", makers=makers)
    metric = ClipSimilarity()
    metric.update(embedder.texts(prompts), embedder.frames(clips))
    rows = {score.row: score.value for score in scores.scores}
    assert set(rows) == {ScoreRow.GENERATED, ScoreRow.OTHER_PROMPTS}
    assert rows[ScoreRow.GENERATED] == pytest.approx(float(metric.compute()), rel=1e-5)

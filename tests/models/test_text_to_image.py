"""Public text-to-image checkpoints in the formats that they come in, made here at tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drivesim.models.text_to_image import TextToImage, load_text_to_image
from tests.models.tiny_stable_diffusion import KINDS, save_tiny, tiny_text_to_image

NETWORKS = ("unet", "vae", "text_encoder")


def assert_equal_weights(made: TextToImage, expected: TextToImage) -> None:
    for part in NETWORKS:
        found, wanted = getattr(made, part).state_dict(), getattr(expected, part).state_dict()
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), f"{part}: {name}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_diffusers_folder_gives_back_its_parts(kind: str, tmp_path: Path) -> None:
    made = load_text_to_image(save_tiny(tmp_path / kind, kind))
    expected = tiny_text_to_image(kind)
    assert_equal_weights(made, expected)
    assert type(made.scheduler) is type(expected.scheduler)
    assert made.scheduler.config.prediction_type == ("epsilon" if kind == "v1" else "v_prediction")
    assert made.is_upscaler == (kind == "upscaler")
    assert not made.unet.training and not any(p.is_meta for p in made.unet.parameters())
    assert made.tokenizer("night car").input_ids == expected.tokenizer("night car").input_ids

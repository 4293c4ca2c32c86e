"""CLIP as CLIPSIM uses it: one vector a prompt, one a frame.

Legend: B clips, T frames, H x W pixels, C channels, D values of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

try:  # transformers 5 has two; the one by Pillow resizes as OpenAI's own code does, whatever else is installed
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor

VIT_B_32 = "openai/clip-vit-base-patch32"


class TextFrameEmbedder:
    """A CLIP network with its tokenizer and its way of preparing pictures."""

    def __init__(self, network: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessor) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.processor = processor

    @classmethod
    def from_pretrained(cls, folder_or_name: str = VIT_B_32, device: str = "cpu") -> TextFrameEmbedder:
        """A network from a folder in transformers' format, or from the hub by its name.

        Raises:
            FileNotFoundError: a part is not there, or the hub cannot be reached.
            ValueError: weights and config do not belong together.
        """
        try:
            network, info = CLIPModel.from_pretrained(folder_or_name, output_loading_info=True)
            tokenizer = CLIPTokenizer.from_pretrained(folder_or_name)
            processor = CLIPImageProcessor.from_pretrained(folder_or_name)
        except OSError as error:
            raise FileNotFoundError(
                f"{folder_or_name}: no CLIP network can be loaded from there: {str(error).splitlines()[0]} "
                f"Give a folder that holds a copy of {VIT_B_32}, or its name where the hub can be reached"
            ) from error
        # transformers fills missing tensors with random numbers and only logs it
        for what in ("missing_keys", "mismatched_keys"):
            if info[what]:
                first = sorted(map(str, info[what]))[0]
                raise ValueError(f"{folder_or_name}: {len(info[what])} {what.replace('_', ' ')}, the first is {first}")
        return cls(network.eval().requires_grad_(False).to(device), tokenizer, processor)

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Vectors (B, D) of prompts, float32 on the CPU; what does not fit is cut off."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(self._device)
        return self._projected(self.network.text_model(**tokens), self.network.text_projection)

    @torch.inference_mode()
    def frames(self, frames_BTHWC: NDArray[np.uint8]) -> Tensor:
        """Vectors (B, T, D) of uint8 RGB frames of any size, float32 on the CPU.

        Raises:
            ValueError: frames that are not uint8 of this shape.
        """
        if frames_BTHWC.dtype != np.uint8 or frames_BTHWC.ndim != 5 or frames_BTHWC.shape[-1] != 3:
            raise ValueError(f"frames are {frames_BTHWC.dtype} {frames_BTHWC.shape}, expected uint8 (B, T, H, W, 3)")
        pictures = list(frames_BTHWC.reshape(-1, *frames_BTHWC.shape[2:]))
        pixels = self.processor(pictures, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        output = self.network.vision_model(pixel_values=pixels.to(self._device))
        return self._projected(output, self.network.visual_projection).unflatten(0, frames_BTHWC.shape[:2])

    @property
    def _device(self) -> torch.device:
        return torch.device(self.network.device)

    def _projected(self, output: Any, projection: torch.nn.Module) -> Tensor:
        # the towers' own outputs: `get_text_features` returns another type since transformers 5
        vectors: Tensor = projection(output.pooler_output)
        return vectors.float().cpu()

"""CLIP as CLIPSIM uses it: one vector a prompt, one a frame.

Legend: B clips, T frames, H x W pixels, C channels, D values of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils import SAFE_WEIGHTS_NAME, WEIGHTS_NAME, cached_file

from drivesim.core.devices import exact_float32
from drivesim.core.files import sha256_file

try:  # transformers 5 has two; the one by Pillow resizes as OpenAI's own code does, whatever else is installed
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor

VIT_B_32 = "openai/clip-vit-base-patch32"
VIT_B_32_SHA256 = "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"  # of its pytorch_model.bin


class TextFrameEmbedder:
    """A CLIP network with its tokenizer and its way of preparing pictures."""

    def __init__(
        self, network: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessor, is_standard: bool = False
    ) -> None:
        """Takes parts that belong together; `is_standard` = they are those of the published ViT-B/32."""
        self.network = network
        self.is_standard = is_standard
        self.feature_dim = int(network.config.projection_dim)
        self.fingerprint = _digest(network)
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
        network = network.eval().requires_grad_(False)
        return cls(network.to(device), tokenizer, processor, is_standard=_is_published(folder_or_name))

    @torch.inference_mode()
    @exact_float32()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Vectors (B, D) of prompts, float32 on the CPU; what does not fit is cut off."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(self._device)
        return self._projected(self.network.text_model(**tokens), self.network.text_projection)

    @torch.inference_mode()
    @exact_float32()
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


def _digest(network: CLIPModel) -> str:
    """sha256 of all tensors with their names, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_published(folder_or_name: str) -> bool:
    """Whether the weights that transformers has taken from there are the published file, by its bytes."""
    for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME):  # the first that is there is the one that it takes
        try:
            found = cached_file(folder_or_name, name, local_files_only=True)
        except OSError:
            continue
        return found is not None and sha256_file(Path(found)) == VIT_B_32_SHA256
    return False

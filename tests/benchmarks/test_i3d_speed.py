"""How many clips our I3D takes a second."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drivesim.evaluate.i3d import I3D


@pytest.mark.parametrize("batch", [1, 4])
def test_clips_a_second_on_one_thread(batch: int, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = tmp_path / "i3d.safetensors"
    save_file(I3D().state_dict(), path)
    network = I3D.load(path)
    clips = torch.rand(batch, 3, 16, 224, 224) * 2 - 1
    with torch.inference_mode():
        network(clips)
        seconds = []
        for _ in range(3):
            began = time.process_time()
            network(clips)
            seconds.append(time.process_time() - began)
    torch.set_num_threads(threads)
    print(f"\nI3D, {batch} x 16 x 224 x 224: {batch / min(seconds):.2f} clips/s on one thread")

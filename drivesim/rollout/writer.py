"""A future's files: closed video segments with the state to go on from, then one whole MP4."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from drivesim.core.files import atomic_path, sha256_file
from drivesim.core.video_writing import VideoWriter, join_videos
from drivesim.rollout.world import State

_PENDING = "pending."  # in the names of the state's tensors
_log = logging.getLogger(__name__)


class FutureWriter:
    """Writes a future so that a kill at any moment costs at most one segment.

    Segments end at fixed chunks and start with a key frame, and the whole video is their packets in a
    row, never encoded again. So a video that was stopped and resumed has the bytes of one that was not,
    and so has one that was made longer afterwards: the state before its last segment stays.
    """

    def __init__(self, run_dir: Path, future: int, *, fps: float, crf: int) -> None:
        """Creates nothing yet.

        Args:
            run_dir: The run's folder.
            future: Number of the future.
            fps: Frames per second of the video.
            crf: x264's constant quality.
        """
        self.video = run_dir / f"future_{future:03d}.mp4"
        # A dot name: nobody who looks for videos in the folder takes a segment for one.
        self.parts = run_dir / ".parts" / f"future_{future:03d}"
        self._end = run_dir / ".ends" / f"future_{future:03d}.safetensors"
        self.future = future
        self.fps = fps
        self.crf = crf
        self._digests: list[str | None] = []  # of the closed segments; None = it has no frame

    @contextmanager
    def segment(self, index: int) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
        """Opens segment `index`, to be written frame by frame; it has its name once it is whole.

        A segment without a frame has no file: frames may wait for those of the next one.
        """
        with ExitStack() as stack:
            opened: list[VideoWriter] = []

            def write(frame_HWC: NDArray[np.uint8]) -> None:
                if not opened:
                    video = VideoWriter(self._segment_path(index), self.fps, crf=self.crf)
                    opened.append(stack.enter_context(video))
                opened[0].write(frame_HWC)

            self._segment_path(index).unlink(missing_ok=True)  # of a start that was stopped before its state
            yield write

    def save_state(self, state: State, num_segments: int) -> None:
        """Notes that `num_segments` segments are closed and that the future goes on from `state`.

        Not to be called after the last one, whose end is the video's: a longer video goes on from before it.
        """
        self._digests += [self._digest(n) for n in range(len(self._digests), num_segments)]
        counts = {"chunk_index": state.chunk_index, "num_frames": state.num_frames}
        tensors = {"latents_SCHW": state.latents_SCHW} | {_PENDING + key: t for key, t in state.pending.items()}
        with atomic_path(self._state_path) as temporary:
            # Clones: parts of one tensor would be refused as shared memory.
            whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
            metadata = {name: str(count) for name, count in counts.items()} | {"segments": json.dumps(self._digests)}
            save_file(whole, temporary, metadata | {"tensors": _tensor_digest(whole)})

    def load_state(self) -> tuple[State, int] | None:
        """The state after the last closed segment and the number of segments; None = start anew.

        A state or a segment that was harmed since, by a full disk or by hand, costs the future its start anew.
        """
        if not self._state_path.exists():
            return None
        state, digests = self._read(self._state_path) or (None, [])
        if state is None:
            return None
        for index, digest in enumerate(digests):
            path = self._segment_path(index)
            if self._digest(index) != digest:
                _log.warning("%s: missing or harmed; the future starts anew", path)
                return None
        self._digests = digests
        return state, len(digests)

    def _read(self, path: Path) -> tuple[State, list[str | None]] | None:
        """A state and the digests of the segments before it; None = the file is harmed."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if metadata["tensors"] != _tensor_digest(tensors):
                raise ValueError("other numbers than were written")
            latents_SCHW: torch.Tensor = tensors.pop("latents_SCHW")
            digests: list[str | None] = json.loads(metadata["segments"])
            counts = {name: int(metadata[name]) for name in ("chunk_index", "num_frames")}
        except (SafetensorError, KeyError, ValueError) as error:
            _log.warning("%s: cannot be read (%s); the future starts anew", path, error)
            return None
        pending = {name.removeprefix(_PENDING): tensor for name, tensor in tensors.items()}
        return State(future=self.future, latents_SCHW=latents_SCHW, pending=pending, **counts), digests

    def join(self, num_segments: int) -> int:
        """Makes the video from its segments; returns its number of frames."""
        paths = [self._segment_path(index) for index in range(num_segments)]
        return join_videos([path for path in paths if path.is_file()], self.video)

    def remove_parts(self, *, keep_end: bool) -> None:
        """Deletes segments, of which nothing is needed once the video's row is written.

        Args:
            keep_end: whether the last state stays, for a longer video.
        """
        if keep_end and self._state_path.exists():
            self._end.parent.mkdir(exist_ok=True)
            self._state_path.replace(self._end)
        if self.parts.exists():
            shutil.rmtree(self.parts)
        if self.parts.parent.exists() and not any(self.parts.parent.iterdir()):
            self.parts.parent.rmdir()

    def reopen(self) -> None:
        """Makes a finished future an unfinished one, to be made longer; the video stays until the longer one is whole.

        What was made before its last segment comes back as one segment. Without a state from there, as of a video of
        one segment alone, the future starts anew. One that was reopened before, and then stopped, is left as it is.
        """
        if self._state_path.exists():
            return
        if self.parts.exists():  # of a start that was stopped on the way here
            shutil.rmtree(self.parts)
        if not self._end.exists():
            return
        state, digests = self._read(self._end) or (None, [])
        if state is None:
            return
        if state.num_frames:
            join_videos([self.video], self._segment_path(0), first=state.num_frames)
        self._digests = []
        self.save_state(state, len(digests))

    @property
    def _state_path(self) -> Path:
        return self.parts / "state.safetensors"

    def _digest(self, index: int) -> str | None:
        path = self._segment_path(index)
        return sha256_file(path) if path.is_file() else None

    def _segment_path(self, index: int) -> Path:
        return self.parts / f"seg_{index:04d}.mp4"


def _tensor_digest(tensors: dict[str, torch.Tensor]) -> str:
    """Over names, types, shapes and numbers."""
    return hashlib.sha256(save(tensors)).hexdigest()

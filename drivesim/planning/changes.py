"""Keys that make a run need less memory, and their values: only such as there are, each planned anew."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

from drivesim.families.memory import MemoryConfig
from drivesim.families.stages import Upsampling
from drivesim.planning.plan import Change
from drivesim.rollout.pools import PoolKind

if TYPE_CHECKING:
    from drivesim.train.config import TrainConfig

Override = tuple[str, Any]  # key with dots, value
MOST_NAMED = 4
CHUNKS = (8, 4, 1)  # frames at once that are tried
LEAST_TILE = 4  # side of pieces in latents; smaller ones are mostly margin


def applied(config: Any, overrides: list[Override]) -> Any:
    """A copy of a config with some keys changed."""
    changed = copy.deepcopy(config)
    for key, value in overrides:
        *places, name = key.split(".")
        owner = changed
        for place in places:
            owner = getattr(owner, place)
        setattr(owner, name, value)
    return changed


def training_changes(config: TrainConfig) -> Iterator[list[Override]]:
    """Smaller batches of the same size of a step, 16 bits, both, and pieces of pictures: the least harm first."""
    batches = list(_smaller_batches(config))
    yield from batches
    if config.trainer.precision == "32-true":
        in_16_bit: Override = ("trainer.precision", "bf16-mixed")
        yield [in_16_bit]
        yield from ([in_16_bit, *batch] for batch in batches)
    if not config.crop.size_hw:
        height, width = config.size_hw
        yield [("crop.size_hw", [height // 2, width // 2])]  # changes nothing where no pieces are taken


def _smaller_batches(config: TrainConfig) -> Iterator[list[Override]]:
    """Divisors of the batch, at most half of the one before, so that a step's gradients stay the same."""
    whole, size = config.loader.batch_size, config.loader.batch_size
    while size > 1:
        size = max(divisor for divisor in range(1, size // 2 + 1) if whole % divisor == 0)
        accumulate = config.trainer.accumulate * (whole // size)
        yield [("loader.batch_size", size), ("trainer.accumulate", accumulate)]


def rollout_changes(
    command: Any, num_workers: int, *, is_gpu: bool, decoded_hw: tuple[int, int] | None
) -> Iterator[list[Override]]:
    """The least harm first.

    Fewer processes; networks that wait; frames decoded in pieces, which changes their last bits; 16 bits; the CPU in
    place of a GPU; stages left out, the last one first.

    Args:
        command: config of the command.
        num_workers: processes at once.
        is_gpu: whether it runs on one.
        decoded_hw: height and width of the latents that a video decoder takes; None = there is none.
    """
    pool, device, stages = command.pool, command.device, command.stages
    if pool.kind is PoolKind.RAY:
        while num_workers > 1:
            num_workers //= 2
            yield [("pool.workers", num_workers)]
    offload: list[Override] = [("memory.offload", True)] if is_gpu and not command.memory.offload else []
    if offload:
        yield offload
    pieces = [] if decoded_hw is None else list(_smaller_pieces(command.memory, max(decoded_hw)))
    yield from pieces
    if offload and pieces:
        yield offload + pieces[-1]
    if command.weights == "float32":
        in_16_bit: Override = ("weights", "bfloat16")
        yield [in_16_bit]
        if pieces:
            yield [in_16_bit, *offload, *pieces[-1]]
    if device != "cpu":
        yield [("device", "cpu"), *([("memory.offload", False)] if command.memory.offload else [])]
    others = list(Upsampling)[list(Upsampling).index(Upsampling(stages.upsampling)) + 1 :]
    yield from ([("stages.upsampling", other)] for other in others)
    if stages.video_decoder:
        yield [("stages.video_decoder", False)]
    if stages.interpolate:
        yield [("stages.interpolate", False)]


def _smaller_pieces(memory: MemoryConfig, side: int) -> Iterator[list[Override]]:
    """Fewer frames, then smaller parts of them, in the video decoder, then the least of both."""
    chunks = [chunk for chunk in CHUNKS if chunk < memory.chunk]
    side = side if memory.tile is None else min(side, memory.tile)
    tiles = [side // divisor for divisor in (2, 4, 8) if side // divisor >= LEAST_TILE]
    yield from ([("memory.chunk", chunk)] for chunk in chunks)
    yield from ([("memory.tile", tile)] for tile in tiles)
    if chunks and tiles:
        yield [("memory.chunk", chunks[-1]), ("memory.tile", tiles[-1])]


def fitting(
    candidates: Iterator[list[Override]], needs: Callable[[list[Override]], tuple[int, int]], now_bytes: int
) -> list[Change]:
    """The first few changes that fit and need less than now.

    Args:
        candidates: overrides to try, in order; those with the keys of one that fits, and more of them, are not tried.
        needs: peak memory with some overrides, and what there is of it.
        now_bytes: peak memory without any.
    """
    found: list[Change] = []
    kept: list[set[str]] = []
    for overrides in candidates:
        keys = {key for key, _ in overrides}
        if len(found) == MOST_NAMED or any(keys >= earlier for earlier in kept):
            continue
        need, limit = needs(overrides)
        if need <= limit and need < now_bytes:
            found.append(Change(overrides=[_typed(*override) for override in overrides], memory_bytes=need))
            kept.append(keys)
    return found


def _typed(key: str, value: Any) -> str:
    """An override as a person types it."""
    if isinstance(value, Enum):
        return f"{key}={value.name}"
    return f"{key}={str(value).replace(' ', '')}" if not isinstance(value, bool) else f"{key}={str(value).lower()}"

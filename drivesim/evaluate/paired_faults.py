"""Names faults of a video against the very video that it should equal, down to single objects.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from drivesim.core.boxes import CLASSES, Boxes2D, ObjectClass
from drivesim.evaluate.changed_regions import Region, RegionTracker, box_at
from drivesim.evaluate.curves import CurveMeter
from drivesim.evaluate.faults import (
    Fault,
    FaultKind,
    FaultLimits,
    FaultSeries,
    find_faults,
    is_explained,
    series_of,
    still_tail,
)
from drivesim.evaluate.videos import Frame


def find_paired_faults(
    frames: Iterable[Frame],
    reference: Iterable[Frame],
    fps: float,
    *,
    boxes: Sequence[Boxes2D] | None = None,
    reference_boxes: Sequence[Boxes2D] | None = None,
    limits: FaultLimits | None = None,
) -> list[Fault]:
    """The faults of a video, by onset: those of `find_faults`, and objects that came or went.

    One pass over both. Single objects are looked for where the picture as a whole is right.

    Args:
        frames: uint8 RGB (H, W, 3) each.
        reference: As many frames of the same size; what `frames` should be.
        fps: Turns a frozen tail into seconds.
        boxes: Of the scored video, one a frame: they tell the class of an added object, and, where one video alone has
            a box at a place, which of the two the object is in. None = not known.
        reference_boxes: The same of the reference.
        limits: What is no fault yet; None = the defaults, which leave room for H.264's coding noise.

    Raises:
        ValueError: different numbers or sizes of frames.
    """
    scored, expected, tracker = CurveMeter(), CurveMeter(), RegionTracker()
    for frame, other in zip_longest(frames, reference):
        if frame is None or other is None:
            raise ValueError("the video and its reference have different numbers of frames")
        scored.update(frame)
        expected.update(other)
        tracker.update(frame, other)
    own, wanted = series_of(scored.compute()), series_of(expected.compute())
    series = FaultSeries(
        log_sharpness=own.log_sharpness - wanted.log_sharpness,
        light=own.light - wanted.light,
        still=own.still,
        out_of_order=own.out_of_order & ~wanted.out_of_order,
    )
    limits = limits or FaultLimits()
    # A reference that stands at its end, too, excuses as long a tail.
    limits = replace(limits, still_tail=limits.still_tail + still_tail(wanted))
    # A large object can be smoother or brighter than what it hides; that alone is no fault of the whole picture.
    faults = [
        fault
        for fault in find_faults(series, limits, fps)
        if fault.kind not in (FaultKind.BLUR, FaultKind.GAIN) or not tracker.is_one_place[fault.onset_frame]
    ]
    regions = [
        region for region in tracker.compute() if not is_explained(region.first_frame, faults, len(series.light))
    ]
    faults += [_object_fault(region, boxes, reference_boxes) for region in regions]
    return sorted(faults, key=lambda fault: fault.onset_frame)


def _object_fault(region: Region, boxes: Sequence[Boxes2D] | None, reference_boxes: Sequence[Boxes2D] | None) -> Fault:
    own, wanted = (_class_at(region, side) for side in (boxes, reference_boxes))
    # Where a detector sees it in one of the videos alone, it is there; edges alone mislead for half-hidden objects.
    is_added = region.is_added if (own is None) == (wanted is None) else own is not None
    return Fault(
        kind=FaultKind.ADDED_OBJECT if is_added else FaultKind.REMOVED_OBJECT,
        onset_frame=region.first_frame,
        size=float(np.round(region.area_px, 1)),
        xyxy_px=region.first_box,
        object_class=own if is_added else wanted,
    )


def _class_at(region: Region, boxes: Sequence[Boxes2D] | None) -> ObjectClass | None:
    """The class of the box at the place where a region begins; None = there is none, or boxes are not known."""
    if boxes is None:
        return None
    there = boxes[region.first_frame]
    index = box_at(region.first_box, there)
    return None if index is None else CLASSES[int(there.class_ids[index])]

"""Measures of a video's motion and of its likeness to the image, from its frames alone, on the CPU.

docs/measures.md has the formulas. Shapes: t frames, h × w px, c channels; the 2 of a flow is x and y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.measures import Measures
from shared.similarity import structural_similarity
from worker.pipeline import VideoFrames

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8]

#: flow is looked for in frames of at most so many pixels; larger ones are halved before, once or twice.
FLOW_PIXELS_MAX = 2**18

_RELATIVE_LINEAR = cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP


@dataclass(frozen=True)
class Motion:
    """Where the pixels of one frame are in the next, both reduced in size."""

    #: [h w 2], in the reduced frames' px.
    flow: Floats
    #: [h w]: whether the pixel is there, too: it neither left the picture nor went behind something.
    visible: NDArray[np.bool_]
    #: sides of the frames over those of the reduced ones: 1, 2 or 4.
    scale: int


def measure(frames: VideoFrames, image: VideoFrames, on_pair: Callable[[], None] = lambda: None) -> Measures:
    """Measure a video, all but its drift, which only the image encoder's holder can.

    Memory does not grow with the number of frames.

    Args:
        frames: [t h w c], RGB; motion and flicker need two frames, jerkiness three.
        image: [h w c], RGB: what the pipeline was given.
        on_pair: called before each pair of frames; may raise to stop.
    """
    # One thread: their number changes the flow a little, and the other cores have work.
    cv2.setNumThreads(1)
    flow_px, jerkiness_px, flicker = [], [], []
    before: Motion | None = None
    for first, second in pairwise(map(_luminance, frames)):
        on_pair()
        motion = find_motion(first, second)
        flow_px.append(motion.scale * float(_length(motion.flow).mean()))
        if motion.visible.any():
            flicker.append(_flicker(first, second, motion))
        if before is not None and before.visible.any():
            change = _follow(before.flow, motion.flow) - before.flow
            jerkiness_px.append(motion.scale * float(_length(change)[before.visible].mean()))
        before = motion
    similarity = structural_similarity(_luminance(frames[0]).astype(np.float32), _luminance(image).astype(np.float32))
    return Measures(
        flow_px=_mean(flow_px),
        jerkiness_px=_mean(jerkiness_px),
        flicker=_mean(flicker),
        first_frame_ssim=_mean([similarity]),
    )


def find_motion(first: Levels, second: Levels) -> Motion:
    """Optical flow from one frame to the next, and where it can be trusted; of large frames reduced ones are taken.

    Args:
        first: luminance, [h w].
        second: of the same size.

    Source: Kroeger et al. 2016 (arXiv:1603.03590), dense inverse search, with OpenCV's preset `MEDIUM`. Visible is
    where the flow there and the flow back agree: Sundaram, Brox & Keutzer 2010 (ECCV), "Dense point trajectories".
    """
    height, width = first.shape
    scale = 1
    while height * width > FLOW_PIXELS_MAX * scale**2:
        scale *= 2
    size = (width // scale, height // scale)
    one, other = (
        np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8) for frame in (first, second)
    )
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there, back = (_find_flow(search, *pair) for pair in ((one, other), (other, one)))
    returned = _follow(there, back)
    disagreement = (there + returned) ** 2
    visible = (disagreement.sum(axis=2) < 0.01 * (there**2 + returned**2).sum(axis=2) + 0.5) & _stays_inside(there)
    return Motion(there, visible, scale)


def _find_flow(search: cv2.DISOpticalFlow, first: Levels, second: Levels) -> Floats:
    # None is "no flow to begin with", which OpenCV's stub leaves out.
    return np.asarray(search.calc(first, second, None), np.float32)  # type: ignore[call-overload]


def _stays_inside(flow: Floats) -> NDArray[np.bool_]:
    height, width, _ = flow.shape
    x = np.arange(width, dtype=np.float32) + flow[:, :, 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[:, :, 1]
    inside: NDArray[np.bool_] = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside


def _follow(flow: Floats, values: Floats) -> Floats:
    """What the next frame has where each pixel went, [h w …]."""
    there = cv2.remap(values, flow, None, _RELATIVE_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(there, np.float32)


def _flicker(first: Levels, second: Levels, motion: Motion) -> float:
    size = (first.shape[1], first.shape[0])
    flow = np.asarray(cv2.resize(motion.flow, size, interpolation=cv2.INTER_LINEAR), np.float32) * motion.scale
    visible = cv2.resize(motion.visible.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    change = cv2.absdiff(_follow(flow, second.astype(np.float32)), first.astype(np.float32))
    return float(cv2.mean(change, visible)[0])


def _luminance(frame: VideoFrames) -> Levels:
    """[h w c], RGB → [h w], by Rec. 601 as JPEG has it."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def _length(flow: Floats) -> Floats:
    return np.asarray(np.linalg.norm(flow, axis=2), np.float32)


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None

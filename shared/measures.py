"""What is measured of each video. docs/measures.md has the formulas and their sources."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Measures(BaseModel):
    """Of one video; null is what could not be measured."""

    model_config = ConfigDict(frozen=True)

    flow_px: float | None = Field(
        None, ge=0, description="Motion: mean length of the optical flow from frame to frame, px per frame."
    )
    jerkiness_px: float | None = Field(
        None, ge=0, description="Acceleration: mean length of the change of flow along the motion, px per frame²."
    )
    flicker: float | None = Field(
        None,
        ge=0,
        le=255,
        description="Mean change of luminance from frame to frame after motion compensation, levels of 255.",
    )
    first_frame_ssim: float | None = Field(
        None, ge=-1, le=1, description="Structural similarity of the first frame to the prepared image; 1: equal."
    )
    drift: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Mean of 1 − cosine of the image encoder's embeddings of each frame and of the image; 0: equal.",
    )

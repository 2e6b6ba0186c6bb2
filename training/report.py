"""The evaluation's measures and gates as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.evaluate import Measures
    from training.gates import Gate


def format_table(found: list[Measures]) -> str:
    """A Markdown table, a row for each photo and setting, means over the seeds."""
    rows = [
        "| photo | bucket | noise | frame 0 to photo (ceiling), dB | last frame to intended (still photo), dB | SSIM "
        "| flow (intended), px | flicker (intended), levels | all frames to photo, dB | denoising, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, int, float], list[Measures]] = {}
    for one in found:
        groups.setdefault((one.photo, one.motion_bucket_id, one.noise_aug_strength), []).append(one)

    def mean(group: list[Measures], value: Callable[[Measures], float]) -> float:
        return sum(value(one) for one in group) / len(group)

    for (photo, bucket, noise), group in groups.items():
        rows.append(
            f"| {photo} | {bucket} | {noise:g} "
            f"| {mean(group, lambda m: m.first_db):.1f} ({group[0].ceiling_db:.1f}) "
            f"| {mean(group, lambda m: m.last_db):.1f} ({group[0].static_db:.1f}) "
            f"| {mean(group, lambda m: m.last_ssim):.2f} "
            f"| {mean(group, lambda m: m.flow_px):.2f} ({group[0].intended_flow_px:.2f}) "
            f"| {mean(group, lambda m: m.flicker):.2f} ({group[0].intended_flicker:.2f}) "
            f"| {mean(group, lambda m: m.all_to_photo_db):.1f} "
            f"| {mean(group, lambda m: m.denoise_s):.1f} |"
        )
    return "\n".join(rows)


def format_gates(gates: list[Gate]) -> str:
    """A Markdown table of what must hold and by how much it does."""
    rows = ["| must hold | worst | holds |", "|---|---|---|"]
    rows += [f"| {gate.name} | {gate.worst:.2f} | {'yes' if gate.holds else 'NO'} |" for gate in gates]
    return "\n".join(rows)

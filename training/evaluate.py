"""Measures of a finished checkpoint on photos that it was not trained on, through the plain pipeline."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from torch import Tensor

from training.contact_sheet import save_contact_sheet
from training.embedding import ImageEmbedder
from training.errors import RefusedError, reading, replacing, writing
from training.gates import check_gates
from training.metrics import flicker, mean_flow, psnr, ssim
from training.motion import CameraMotion, amounts, sampling_grid, warp
from training.photo_files import digest
from training.pictures import load_picture, to_image
from training.report import format_gates, format_table

FPS = 7
BUCKETS = (20, 127, 255)
NOISE_STRENGTHS = (0.02, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Settings:
    """What is generated: size in px, frames, denoising steps, seeds for each setting, and on which device.

    `device` is `auto`, `cpu` or `cuda`; the measures are written with the one that it was.
    """

    width: int = 256
    height: int = 128
    num_frames: int = 14
    steps: int = 8
    seeds: int = 3
    device: str = "auto"


@dataclass(frozen=True)
class Measures:
    """Of one video. Differences are in dB (PSNR), flow in px, flicker in levels of 255."""

    photo: str
    seed: int
    motion_bucket_id: int
    noise_aug_strength: float
    #: of the photo after encoding and decoding alone: no video can be better.
    ceiling_db: float
    #: frame 0 to the photo.
    first_db: float
    #: all frames to the photo.
    all_to_photo_db: float
    #: last frame to where the photo should have gone, and the still photo to the same.
    last_db: float
    static_db: float
    last_ssim: float
    #: mean length of the flow from the first to the last frame, and of the intended one, by the same measure.
    flow_px: float
    intended_flow_px: float
    #: mean change from frame to frame, and of the intended frames.
    flicker: float
    intended_flicker: float
    #: of the denoising steps alone.
    denoise_s: float


class Evaluator:
    """One checkpoint on one device."""

    def __init__(self, checkpoint: Path, num_frames: int, steps: int, device: torch.device) -> None:
        with reading(checkpoint, "export it anew"):
            pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint, local_files_only=True)
        self._pipe = pipe.to(device)
        self._pipe.set_progress_bar_config(disable=True)
        self._embedder = ImageEmbedder(self._pipe.image_encoder, device)
        self._num_frames = num_frames
        self._steps = steps
        self._device = device

    def intended(self, picture: Tensor, motion_bucket_id: int) -> Tensor:
        """The frames that the model was taught to make, [t 3 h w], range [-1, 1]."""
        motion = CameraMotion.of(self._embedder(picture[None]))
        bucket = torch.tensor([motion_bucket_id], device=self._device)
        amount = amounts(bucket, torch.tensor([float(FPS)], device=self._device), self._num_frames)
        grid = sampling_grid(motion, amount, picture.shape[-1], picture.shape[-2])
        return warp(picture[None], grid)[0].clamp(-1, 1)

    @torch.no_grad()
    def ceiling(self, picture: Tensor) -> Tensor:
        """The photo encoded and decoded as a video in which nothing moves: its first frame, [3 h w]."""
        latents = self._pipe.vae.encode(picture[None]).latent_dist.mode()
        repeated = latents.expand(self._num_frames, -1, -1, -1)
        decoded: Tensor = self._pipe.vae.decode(repeated, num_frames=self._num_frames).sample[0]
        return decoded.clamp(-1, 1)

    def generate(self, picture: Tensor, bucket: int, noise: float, seed: int) -> tuple[Tensor, float]:
        """Frames [t 3 h w], range [-1, 1], as 8 bits keep them, and the seconds of the denoising steps."""
        began: list[float] = []

        def note_first_step(*_: object) -> None:
            if not began:
                began.append(self._clock())

        hook = self._pipe.unet.register_forward_pre_hook(note_first_step)
        latents = self._pipe(
            # As a picture of 8 bits: tensors would go into the image encoder without being resized.
            to_image(picture),
            height=picture.shape[-2],
            width=picture.shape[-1],
            num_frames=self._num_frames,
            num_inference_steps=self._steps,
            min_guidance_scale=1.0,
            max_guidance_scale=1.0,
            fps=FPS,
            motion_bucket_id=bucket,
            noise_aug_strength=noise,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).frames
        seconds = self._clock() - began[0]
        hook.remove()
        with torch.no_grad():
            frames = self._pipe.decode_latents(latents, self._num_frames, self._num_frames)[0].transpose(0, 1)
        return torch.round((frames.clamp(-1, 1) + 1) * 127.5) / 127.5 - 1, seconds

    def _clock(self) -> float:
        """Seconds, when the device is done with what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def measure(self, name: str, picture: Tensor, bucket: int, noise: float, seed: int) -> tuple[Measures, Tensor]:
        """Generate one video and measure it; the frames come with it."""
        frames, seconds = self.generate(picture, bucket, noise, seed)
        wanted = self.intended(picture, bucket)
        ceiling = self.ceiling(picture)
        measures = Measures(
            photo=name,
            seed=seed,
            motion_bucket_id=bucket,
            noise_aug_strength=noise,
            ceiling_db=float(psnr(ceiling[None], picture[None])),
            first_db=float(psnr(frames[:1], picture[None])),
            all_to_photo_db=float(psnr(frames, picture[None].expand_as(frames)).mean()),
            last_db=float(psnr(frames[-1:], wanted[-1:])),
            static_db=float(psnr(picture[None], wanted[-1:])),
            last_ssim=float(ssim(frames[-1:], wanted[-1:])),
            flow_px=mean_flow(frames[0], frames[-1]),
            intended_flow_px=mean_flow(wanted[0], wanted[-1]),
            flicker=flicker(frames),
            intended_flicker=flicker(wanted),
            denoise_s=round(seconds, 3),
        )
        return measures, frames


def evaluate(checkpoint: Path, photos: list[Path], output: Path, how: Settings) -> int:
    """Measure, print the tables, write them with contact sheets into a folder.

    Returns:
        0 if all gates hold, else 1.

    Raises:
        RefusedError: there is no such device, or a photo cannot be decoded.
        TrainingError: the checkpoint cannot be loaded, or the folder cannot be written.
    """
    device = _find_device(how.device)
    how = replace(how, device=device.type)
    pictures = [(path.stem, load_picture(path, how.width, how.height)) for path in photos]
    evaluator = Evaluator(checkpoint, how.num_frames, how.steps, device)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    found: list[Measures] = []
    wanted = [(bucket, 0.02) for bucket in BUCKETS] + [(127, noise) for noise in NOISE_STRENGTHS[1:]]
    for name, loaded in pictures:
        picture = loaded.to(device)
        for bucket, noise in wanted:
            for seed in range(1, how.seeds + 1):
                measures, frames = evaluator.measure(name, picture, bucket, noise, seed)
                found.append(measures)
                sys.stderr.write(f"evaluate: {len(found)} of {len(pictures) * len(wanted) * how.seeds} videos\n")
                if seed == 1:
                    sheet = output / f"{name}-bucket-{bucket}-noise-{noise:g}.png"
                    with writing(sheet):
                        save_contact_sheet(sheet, picture, frames, evaluator.intended(picture, bucket))
    records: dict[str, Any] = {
        "settings": {**asdict(how), "threads": torch.get_num_threads()},
        "weights": weight_digests(checkpoint),
        "measures": [asdict(one) for one in found],
    }
    _write_records(records, output)
    gates = check_gates(found)
    report = f"{format_table(found)}\n\n{format_gates(gates)}\n"
    with writing(output):
        (output / "report.md").write_text(report, encoding="utf-8")
    records["gates"] = [asdict(gate) for gate in gates]
    _write_records(records, output)
    sys.stdout.write(report)
    sys.stderr.write(f"contact sheets, report and measures: {output}\n")
    return 0 if all(gate.holds for gate in gates) else 1


def _find_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise RefusedError("there is no CUDA device: use --device cpu")
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def _write_records(records: dict[str, Any], output: Path) -> None:
    # JSON has no infinity and no NaN: null stands for them.
    plain = json.loads(json.dumps(records), parse_constant=lambda _: None)
    with replacing(output / "measures.json") as partial:
        partial.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def weight_digests(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each weight file by its path in the checkpoint: which weights the measures are of."""
    return {
        path.relative_to(checkpoint).as_posix(): digest(path) for path in sorted(checkpoint.glob("*/*.safetensors"))
    }

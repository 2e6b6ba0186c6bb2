"""The stock engine: diffusers' pipeline, unmodified, with cancellation, out-of-memory back-off and output checks."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import StableVideoDiffusionPipeline

from shared.errors import InvalidOutputError, OutOfMemoryError
from shared.params import GenerationParams
from shared.states import Phase
from worker.pipeline import Generation, PipelineInfo, Progress, VideoFrames

#: a frame whose levels span no more than this shows nothing.
_CONSTANT_SPAN = 2
#: a frame with no level above this is black.
_BLACK_LEVEL = 4

#: how devices say it beside torch.OutOfMemoryError.
_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class _DecodeOutOfMemoryError(Exception):
    """Memory ran out in the VAE's decoder, where a smaller chunk may help."""


@dataclass
class _Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = now - self._last
        self._last = now


class SvdPipeline:
    """A loaded `StableVideoDiffusionPipeline`; one job at a time."""

    def __init__(self, pipe: StableVideoDiffusionPipeline, info: PipelineInfo, device: torch.device) -> None:
        self.pipe = pipe
        self.info = info
        self._device = device
        self._vae_dtype = pipe.vae.dtype

    def generate(self, image: PIL.Image.Image, params: GenerationParams, on_progress: Progress) -> Generation:
        """See `VideoPipeline.generate`."""
        watch = _Stopwatch()
        try:
            with _translated_out_of_memory("denoising"):
                latents = self._denoise(image, params, on_progress, watch)
            if not torch.isfinite(latents).all():
                raise InvalidOutputError("the latents hold NaN or infinity after denoising")
            frames, chunk_size = self._decode(latents, params, on_progress)
            watch.lap("decode")
        except BaseException as error:
            # The traceback's frames hold the job's tensors; without this they live until the caller is done with it.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            latents = None
            self._free()
        check_frames(frames)
        return Generation(frames=frames, decode_chunk_size=chunk_size, timings_s=watch.seconds)

    def _denoise(
        self, image: PIL.Image.Image, params: GenerationParams, on_progress: Progress, watch: _Stopwatch
    ) -> torch.Tensor:
        """Encode the image and denoise; returns scaled latents, [b t c h w] with b = 1."""

        def on_step_end(_pipe: object, step: int, _timestep: object, _tensors: dict[str, Any]) -> dict[str, Any]:
            # The host runs ahead of the GPU by many kernels: without waiting, "step 7" would be a prediction, and
            # a cancel would wait for all that is queued.
            self._synchronize()
            on_progress(Phase.DENOISE, step + 1, params.num_inference_steps)
            return {}

        def on_first_unet_call(*_: object) -> None:
            if "encode_image" not in watch.seconds:
                self._synchronize()
                watch.lap("encode_image")

        on_progress(Phase.DENOISE, 0, params.num_inference_steps)
        hook = self.pipe.unet.register_forward_pre_hook(on_first_unet_call)
        try:
            output = self.pipe(
                image,
                height=params.height,
                width=params.width,
                num_frames=params.num_frames,
                num_inference_steps=params.num_inference_steps,
                min_guidance_scale=params.min_guidance_scale,
                max_guidance_scale=params.max_guidance_scale,
                fps=params.fps,
                motion_bucket_id=params.motion_bucket_id,
                noise_aug_strength=params.noise_aug_strength,
                # On the CPU, whatever the device: CUDA's and the CPU's generators give different noise for one seed.
                generator=torch.Generator("cpu").manual_seed(params.seed),
                output_type="latent",
                callback_on_step_end=on_step_end,
            )
        finally:
            hook.remove()
        watch.lap("denoise")
        latents: torch.Tensor = output.frames
        return latents

    def _decode(
        self, latents: torch.Tensor, params: GenerationParams, on_progress: Progress
    ) -> tuple[VideoFrames, int]:
        """Decode, in smaller chunks if memory runs out; returns frames [t h w c] and the chunk size that worked."""
        chunk_size = min(params.decode_chunk_size, params.num_frames)
        while True:
            try:
                # All of it again: mixed chunk sizes could not be told in the manifest.
                return self._decode_chunks(latents, chunk_size, on_progress), chunk_size
            except _DecodeOutOfMemoryError as error:
                if chunk_size == 1:
                    raise OutOfMemoryError(
                        f"out of memory on {self.info.device} while decoding frame by frame: ask for a smaller "
                        "width and height, or set ANIMATIC_OFFLOAD"
                    ) from error
            self._free()
            chunk_size //= 2

    def _decode_chunks(self, latents: torch.Tensor, chunk_size: int, on_progress: Progress) -> VideoFrames:
        num_frames = latents.shape[1]
        chunks = []
        for begin in range(0, num_frames, chunk_size):
            on_progress(Phase.DECODE, begin, num_frames)
            chunk = latents[:, begin : begin + chunk_size]
            chunks.append(self._decode_chunk(chunk))
        on_progress(Phase.DECODE, num_frames, num_frames)
        return np.concatenate(chunks)

    def _decode_chunk(self, latents: torch.Tensor) -> VideoFrames:
        """[b t c h w] scaled latents, b = 1 → [t h w c] levels, rounded as diffusers rounds them for PIL."""
        num_frames = latents.shape[1]
        try:
            with torch.no_grad():
                video = self.pipe.decode_latents(latents, num_frames, decode_chunk_size=num_frames)
            if not torch.isfinite(video).all():
                raise InvalidOutputError("the decoded frames hold NaN or infinity")
            levels = self.pipe.video_processor.postprocess_video(video, output_type="np")[0]
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise _DecodeOutOfMemoryError from _without_frames(error)
        frames: VideoFrames = (levels * 255).round().astype(np.uint8)
        return frames

    def _free(self) -> None:
        """Leave the pipeline as it was before the job, whatever happened in it."""
        # An exception within the pipeline's call skips its own clean-up: offload hooks, and the VAE's cast to float32.
        self.pipe.maybe_free_model_hooks()
        if self.pipe.vae.dtype != self._vae_dtype:
            self.pipe.vae.to(dtype=self._vae_dtype)
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


def check_frames(frames: VideoFrames) -> None:
    """Refuse what is not a video.

    Args:
        frames: [t h w c].

    Raises:
        InvalidOutputError: a frame is black or of one level.
    """
    for index, frame in enumerate(frames):
        low, high = int(frame.min()), int(frame.max())
        if high <= _BLACK_LEVEL:
            raise InvalidOutputError(f"frame {index} is black (no level above {high} of 255)")
        if high - low <= _CONSTANT_SPAN:
            raise InvalidOutputError(f"frame {index} is constant (levels {low} to {high} of 255)")


@contextmanager
def _translated_out_of_memory(stage: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory while {stage}: ask for fewer or smaller frames, or set ANIMATIC_OFFLOAD"
        ) from _without_frames(error)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in _OUT_OF_MEMORY_TEXTS
    )


def _without_frames(error: BaseException) -> BaseException:
    # What filled the memory hangs on the frames of this traceback; it must go before the next try.
    traceback.clear_frames(error.__traceback__)
    return error

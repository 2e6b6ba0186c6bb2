"""A loaded SVD pipeline as the worker sees it: stages in order, out-of-memory back-off, and output checks.

How a stage is computed is the engine tier's: `stock`, `exact`, which is the default on CUDA, or `fast`.
"""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from shared.errors import DeviceLostError, InvalidOutputError, OutOfMemoryError
from shared.params import GenerationParams
from shared.states import Phase
from worker.pipeline import Generation, PipelineInfo, Progress, VideoFrames
from worker.svd.drift import measure_drift
from worker.svd.stopwatch import Stopwatch

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

#: how libraries say beside torch.AcceleratorError that a kernel failed.
_DEVICE_LOSS_TEXTS = ("CUDA error", "Triton Error [CUDA]")

log = logging.getLogger(__name__)


class _DecodeOutOfMemoryError(Exception):
    """Memory ran out in the VAE's decoder, where a smaller chunk may help."""


class SvdEngine(Protocol):
    """The stages of one tier, over a loaded pipeline."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def denoise(
        self, image: PIL.Image.Image, params: GenerationParams, on_step: Callable[[int], None], watch: Stopwatch
    ) -> Tensor:
        """Encode the image and denoise; laps `encode_image` on the way.

        Args:
            image: RGB, `params.width` × `params.height`.
            on_step: called with the number of steps that are done, on the device too; may raise.

        Returns:
            [1 t c h w], as the UNet scales them.
        """

    def decode(self, latents: Tensor) -> VideoFrames:
        """Decode frames together: [1 t c h w] → [t h w c].

        Raises:
            InvalidOutputError: they hold NaN or infinity.
        """

    def embed(self, images: VideoFrames) -> Tensor:
        """The image encoder's embedding of each of these, [t h w c] → [t c]."""

    def free(self) -> None:
        """Leave the pipeline as it was before the job, whatever happened in it."""


class SvdPipeline:
    """A loaded model; one job at a time."""

    def __init__(self, engine: SvdEngine, info: PipelineInfo, *, measure_drift: bool = False) -> None:
        self.engine = engine
        self.info = info
        self._measure_drift = measure_drift

    def generate(self, image: PIL.Image.Image, params: GenerationParams, on_progress: Progress) -> Generation:
        """See `VideoPipeline.generate`."""
        watch = Stopwatch()
        try:
            with self._translated_out_of_memory("denoising", params):
                latents = self._denoise(image, params, on_progress, watch)
            if not torch.isfinite(latents).all():
                raise InvalidOutputError("the latents hold NaN or infinity after denoising")
            frames, chunk_size = self._decode(latents, params, on_progress)
            watch.lap("decode")
            levels = np.asarray(image)
            drift = self._drift(frames, levels, watch) if self._measure_drift else None
        except BaseException as error:
            # The traceback's frames hold the job's tensors; without this they live until the caller is done with it.
            traceback.clear_frames(error.__traceback__)
            latents = None
            self._raise_if_lost(error)
            try:
                self._free()
            except RuntimeError as failure:  # what failed on the device before is often told only now
                self._raise_if_lost(failure)
                raise
            raise
        # What the job took stays with this process for the next one: giving it back costs half a second.
        self.engine.free()
        check_frames(frames)
        return Generation(
            image=levels, frames=frames, decode_chunk_size=chunk_size, timings_s=watch.seconds, drift=drift
        )

    def warm_up(self, params: GenerationParams) -> None:
        """Run once, so that what is compiled or loaded at its first use is ready before the first job.

        A device that is too small for these parameters is no error here: smaller jobs may fit.
        """
        photo = PIL.Image.linear_gradient("L").resize((params.width, params.height)).convert("RGB")
        try:
            with self._translated_out_of_memory("warming up", params):
                latents = self._denoise(photo, params, _ignore, Stopwatch())
            self._decode(latents, params, _ignore)
        except OutOfMemoryError as error:
            log.warning("%s", error)
        latents = None
        self._free()

    def _denoise(
        self, image: PIL.Image.Image, params: GenerationParams, on_progress: Progress, watch: Stopwatch
    ) -> Tensor:
        def on_step(done: int) -> None:
            on_progress(Phase.DENOISE, done, params.num_inference_steps)

        on_step(0)
        latents = self.engine.denoise(image, params, on_step, watch)
        watch.lap("denoise")
        return latents

    def _decode(self, latents: Tensor, params: GenerationParams, on_progress: Progress) -> tuple[VideoFrames, int]:
        """Decode, in smaller chunks if memory runs out; returns frames [t h w c] and the chunk size that worked."""
        chunk_size = min(params.decode_chunk_size, params.num_frames)
        while True:
            try:
                # All of it again: mixed chunk sizes could not be told in the manifest.
                return self._decode_chunks(latents, chunk_size, on_progress), chunk_size
            except _DecodeOutOfMemoryError as error:
                if chunk_size == 1:
                    raise OutOfMemoryError(
                        f"out of memory on {self.info.device} while decoding {params.width}×{params.height} frame by "
                        f"frame: ask for a smaller width and height{self._remedy}"
                    ) from error
            self._free()
            chunk_size //= 2

    def _decode_chunks(self, latents: Tensor, chunk_size: int, on_progress: Progress) -> VideoFrames:
        num_frames = latents.shape[1]
        chunks = []
        for begin in range(0, num_frames, chunk_size):
            on_progress(Phase.DECODE, begin, num_frames)
            chunk = latents[:, begin : begin + chunk_size]
            chunks.append(self._decode_chunk(chunk))
        on_progress(Phase.DECODE, num_frames, num_frames)
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def _decode_chunk(self, latents: Tensor) -> VideoFrames:
        try:
            return self.engine.decode(latents)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise _DecodeOutOfMemoryError from _without_frames(error)

    def _drift(self, frames: VideoFrames, image: VideoFrames, watch: Stopwatch) -> float | None:
        """None if it cannot be had: no job fails for it."""
        try:
            drift = measure_drift(self.engine.embed, frames, image)
        except (RuntimeError, MemoryError) as error:
            if _is_device_loss(error):
                raise
            log.warning("drift is not measured: %s", error)
            traceback.clear_frames(error.__traceback__)
            self._free()
            return None
        watch.lap("drift")
        return drift

    @contextmanager
    def _translated_out_of_memory(self, stage: str, params: GenerationParams) -> Iterator[None]:
        try:
            yield
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            size = f"{params.num_frames} frames of {params.width}×{params.height}"
            raise OutOfMemoryError(
                f"out of memory on {self.info.device} while {stage} {size}: "
                f"ask for fewer or smaller frames{self._remedy}"
            ) from _without_frames(error)

    @property
    def _remedy(self) -> str:
        """What the operator can do, where there is something."""
        if self.engine.device.type == "cpu" or self.info.offload == "sequential":
            return ""
        return ", or set ANIMATIC_OFFLOAD=sequential and ANIMATIC_ENGINE=stock, which need less memory and more time"

    def _raise_if_lost(self, error: BaseException) -> None:
        if _is_device_loss(error):
            # Whatever comes next would fail too, freeing memory included.
            said = str(error).partition("\n")[0]
            raise DeviceLostError(f"{self.info.device} failed: {said}") from error

    def _free(self) -> None:
        """Give back all memory that is not the model's."""
        self.engine.free()
        gc.collect()
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.engine.device.type == "mps":
            torch.mps.empty_cache()


def _ignore(phase: Phase, step: int, total: int) -> None:
    """Nobody waits for the progress of a warm-up."""


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


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in _OUT_OF_MEMORY_TEXTS
    )


def _is_device_loss(error: BaseException) -> bool:
    """Whether this is one of the errors after which CUDA refuses every call of the process."""
    if _is_out_of_memory(error):  # CUDA itself says that, too, as an AcceleratorError, and goes on
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _DEVICE_LOSS_TEXTS)
    )


def _without_frames(error: BaseException) -> BaseException:
    # What filled the memory hangs on the frames of this traceback; it must go before the next try.
    traceback.clear_frames(error.__traceback__)
    return error

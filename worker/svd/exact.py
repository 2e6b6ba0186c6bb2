"""The exact tier: diffusers' modules, rewritten; the output is stock's, rounding aside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

import PIL.Image
import torch
from diffusers import StableVideoDiffusionPipeline
from torch import Tensor

from shared.errors import InvalidOutputError
from shared.params import GenerationParams
from worker.pipeline import VideoFrames
from worker.svd.conditioning import Conditioning, embed_images, encode, keep_encoder_in_float32
from worker.svd.encodings import EncodingCache
from worker.svd.rewrites import REWRITES, rewrite
from worker.svd.sampler import Schedule, decode, denoise, make_schedule, to_levels
from worker.svd.stopwatch import Stopwatch

#: steps that the host may be ahead of the device: enough that the device never waits, few enough for a quick cancel.
_STEPS_AHEAD = 2


class ExactEngine:
    """See `SvdEngine`. Changes the pipeline's modules for good."""

    #: steps that meet every kernel which a job will run.
    warm_up_steps = 1

    def __init__(
        self,
        pipe: StableVideoDiffusionPipeline,
        device: torch.device,
        *,
        rewrites: Collection[str] = tuple(REWRITES),
    ) -> None:
        self.pipe = pipe
        self.device = device
        keep_encoder_in_float32(pipe)
        rewrite(pipe.unet, pipe.vae, rewrites)
        self.encodings = EncodingCache()

    def denoise(
        self, image: PIL.Image.Image, params: GenerationParams, on_step: Callable[[int], None], watch: Stopwatch
    ) -> Tensor:
        """See `SvdEngine`."""
        conditioning = encode(self.pipe, image, params, self.device, self.encodings)
        schedule = make_schedule(self.pipe, params.num_inference_steps, self.device)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        watch.lap("encode_image")
        steps = _LaunchedSteps(self.device, on_step)
        latents = self.sample(conditioning, schedule, steps.launched)
        steps.wait_for_all()
        return latents

    def sample(self, conditioning: Conditioning, schedule: Schedule, on_step: Callable[[int], None]) -> Tensor:
        """From noise to latents, [1 t c h w]; `on_step` hears of each step that was launched."""
        return denoise(self.pipe.unet, conditioning, schedule, on_step)

    def decode(self, latents: Tensor) -> VideoFrames:
        """See `SvdEngine`."""
        video = decode(self.pipe.vae, latents)
        if not torch.isfinite(video).all():
            raise InvalidOutputError("the decoded frames hold NaN or infinity")
        levels = to_levels(video)
        # Page-locked, which the device fills ten times as fast; torch keeps it for the next job.
        host = torch.empty_like(levels, device="cpu", pin_memory=self.device.type == "cuda")
        frames: VideoFrames = host.copy_(levels).numpy()
        return frames

    def embed(self, images: VideoFrames) -> Tensor:
        """See `SvdEngine`."""
        return embed_images(self.pipe, images, self.device)

    def free(self) -> None:
        """See `SvdEngine`; nothing of a job is left in the modules that the next one does not overwrite."""


class _LaunchedSteps:
    """Reports a step when the device is done with it, while the next ones are already launched."""

    def __init__(self, device: torch.device, on_step: Callable[[int], None]) -> None:
        self._device = device
        self._on_step = on_step
        self._events: deque[tuple[int, torch.cuda.Event]] = deque()

    def launched(self, step: int) -> None:
        if self._device.type != "cuda":
            self._on_step(step)
            return
        event = torch.cuda.Event(blocking=True)
        event.record()
        self._events.append((step, event))
        if len(self._events) > _STEPS_AHEAD:
            self._wait_for_oldest()

    def wait_for_all(self) -> None:
        while self._events:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        step, event = self._events.popleft()
        event.synchronize()
        self._on_step(step)

"""The stock tier: diffusers' pipeline, unmodified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import StableVideoDiffusionPipeline
from torch import Tensor

from shared.errors import InvalidOutputError
from shared.params import GenerationParams
from worker.pipeline import VideoFrames
from worker.svd.conditioning import embed_images
from worker.svd.stopwatch import Stopwatch


def call_arguments(params: GenerationParams) -> dict[str, Any]:
    """What diffusers' pipeline is called with for a job, beside its image and the form of its output."""
    names = {
        *("width", "height", "num_frames", "num_inference_steps", "fps", "motion_bucket_id"),
        *("noise_aug_strength", "min_guidance_scale", "max_guidance_scale"),
    }
    # On the CPU, whatever the device: CUDA's and the CPU's generators give different noise for one seed.
    return {**params.model_dump(include=names), "generator": torch.Generator("cpu").manual_seed(params.seed)}


class StockEngine:
    """See `SvdEngine`."""

    def __init__(self, pipe: StableVideoDiffusionPipeline, device: torch.device) -> None:
        self.pipe = pipe
        self.device = device
        self._vae_dtype = pipe.vae.dtype

    def denoise(
        self, image: PIL.Image.Image, params: GenerationParams, on_step: Callable[[int], None], watch: Stopwatch
    ) -> Tensor:
        """See `SvdEngine`."""

        def on_step_end(_pipe: object, step: int, _timestep: object, _tensors: dict[str, Any]) -> dict[str, Any]:
            # The host runs ahead of the GPU by many kernels: without waiting, "step 7" would be a prediction, and
            # a cancel would wait for all that is queued.
            self._synchronize()
            on_step(step + 1)
            return {}

        def on_first_unet_call(*_: object) -> None:
            if "encode_image" not in watch.seconds:
                self._synchronize()
                watch.lap("encode_image")

        arguments = call_arguments(params)
        if torch.tensor(params.max_guidance_scale, dtype=self.pipe.unet.dtype) <= 1:
            # diffusers asks twice whether there is guidance, of the number and of its rounded value: both must say no.
            arguments["max_guidance_scale"] = 1.0
        hook = self.pipe.unet.register_forward_pre_hook(on_first_unet_call)
        try:
            output = self.pipe(image, **arguments, output_type="latent", callback_on_step_end=on_step_end)
        finally:
            hook.remove()
        latents: Tensor = output.frames
        return latents

    def decode(self, latents: Tensor) -> VideoFrames:
        """See `SvdEngine`; rounded as diffusers rounds for PIL."""
        num_frames = latents.shape[1]
        with torch.no_grad():
            video = self.pipe.decode_latents(latents, num_frames, decode_chunk_size=num_frames)
        if not torch.isfinite(video).all():
            raise InvalidOutputError("the decoded frames hold NaN or infinity")
        levels = self.pipe.video_processor.postprocess_video(video, output_type="np")[0]
        frames: VideoFrames = (levels * 255).round().astype(np.uint8)
        return frames

    def embed(self, images: VideoFrames) -> Tensor:
        """See `SvdEngine`."""
        return embed_images(self.pipe, images, self.device)

    def free(self) -> None:
        """See `SvdEngine`."""
        # An exception within the pipeline's call skips its own clean-up: offload hooks, and the VAE's cast to float32.
        self.pipe.maybe_free_model_hooks()
        if self.pipe.vae.dtype != self._vae_dtype:
            self.pipe.vae.to(dtype=self._vae_dtype)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

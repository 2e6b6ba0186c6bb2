"""Training of a run's stages, each on what the stages before it left in the run's folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from training.config import Preset
from training.embedding import ImageEmbedder
from training.folder import RunFolder
from training.log import StageLog
from training.loop import Limits, Stage, train
from training.models import build_image_encoder, build_unet, build_vae
from training.stages.temporal_decoder import TemporalDecoderStage
from training.stages.unet import UnetStage
from training.stages.vae import VaeStage, normalise_latents
from training.stills import Stills
from training.tensors import load_network, save_tensors


@dataclass(frozen=True)
class Options:
    """What the command line says beyond the preset."""

    #: the folder of photos.
    images: Path
    precision: str = "auto"
    limits: Limits = field(default_factory=Limits)


class Run:
    """One run; several processes may work on it when accelerate starts them."""

    def __init__(
        self, folder: RunFolder, preset: Preset, photos: list[Path], options: Options, started_at: float
    ) -> None:
        self._folder = folder
        self._preset = preset
        self._photos = photos
        self._options = options
        self._started_at = started_at
        self._accelerator = Accelerator(mixed_precision="no")
        self._device: torch.device = self._accelerator.device
        if self._device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            # It plans anew for each of our many small shapes.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._kept_stills: Stills | None = None

    def train(self, stage: str) -> bool:
        """Train a stage, or go on with it; its predecessors are done.

        Returns:
            Whether it is done.

        Raises:
            RefusedError: another process trains in the run's folder.
            TrainingError: a file of the run cannot be read or written, or the loss is no number any more.
        """
        trainers = {"vae": self._train_vae, "temporal-decoder": self._train_temporal_decoder, "unet": self._train_unet}
        leads = self._accelerator.is_main_process
        with self._folder.reserved() if leads else nullcontext():
            if leads:
                self._folder.begin(self._preset, self._options.images)
            self._accelerator.wait_for_everyone()
            torch.manual_seed(self._preset.seed)
            return trainers[stage]()

    def _train_vae(self) -> bool:
        vae = build_vae(self._preset.model)
        stage = VaeStage(vae, self._preset.model, self._stills(), self._preset.vae, self._preset.seed, self._device)
        if not self._loop(stage):
            return False
        vae.requires_grad_(False)
        normalise_latents(vae, self._sample_images(16))
        self._finish("vae", vae)
        return True

    def _train_temporal_decoder(self) -> bool:
        stills = self._stills()
        embedder = ImageEmbedder(self._image_encoder(), self._device)
        config = self._preset.temporal_decoder
        stage = TemporalDecoderStage(
            self._vae(), stills, embedder, config, self._preset.seed, self._device, self._dtype()
        )
        if not self._loop(stage):
            return False
        self._finish("temporal-decoder", stage.network)
        return True

    def _train_unet(self) -> bool:
        stills = self._stills()
        embedder = ImageEmbedder(self._image_encoder(), self._device)
        unet = build_unet(self._preset.model)
        stage = UnetStage(
            unet,
            self._vae(),
            stills,
            embedder,
            self._preset.unet,
            self._preset.seed,
            self._device,
            self._dtype(),
            self._accelerator.process_index,
        )
        if not self._loop(stage):
            return False
        self._finish("unet", stage.network)
        return True

    def _loop(self, stage: Stage) -> bool:
        return train(
            stage,
            self._preset.stage(stage.name),
            self._folder.state(stage.name),
            StageLog(self._folder.log(stage.name), stage.name, self._accelerator.is_main_process),
            self._accelerator,
            self._dtype(),
            self._preset.seed,
            self._options.limits,
            self._started_at,
        )

    def _finish(self, stage: str, network: nn.Module) -> None:
        if self._accelerator.is_main_process:
            save_tensors(network.float().state_dict(), self._folder.weights(stage))
        self._accelerator.wait_for_everyone()

    def _vae(self) -> AutoencoderKLTemporalDecoder:
        vae = build_vae(self._preset.model)
        load_network(vae, self._folder.weights("vae"))
        return vae

    def _image_encoder(self) -> CLIPVisionModelWithProjection:
        """The image encoder: read, or made and whitened over views of the stills."""
        path = self._folder.image_encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._preset.seed)
            encoder = build_image_encoder(self._preset.model)
        if self._accelerator.is_main_process and not path.exists():
            ImageEmbedder(encoder, self._device).whiten(self._sample_images(32))
            save_tensors(encoder.state_dict(), path)
        self._accelerator.wait_for_everyone()
        load_network(encoder, path)
        return encoder.cpu()

    def _sample_images(self, batches: int) -> list[Tensor]:
        size = self._preset.unet.sizes[0]
        stills = self._stills()
        generator = torch.Generator(self._device).manual_seed(self._preset.seed + 1)
        return [stills.views(32, size.width, size.height, generator) for _ in range(batches)]

    def _stills(self) -> Stills:
        if self._kept_stills is None:
            self._kept_stills = Stills(self._preset.data, self._photos, self._preset.seed, self._device)
        return self._kept_stills

    def _dtype(self) -> torch.dtype:
        precision = self._options.precision
        if precision == "auto":
            precision = "bfloat16" if self._device.type == "cuda" else "float32"
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]

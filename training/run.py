"""A training run in a folder: its preset, its stages' checkpoints, and the finished checkpoint made of them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from training.config import PRESETS, STAGES, Preset
from training.embedding import ImageEmbedder
from training.loop import Limits, Stage, train
from training.models import build_image_encoder, build_unet, build_vae, save_pipeline
from training.pictures import find_photos
from training.stages.temporal_decoder import TemporalDecoderStage
from training.stages.unet import UnetStage
from training.stages.vae import VaeStage, normalise_latents
from training.stills import PHOTOS, Stills

_WEIGHTS = "weights.safetensors"
#: where the image encoder is kept: it is made before the first stage that embeds, and then fixed.
_ENCODER = "image-encoder"


class NotReadyError(Exception):
    """A stage was asked for before the one that it builds on is done."""


@dataclass(frozen=True)
class Options:
    """What the command line says beyond the preset."""

    images: Path | None = None
    precision: str = "auto"
    limits: Limits = field(default_factory=Limits)


class Run:
    """One folder; several processes may work on it when accelerate starts them."""

    def __init__(self, folder: Path, preset: Preset, options: Options, started_at: float) -> None:
        self.folder = folder
        self.preset = preset
        self._options = options
        self._started_at = started_at
        self._accelerator = Accelerator(mixed_precision="no")
        self.device: torch.device = self._accelerator.device
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            # It plans anew for each of our many small shapes.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._kept_stills: Stills | None = None
        self._check_preset()

    def train(self, stage: str) -> bool:
        """Train a stage, or go on with it; does nothing when it is done.

        Returns:
            Whether it is done.

        Raises:
            NotReadyError: an earlier stage is not done.
        """
        if self._done(stage):
            return True
        torch.manual_seed(self.preset.seed)
        steps = {"vae": self._train_vae, "temporal-decoder": self._train_temporal_decoder, "unet": self._train_unet}
        return steps[stage]()

    def export(self, directory: Path) -> None:
        """Write the finished checkpoint, from whatever is done and, for a stage under way, its averaged weights.

        Raises:
            NotReadyError: the stage `vae` is not done.
        """
        if self._accelerator.is_main_process:
            vae, unet = self._vae(), build_unet(self.preset.model)
            _load(vae.decoder, self._latest("temporal-decoder"), "decoder.")
            _load(unet, self._latest("unet"), "")
            save_pipeline(directory, vae, unet, self._image_encoder())
        self._accelerator.wait_for_everyone()

    def slim(self, directory: Path) -> None:
        """Copy the run to go on elsewhere: averaged weights in half precision, logs, no optimizers' states."""
        for name in ("run.json", f"{_ENCODER}/{_WEIGHTS}", *(f"{stage}/log.jsonl" for stage in STAGES)):
            if (self.folder / name).exists():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).write_bytes((self.folder / name).read_bytes())
        for stage in STAGES:
            target = directory / stage
            if self._done(stage):
                weights = load_file(self.folder / stage / _WEIGHTS)
                _write_tensors(target / _WEIGHTS, {name: tensor.half() for name, tensor in weights.items()})
            elif (self.folder / stage / "state.pt").exists():
                state = torch.load(self.folder / stage / "state.pt", map_location="cpu", weights_only=True)
                average = {name: tensor.half() for name, tensor in state["average"].items()}
                target.mkdir(parents=True, exist_ok=True)
                kept = {name: state[name] for name in ("step", "total", "elapsed_s")}
                torch.save({**kept, "average": average}, target / "state.pt")

    def _train_vae(self) -> bool:
        vae = build_vae(self.preset.model)
        stage = VaeStage(vae, self.preset.model, self._stills(), self.preset.vae, self.preset.seed, self.device)
        if not self._loop(stage):
            return False
        vae.requires_grad_(False)
        normalise_latents(vae, self._sample_images(16))
        self._finish("vae", vae)
        return True

    def _train_temporal_decoder(self) -> bool:
        stills = self._stills()
        embedder = ImageEmbedder(self._image_encoder(), self.device)
        config = self.preset.temporal_decoder
        stage = TemporalDecoderStage(
            self._vae(), stills, embedder, config, self.preset.seed, self.device, self._dtype()
        )
        if not self._loop(stage):
            return False
        self._finish("temporal-decoder", stage.network)
        return True

    def _train_unet(self) -> bool:
        stills = self._stills()
        embedder = ImageEmbedder(self._image_encoder(), self.device)
        unet = build_unet(self.preset.model)
        stage = UnetStage(
            unet,
            self._vae(),
            stills,
            embedder,
            self.preset.unet,
            self.preset.seed,
            self.device,
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
            self.preset.stage(stage.name),
            self.folder / stage.name,
            self._accelerator,
            self._dtype(),
            self.preset.seed,
            self._options.limits,
            self._started_at,
        )

    def _finish(self, stage: str, network: nn.Module) -> None:
        if self._accelerator.is_main_process:
            tensors = {
                name: tensor.detach().float().cpu().contiguous() for name, tensor in network.state_dict().items()
            }
            _write_tensors(self.folder / stage / _WEIGHTS, tensors)
        self._accelerator.wait_for_everyone()

    def _done(self, stage: str) -> bool:
        return (self.folder / stage / _WEIGHTS).exists()

    def _vae(self) -> AutoencoderKLTemporalDecoder:
        if not self._done("vae"):
            raise NotReadyError("the stage vae is not done: run it first")
        vae = build_vae(self.preset.model)
        vae.load_state_dict(load_file(self.folder / "vae" / _WEIGHTS))
        return vae

    def _latest(self, stage: str) -> dict[str, Tensor]:
        """The weights of a stage that is done, or the average so far; empty when it has not begun."""
        if self._done(stage):
            return dict(load_file(self.folder / stage / _WEIGHTS))
        path = self.folder / stage / "state.pt"
        if not path.exists():
            return {}
        return dict(torch.load(path, map_location="cpu", weights_only=True)["average"])

    def _image_encoder(self) -> CLIPVisionModelWithProjection:
        """The image encoder: read, or made and whitened over views of the stills."""
        path = self.folder / _ENCODER / _WEIGHTS
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.preset.seed)
            encoder = build_image_encoder(self.preset.model)
        if not path.exists():
            if self._accelerator.is_main_process:
                ImageEmbedder(encoder, self.device).whiten(self._sample_images(32))
                tensors = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
                _write_tensors(path, tensors)
            self._accelerator.wait_for_everyone()
        encoder.load_state_dict(load_file(path))
        return encoder.cpu()

    def _sample_images(self, batches: int) -> list[Tensor]:
        size = self.preset.unet.sizes[0]
        stills = self._stills()
        generator = torch.Generator(self.device).manual_seed(self.preset.seed + 1)
        return [stills.views(32, size.width, size.height, generator) for _ in range(batches)]

    def _stills(self) -> Stills:
        if self._kept_stills is None:
            photos = find_photos(self._options.images or PHOTOS)
            self._kept_stills = Stills(self.preset.data, photos, self.preset.seed, self.device)
        return self._kept_stills

    def _dtype(self) -> torch.dtype:
        precision = self._options.precision
        if precision == "auto":
            precision = "bfloat16" if self.device.type == "cuda" else "float32"
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]

    def _check_preset(self) -> None:
        path = self.folder / "run.json"
        if not path.exists():
            if self._accelerator.is_main_process:
                self.folder.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"preset": self.preset.name, "seed": self.preset.seed}) + "\n")
            self._accelerator.wait_for_everyone()
        known = json.loads(path.read_text())
        if known["preset"] != self.preset.name:
            raise NotReadyError(f"{self.folder} is a run of preset {known['preset']}, not {self.preset.name}")


def find_preset(folder: Path, name: str | None) -> Preset:
    """The preset of that name; None: the one that the folder was begun with, else `tiny`."""
    path = folder / "run.json"
    if name is None:
        name = json.loads(path.read_text())["preset"] if path.exists() else "tiny"
    return PRESETS[name]


def _load(module: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    if weights:
        own = {name.removeprefix(prefix): tensor.float() for name, tensor in weights.items()}
        module.load_state_dict(own, strict=False)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    os.replace(partial, path)

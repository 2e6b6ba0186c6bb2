"""Makes the `tiny` checkpoint: SVD's format, to the last config field that matters, in a few megabytes.

It is made, not trained, in seconds, the same bytes each time. Its weights are random where nothing depends on them and
written by hand where the picture passes (`tiny_weights`), so that a video shows its photo, blurred, with some shimmer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.settings import Settings
from worker.checkpoint import tiny_directory
from worker.svd.tiny_weights import write_unet_weights, write_vae_weights

_SEED = 20231121
_NUM_FRAMES = 14
_EMBEDDING = 32


def make_tiny(settings: Settings) -> Path:
    """Make the checkpoint if it is not there yet; several processes may do so at once.

    Returns:
        Its directory.

    Raises:
        StartupError: the cache folder cannot be written.
    """
    directory = tiny_directory(settings)
    if directory.exists():
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            _write(build_pipeline(), building)
            os.rename(building, directory)
        except OSError:
            # A rename onto a directory that is not empty fails: somebody else was faster, with the same bytes.
            if not directory.exists():
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise StartupError(
            f"the tiny model cannot be made in {directory.parent} ({error.strerror or error}): make it writable, or "
            "set ANIMATIC_MODEL_DIR",
            exit_code=ExitCode.MODEL_UNAVAILABLE,
        ) from error
    return directory


def _write(pipe: StableVideoDiffusionPipeline, directory: Path) -> None:
    pipe.save_pretrained(directory)
    # Without torchvision, transformers 5 stands a class of another name in; SVD's own name loads everywhere.
    index = directory / "model_index.json"
    index.write_text(index.read_text(encoding="utf-8").replace("CLIPImageProcessorPil", "CLIPImageProcessor"))
    # The temporary directory is for its owner only, and so are weight files that safetensors writes.
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def build_pipeline() -> StableVideoDiffusionPipeline:
    """The pipeline with its weights, always the same; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 4,
            # 96 carry the picture through a GroupNorm of 32 groups, see `tiny_weights`; in between it needs three.
            block_out_channels=(96, 32, 32, 96),
            layers_per_block=1,
            latent_channels=4,
            sample_size=128,
            scaling_factor=0.18215,
            force_upcast=True,
        )
        unet = UNetSpatioTemporalConditionModel(
            sample_size=16,
            in_channels=8,
            out_channels=4,
            down_block_types=(
                "CrossAttnDownBlockSpatioTemporal",
                "CrossAttnDownBlockSpatioTemporal",
                "DownBlockSpatioTemporal",
            ),
            up_block_types=(
                "UpBlockSpatioTemporal",
                "CrossAttnUpBlockSpatioTemporal",
                "CrossAttnUpBlockSpatioTemporal",
            ),
            block_out_channels=(96, 64, 64),
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=3 * 32,
            layers_per_block=1,
            cross_attention_dim=_EMBEDDING,
            num_attention_heads=(3, 2, 2),
            num_frames=_NUM_FRAMES,
        )
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=224,
                patch_size=32,
                projection_dim=_EMBEDDING,
            )
        )
        with torch.no_grad():
            write_vae_weights(vae)
            write_unet_weights(unet)
    return StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=image_encoder.eval(),
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(**SCHEDULER_CONFIG),
        feature_extractor=CLIPImageProcessor(),
    )


#: Source: stabilityai/stable-video-diffusion-img2vid-xt, scheduler/scheduler_config.json.
SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}

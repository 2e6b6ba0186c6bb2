"""What is trained and for how long, as named presets.

A preset is plain data: with the seed it fixes the data, the models and the schedule. `tiny` is the checkpoint that the
product ships, made on one GPU; `two-cores` is a smaller setting for a machine without one; `smoke` only shows that
every stage runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Shapes of the three networks, in the terms of diffusers' and transformers' configs."""

    vae_channels: tuple[int, ...] = (64, 64, 128, 128)
    #: SVD has 4; 16 carry enough detail for a picture of 256×128 at this size of network.
    latent_channels: int = 16
    unet_channels: tuple[int, ...] = (96, 96, 128)
    unet_heads: tuple[int, ...] = (3, 3, 4)
    #: which levels of the UNet have transformers, from the finest.
    unet_attention: tuple[bool, ...] = (True, True, False)
    #: width of the image embedding.
    embedding: int = 32
    num_frames: int = 14

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along each axis."""
        return int(2 ** (len(self.vae_channels) - 1))


@dataclass(frozen=True)
class ClipSize:
    """One kind of batch; a stage takes its kinds in turn."""

    width: int
    height: int
    num_frames: int
    #: clips (for the stage `vae`: images) in a batch, on each device.
    batch: int
    #: batches of this kind in each chunk.
    batches: int


@dataclass(frozen=True)
class StageConfig:
    """Optimisation of one stage."""

    steps: int
    learning_rate: float
    sizes: tuple[ClipSize, ...]
    warmup_steps: int = 200
    #: the last part of the steps, in which the learning rate falls to zero.
    decay: float = 0.3
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    #: how often each prepared clip is trained on; it is made once, and each time noised anew.
    reuse: int = 1
    checkpoint_every_s: float = 60.0

    @property
    def steps_per_chunk(self) -> int:
        """Steps between two preparations of data; checkpoints fall on these borders."""
        return self.reuse * sum(size.batches for size in self.sizes)

    def interleave(self) -> list[ClipSize]:
        """The kinds of a chunk's batches, each `batches` times, evenly spread over the chunk."""
        sizes = [size for size in self.sizes for _ in range(size.batches)]
        # Multiples of the golden ratio, modulo 1, are spread evenly however many there are.
        order = sorted(range(len(sizes)), key=lambda index: (index * 0.6180339887) % 1)
        return [sizes[index] for index in order]


@dataclass(frozen=True)
class DataConfig:
    """Stills that images and clips are cut from."""

    #: procedural scenes in the bank at a time.
    scenes: int = 320
    #: views of photos in the bank at a time.
    photo_views: int = 256
    #: size of a still; views are taken of it as it is, or halved.
    still_width: int = 768
    still_height: int = 512
    #: shapes in a procedural scene.
    shapes: int = 140
    #: share of the bank that is renewed before each chunk.
    renewed: float = 0.1


@dataclass(frozen=True)
class Preset:
    """All that makes a checkpoint, apart from the photos."""

    name: str
    model: ModelConfig
    data: DataConfig
    vae: StageConfig
    temporal_decoder: StageConfig
    unet: StageConfig
    seed: int = 20231121

    def stage(self, name: str) -> StageConfig:
        """The stage of that name, as on the command line."""
        stages = {"vae": self.vae, "temporal-decoder": self.temporal_decoder, "unet": self.unet}
        return stages[name]


TINY = Preset(
    name="tiny",
    model=ModelConfig(),
    data=DataConfig(),
    vae=StageConfig(
        steps=3700,
        learning_rate=1.2e-3,
        sizes=(ClipSize(256, 128, 1, 32, 60), ClipSize(192, 192, 1, 28, 25), ClipSize(128, 192, 1, 40, 15)),
    ),
    temporal_decoder=StageConfig(
        steps=650,
        learning_rate=5e-4,
        warmup_steps=50,
        sizes=(ClipSize(256, 128, 14, 3, 30), ClipSize(128, 128, 14, 6, 20)),
    ),
    unet=StageConfig(
        steps=6400,
        learning_rate=1e-3,
        ema_decay=0.9995,
        reuse=4,
        sizes=(
            ClipSize(256, 128, 14, 32, 34),
            ClipSize(192, 192, 14, 28, 8),
            ClipSize(128, 192, 14, 42, 4),
            ClipSize(256, 128, 25, 18, 2),
            ClipSize(320, 192, 14, 16, 2),
        ),
    ),
)

TWO_CORES = Preset(
    name="two-cores",
    model=ModelConfig(unet_channels=(64, 96, 128), unet_heads=(2, 3, 4), num_frames=14),
    data=DataConfig(scenes=40, photo_views=60, still_width=384, still_height=256, shapes=80, renewed=0.05),
    vae=StageConfig(steps=2400, learning_rate=1.5e-3, sizes=(ClipSize(64, 64, 1, 8, 100),)),
    temporal_decoder=StageConfig(steps=150, learning_rate=5e-4, warmup_steps=20, sizes=(ClipSize(64, 64, 8, 2, 25),)),
    unet=StageConfig(
        steps=4320, learning_rate=8e-4, reuse=4, sizes=(ClipSize(128, 64, 14, 4, 20), ClipSize(128, 64, 8, 8, 20))
    ),
)

SMOKE = Preset(
    name="smoke",
    model=ModelConfig(
        vae_channels=(64, 64), unet_channels=(32, 32), unet_heads=(1, 1), unet_attention=(True, False), num_frames=4
    ),
    data=DataConfig(scenes=4, photo_views=4, still_width=96, still_height=64, shapes=8, renewed=0.5),
    vae=StageConfig(steps=8, learning_rate=1e-3, warmup_steps=2, sizes=(ClipSize(32, 32, 1, 2, 2),)),
    temporal_decoder=StageConfig(steps=4, learning_rate=1e-3, warmup_steps=1, sizes=(ClipSize(32, 32, 3, 1, 2),)),
    unet=StageConfig(
        steps=8,
        learning_rate=1e-3,
        warmup_steps=2,
        reuse=2,
        sizes=(ClipSize(32, 32, 4, 2, 1), ClipSize(32, 16, 3, 2, 1)),
    ),
)

PRESETS = {preset.name: preset for preset in (TINY, TWO_CORES, SMOKE)}
STAGES = ("vae", "temporal-decoder", "unet")

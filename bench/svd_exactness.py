"""`python -m bench.svd_exactness`: how far our tier and diffusers, in 16 bits, are from the same model in float32.

The truth is diffusers' modules in float32, from the same 16-bit weights and the same noise. Compared by relative L2
error: the UNet's output at some steps, each from the truth's own latents; the decoder's output from the truth's last
latents; and the latents and frames of whole runs. Ours may err at most 1.2 times as much as diffusers; exit code 1 if
it errs more.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from torch import Tensor

from bench.svd.architecture import FULL, TOY, make_pipeline
from bench.svd_speed import make_params, make_photo
from worker.svd.conditioning import Conditioning, encode, keep_encoder_in_float32
from worker.svd.rewrites import rewrite
from worker.svd.sampler import decode, denoise, euler_step, make_schedule, predict, set_job_constants, to_levels
from worker.svd.stock import call_arguments

#: our error in units of diffusers' own.
BOUND = 1.2


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.svd_exactness", description=__doc__)
    parser.add_argument("--shape", default="25x576x1024", help="frames × height × width (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument(
        "--looks", type=int, default=5, help="steps at which the UNet is compared (default: %(default)s)"
    )
    parser.add_argument("--toy", action="store_true", help="the toy architecture, also on a CPU")
    parser.add_argument("--result", type=Path, help="write the figures into this JSON file")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu" and not options.toy:
        raise SystemExit("there is no CUDA device: add --toy to see whether the program works")
    torch.backends.cudnn.allow_tf32 = False
    num_frames, height, width = map(int, options.shape.split("x"))
    params = make_params(num_frames, height, width, options.steps, 3.0)
    photo = make_photo(width, height)
    stock = make_pipeline(TOY if options.toy else FULL, device=device, dtype=torch.float16)
    truth = clone(stock, torch.float32)
    keep_encoder_in_float32(stock)
    ours = clone(stock, None)
    rewrite(ours.unet, ours.vae)

    half = encode(stock, photo, params, device)
    single = dataclasses.replace(encode(truth, photo, params, device), noise=half.noise.float())
    schedule = make_schedule(stock, params.num_inference_steps, device)
    errors: dict[str, dict[str, float]] = {}
    path = walk(truth, single, schedule.sigmas, schedule.timesteps, options.looks)
    for step, (latents, prediction) in path.items():
        if step < 0:
            continue
        for name, pipe in (("diffusers", stock), ("ours", ours)):
            set_job_constants(pipe.unet, half)
            with torch.no_grad():
                got = predict(pipe.unet, latents.half(), schedule.timesteps[step], half)
            errors.setdefault(f"UNet, step {step + 1}", {})[name] = distance(got, prediction)
    last = path[-1][0]
    frames = decode(truth.vae, last)
    for name, pipe in (("diffusers", stock), ("ours", ours)):
        errors.setdefault("decoder", {})[name] = distance(decode(pipe.vae, last), frames)
    theirs = half_run(stock, half, params, photo)
    mine = denoise(ours.unet, half, schedule, lambda _step: None)
    errors["latents of a run"] = {"diffusers": distance(theirs, last), "ours": distance(mine, last)}
    levels = to_levels(frames).float()
    errors["frames of a run, levels"] = {
        "diffusers": distance(to_levels(decode(stock.vae, theirs)).float(), levels),
        "ours": distance(to_levels(decode(ours.vae, mine)).float(), levels),
    }
    return report(errors, options)


def clone(pipe: StableVideoDiffusionPipeline, dtype: torch.dtype | None) -> StableVideoDiffusionPipeline:
    """The same weights again, in another precision or in their own."""
    parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
    if dtype is not None:
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.to(dtype)
    return StableVideoDiffusionPipeline(**parts)


@torch.no_grad()
def walk(
    truth: StableVideoDiffusionPipeline, conditioning: Conditioning, sigmas: Tensor, timesteps: Tensor, looks: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """The truth's way: at some steps the scaled latents and the prediction, and under −1 the last latents."""
    steps = len(timesteps)
    wanted = {round(index * (steps - 1) / max(looks - 1, 1)) for index in range(looks)}
    latents = conditioning.noise * float((sigmas[0] ** 2 + 1) ** 0.5)
    found = {}
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.unbind())):
        scaled = latents / (sigma**2 + 1) ** 0.5
        prediction = predict(truth.unet, scaled, timesteps[step], conditioning)
        if step in wanted:
            found[step] = (scaled, prediction)
        latents = euler_step(latents, prediction, sigma, next_sigma)
    found[-1] = (latents, latents)
    return found


def half_run(pipe: StableVideoDiffusionPipeline, conditioning: Conditioning, params: Any, photo: Any) -> Tensor:
    """Diffusers' own call, from the same noise; its VAE's encoder is in float32 already."""
    pipe.vae.register_to_config(force_upcast=False)
    encoder_dtype = pipe.vae.encoder.conv_in.weight.dtype
    pipe.vae.encoder.register_forward_pre_hook(lambda _module, inputs: tuple(each.to(encoder_dtype) for each in inputs))
    latents: Tensor = pipe(photo, **call_arguments(params), output_type="latent").frames
    return latents


def distance(got: Tensor, truth: Tensor) -> float:
    """‖got − truth‖ / ‖truth‖."""
    return float((got.double() - truth.double()).norm() / truth.double().norm())


def report(errors: dict[str, dict[str, float]], options: argparse.Namespace) -> int:
    print(f"{options.shape}, {options.steps} steps: relative L2 error against float32")
    worst = 0.0
    for what, each in errors.items():
        ratio = each["ours"] / each["diffusers"]
        worst = max(worst, ratio)
        print(f"{what:26} diffusers {each['diffusers']:.2e}  ours {each['ours']:.2e}  ratio {ratio:.2f}")
    print(f"worst ratio {worst:.2f}, allowed {BOUND}")
    if options.result:
        figures = {"shape": options.shape, "steps": options.steps, "torch": torch.__version__, "errors": errors}
        options.result.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(not worst <= BOUND)


if __name__ == "__main__":
    raise SystemExit(main())

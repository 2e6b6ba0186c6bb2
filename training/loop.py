"""The loop that all stages share: chunks of data, steps, progress, checkpoints, resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from training.config import StageConfig
from training.errors import TrainingError, reading
from training.log import StageLog
from training.schedule import Schedule
from training.tensors import BEGIN_ANEW, load_state, save_state
from training.weights import TrainedWeights

_REPORT_EVERY_S = 10.0


class Stage(Protocol):
    """What a stage brings to the loop."""

    name: str
    #: what is trained; the loop may wrap it for several devices.
    network: nn.Module

    def prepare(self, chunk: int) -> Sequence[Callable[[torch.Generator], tuple[Tensor, int]]]:
        """The steps of a chunk. Each takes a generator and gives a loss, and how many samples it was over."""

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Measures of the network with the averaged weights."""


@dataclass(frozen=True)
class Limits:
    """How long to train, beyond what the preset says."""

    #: steps of the stage; None: the preset's.
    steps: int | None = None
    #: minutes of the stage, over all its runs; None: as many as the steps take.
    minutes: float | None = None
    #: seconds of this process after which it saves and stops.
    stop_after_s: float | None = None


@dataclass
class _Progress:
    step: int = 0
    elapsed_s: float = 0.0
    losses: list[Tensor] = field(default_factory=list)
    samples: int = 0
    reported_at: float = 0.0


def train(
    stage: Stage, config: StageConfig, state: Path, log: StageLog, accelerator: Accelerator, dtype: torch.dtype,
    seed: int, limits: Limits, started_at: float,
) -> bool:  # fmt: skip
    """Train a stage to its end, or to the limit of this process, and save.

    Args:
        stage: what to train; its network ends with the averaged weights when the stage is done.
        config: its optimisation.
        state: the file that it is saved in and goes on from.
        log: of the stage.
        accelerator: devices and processes.
        dtype: that the network computes in.
        seed: of everything random, together with step and process.
        limits: see there.
        started_at: of this process, by the monotonic clock.

    Returns:
        Whether the stage is done.

    Raises:
        TrainingError: the loss is no number any more, or the state cannot be read or written.
    """
    weights = TrainedWeights(stage.network, config.learning_rate, config.weight_decay, dtype)
    schedule = Schedule(limits.steps or config.steps, config.warmup_steps, config.decay)
    progress = _Progress()
    if state.exists():
        _resume(state, weights, schedule, progress, limits)
        log.say(f"goes on from step {progress.step} of {schedule.total}")
    log.drop_beyond(progress.step)
    stage.network = accelerator.prepare_model(stage.network)
    per_chunk = config.steps_per_chunk
    saved_at = progress.reported_at = time.monotonic()
    device = accelerator.device
    if progress.step >= schedule.total:
        # Killed after its last save: what follows the training sees the same stills as it would have.
        stage.prepare((progress.step - 1) // per_chunk)
    while progress.step < schedule.total:
        chunk_began = time.monotonic()
        chunk, offset = divmod(progress.step, per_chunk)
        steps = stage.prepare(chunk)
        for compute in steps[offset : offset + schedule.total - progress.step]:
            step = progress.step
            generator = torch.Generator(device).manual_seed(_seed_of(seed, stage.name, step, accelerator.process_index))
            loss, samples = compute(generator)
            accelerator.backward(loss)
            norm = weights.step(
                config.learning_rate * schedule.factor(step),
                config.clip_norm,
                min(config.ema_decay, (1 + step) / (10 + step)),
            )
            progress.step += 1
            progress.losses.append(loss.detach())
            progress.samples += samples * accelerator.num_processes
            if time.monotonic() - progress.reported_at > _REPORT_EVERY_S or progress.step == schedule.total:
                elapsed_s = progress.elapsed_s + time.monotonic() - chunk_began
                _report(log, progress, schedule, config.learning_rate, float(norm), elapsed_s)
        now = time.monotonic()
        progress.elapsed_s += now - chunk_began
        if limits.minutes is not None and chunk > 0:
            pace_s = (now - chunk_began) / max(1, progress.step - (chunk * per_chunk + offset))
            schedule.fit(progress.step, progress.elapsed_s, pace_s, 60 * limits.minutes, per_chunk)
            schedule.total = int(broadcast(torch.tensor([schedule.total], device=device)))
        # All processes must agree on when to stop.
        late = limits.stop_after_s is not None and now - started_at + (now - chunk_began) > limits.stop_after_s
        due = now - saved_at > config.checkpoint_every_s or progress.step >= schedule.total
        diverged = not bool(torch.stack([*progress.losses, norm]).isfinite().all())
        votes = torch.tensor([late, due, diverged], dtype=torch.float32, device=device)
        must_stop, must_save, diverged = (accelerator.reduce(votes, "sum") > 0).tolist()
        if diverged:
            raise _divergence(progress.step)
        if must_stop or must_save:
            if accelerator.is_main_process:
                _save(state, weights, schedule, progress)
            saved_at = time.monotonic()
        if must_stop and progress.step < schedule.total:
            log.say(f"stopped at step {progress.step} of {schedule.total}; the same command goes on from here")
            # A launcher ends all processes with the first one that stops: none may, before the state is saved.
            accelerator.wait_for_everyone()
            return False
    accelerator.wait_for_everyone()
    network = accelerator.unwrap_model(stage.network)
    network.float()
    network.load_state_dict(weights.average(), strict=False)
    stage.network = network
    measures = stage.evaluate(network)
    if accelerator.is_main_process:
        log.say(", ".join(f"{name} {value:.4g}" for name, value in measures.items()))
        log.write({"step": progress.step, "processes": accelerator.num_processes, "measures": measures})
    return True


def _seed_of(seed: int, stage: str, step: int, process: int) -> int:
    text = f"{seed} {stage} {step} {process}".encode()
    # Python's own hash differs from process to process.
    value = 14695981039346656037
    for byte in text:
        value = ((value ^ byte) * 1099511628211) % 2**63
    return value


def _save(path: Path, weights: TrainedWeights, schedule: Schedule, progress: _Progress) -> None:
    state = {
        "step": progress.step,
        "total": schedule.total,
        "elapsed_s": progress.elapsed_s,
        "masters": weights.masters(),
        "average": weights.average(),
        "optimizer": weights.optimizer.state_dict(),
    }
    save_state(state, path)


def _resume(path: Path, weights: TrainedWeights, schedule: Schedule, progress: _Progress, limits: Limits) -> None:
    with reading(path, BEGIN_ANEW):
        state = load_state(path)
        # A slim copy has only the average, which is as good to go on from.
        weights.load(state.get("masters", state["average"]), state["average"])
        progress.step, progress.elapsed_s = state["step"], state["elapsed_s"]
        if limits.minutes is not None:
            schedule.total = state["total"]
        if "optimizer" in state:
            weights.optimizer.load_state_dict(state["optimizer"])
        else:
            schedule.cold_at = progress.step


def _report(
    log: StageLog, progress: _Progress, schedule: Schedule, learning_rate: float, norm: float, elapsed_s: float
) -> None:
    """Tell how it goes; waits for the device.

    Args:
        log: of the stage.
        progress: its counts since the last report begin anew.
        schedule: of the stage.
        learning_rate: the highest.
        norm: of the last step's gradients.
        elapsed_s: of the whole stage, with what prepared its chunks: what is left goes by its mean pace.
    """
    loss = float(torch.stack(progress.losses).float().mean())
    if not math.isfinite(loss):
        raise _divergence(progress.step)
    now = time.monotonic()
    seconds = max(now - progress.reported_at, 1e-9)
    rate = learning_rate * schedule.factor(progress.step - 1)
    per_second = progress.samples / seconds
    left_s = (schedule.total - progress.step) * elapsed_s / progress.step
    log.say(
        f"step {progress.step}/{schedule.total} {100 * progress.step // schedule.total} %, loss {loss:.5f}, "
        f"gradient {norm:.3g}, rate {rate:.2e}, {per_second:.1f} samples/s, {left_s / 60:.1f} min left"
    )
    log.write(
        {
            "step": progress.step,
            "total": schedule.total,
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": rate,
            "samples_per_s": round(per_second, 2),
            "elapsed_s": round(elapsed_s, 1),
        }
    )
    progress.losses, progress.samples, progress.reported_at = [], 0, now


def _divergence(step: int) -> TrainingError:
    return TrainingError(
        f"the loss is no finite number any more by step {step}, and that was not saved: go on from the last save with "
        "--precision float32, or begin another --run with a lower learning rate in its preset"
    )

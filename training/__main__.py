"""`python -m training COMMAND`: train, evaluate and export a checkpoint in SVD's format.

    python -m training vae --run build/training/tiny
    python -m training temporal-decoder --run build/training/tiny
    python -m training unet --run build/training/tiny
    python -m training export build/checkpoint --run build/training/tiny
    python -m training evaluate build/checkpoint --run build/training/tiny

A stage that was stopped goes on where it was; `accelerate launch -m training ...` trains it on several GPUs at once,
each with batches of its own: N GPUs see N times the samples in the same steps.

Exit codes: 0 done; 1 failed, or a gate of the evaluation does not hold; 2 cannot be done as asked; 3 stopped by
--stop-after. `accelerate launch` of several processes ends with 1 instead of 2 or 3, and a traceback of its own.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from training.config import PRESETS, STAGES
from training.errors import TrainingError, reason
from training.folder import RunFolder, check_checkpoint, check_target
from training.photo_files import BUNDLED, find_photos

_STARTED_AT = time.monotonic()
_HELD_OUT = Path("docs/samples")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code, see above."""
    options = _parser().parse_args(arguments)
    commands = {"export": _export, "slim": _slim, "evaluate": _evaluate}
    try:
        return commands.get(options.command, _train)(options)
    except TrainingError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or options.command}: {reason(error)}\n")
        return 1


# Each command first checks what it can without torch, which takes seconds to import.


def _train(options: argparse.Namespace) -> int:
    stage, folder, images = options.command, _run_folder(options), options.images or BUNDLED
    preset = folder.find_preset(options.preset)
    folder.check_predecessors(stage)
    photos = folder.check_photos(preset, images)
    if folder.done(stage):
        sys.stderr.write(f"{stage}: done already, in {folder.weights(stage)}\n")
        return 0
    _silence_libraries()
    from training.loop import Limits
    from training.run import Options, Run

    limits = Limits(options.steps, options.minutes, options.stop_after)
    run = Run(folder, preset, photos, Options(images, options.precision, limits), _STARTED_AT)
    return 0 if run.train(stage) else 3


def _export(options: argparse.Namespace) -> int:
    folder = _run_folder(options)
    preset = folder.find_preset(None)
    folder.check_exportable(options.unfinished)
    check_target(options.directory)
    _silence_libraries()
    from training.export import export

    export(folder, preset, options.directory)
    return 0


def _slim(options: argparse.Namespace) -> int:
    folder = _run_folder(options)
    folder.check_begun()
    folder.check_copy(options.directory)
    from training.export import slim

    slim(folder, options.directory)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    check_checkpoint(options.checkpoint)
    photos = find_photos(options.photos)
    if options.run:
        RunFolder(options.run).check_held_out(photos)
    _silence_libraries()
    from training.evaluate import Settings, evaluate

    size = PRESETS[options.preset].unet.sizes[0]
    how = Settings(
        width=options.width or size.width,
        height=options.height or size.height,
        num_frames=options.num_frames or size.num_frames,
        steps=options.steps,
        seeds=options.seeds,
        device=options.device,
    )
    return evaluate(options.checkpoint, photos, options.output, how)


def _run_folder(options: argparse.Namespace) -> RunFolder:
    preset = getattr(options, "preset", None) or "tiny"
    return RunFolder(options.run or Path("build/training") / preset)


def _silence_libraries() -> None:
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in STAGES:
        stage = commands.add_parser(name, help=f"train the stage {name}, or go on with it")
        _add_run(stage)
        stage.add_argument(
            "--preset",
            choices=sorted(PRESETS),
            help="what is trained, and for how long: tiny ships, two-cores needs no GPU, smoke only shows that all "
            "stages run (default: the run's, else tiny)",
        )
        stage.add_argument("--images", type=Path, help="folder of own photos, for all stages of the run")
        stage.add_argument("--steps", type=_whole(1), help="steps of the stage instead of the preset's")
        stage.add_argument("--minutes", type=_above_zero, help="as many steps as fit, over all runs of the stage")
        stage.add_argument("--stop-after", type=_at_least_zero, metavar="SECONDS", help="save and stop; exit code 3")
        stage.add_argument(
            "--precision",
            choices=("auto", "bfloat16", "float32"),
            default="auto",
            help="of the networks' computing (default: bfloat16 on a GPU, else float32); accelerate's own "
            "--mixed_precision changes nothing",
        )
    export = commands.add_parser("export", help="write the checkpoint that the pipeline loads")
    export.add_argument("directory", type=Path, help="of the checkpoint")
    export.add_argument("--unfinished", action="store_true", help="with stages that are not done, as they are")
    _add_run(export)
    slim = commands.add_parser("slim", help="copy the run in half precision, to go on with it elsewhere")
    slim.add_argument("directory", type=Path, help="of the copy")
    _add_run(slim)
    evaluate = commands.add_parser("evaluate", help="measure a checkpoint on photos that it was not trained on")
    evaluate.add_argument("checkpoint", type=Path, help="its directory")
    evaluate.add_argument("--run", type=Path, help="of the checkpoint: refuse photos that it was begun with")
    evaluate.add_argument("--photos", type=Path, default=_HELD_OUT, help="a folder (default: %(default)s)")
    evaluate.add_argument("--output", type=Path, default=Path("build/evaluation"), help="default: %(default)s")
    evaluate.add_argument(
        "--preset", choices=sorted(PRESETS), default="tiny", help="whose size and frames are made (default: tiny)"
    )
    for name in ("width", "height"):
        evaluate.add_argument(f"--{name}", type=_whole(32, 32), help="in px, instead of the preset's")
    evaluate.add_argument("--num-frames", type=_whole(2), help="instead of the preset's")
    evaluate.add_argument("--steps", type=_whole(1), default=8, help="of denoising (default: %(default)s)")
    evaluate.add_argument("--seeds", type=_whole(1), default=3, help="videos of each setting (default: %(default)s)")
    evaluate.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    return parser


def _whole(least: int, multiple: int = 1) -> Callable[[str], int]:
    """A type of argument: whole numbers of at least `least`, multiples of `multiple`."""
    kind = "whole number" if multiple == 1 else f"multiple of {multiple}"

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or int(text) % multiple:
            raise argparse.ArgumentTypeError(f"must be a {kind} of at least {least}, got {text}")
        return int(text)

    return parse


def _above_zero(text: str) -> float:
    number = _at_least_zero(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return number


def _at_least_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return number


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, help="its folder (default: build/training/PRESET)")


if __name__ == "__main__":
    sys.exit(main())

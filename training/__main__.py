"""`python -m training STAGE`: train, evaluate and export a checkpoint in SVD's format.

    python -m training vae --run build/training
    python -m training temporal-decoder --run build/training
    python -m training unet --run build/training
    python -m training export build/checkpoint --run build/training
    python -m training evaluate build/checkpoint

A stage that was stopped goes on where it was; `accelerate launch -m training …` spreads it over several GPUs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from training.config import PRESETS, STAGES

_STARTED_AT = time.monotonic()
_HELD_OUT = Path("docs/samples")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0 only when the stage is done, 3 when it stopped at its time limit."""
    options = _parser().parse_args(arguments)
    # Imported from here on: it takes seconds, and `--help` must not.
    _silence_libraries()
    if options.command == "evaluate":
        from training.evaluate import Settings, evaluate

        names = ("width", "height", "num_frames", "steps", "seeds", "device")
        how = Settings(**{name: getattr(options, name) for name in names})
        return evaluate(options.checkpoint, options.photos, options.output, how)
    from training.loop import Limits
    from training.run import NotReadyError, Options, Run, find_preset

    preset = find_preset(options.run, getattr(options, "preset", None))
    limits = Limits(
        steps=getattr(options, "steps", None),
        minutes=getattr(options, "minutes", None),
        stop_after_s=getattr(options, "stop_after", None),
    )
    chosen = Options(getattr(options, "images", None), getattr(options, "precision", "auto"), limits)
    try:
        run = Run(options.run, preset, chosen, _STARTED_AT)
        if options.command == "export":
            run.export(options.directory)
        elif options.command == "slim":
            run.slim(options.directory)
        elif not run.train(options.command):
            return 3
    except NotReadyError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


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
        stage.add_argument("--preset", choices=sorted(PRESETS), help="default: the run's, else tiny")
        stage.add_argument("--images", type=Path, help="folder of own photos instead of those that come with it")
        stage.add_argument("--steps", type=int, help="steps of the stage instead of the preset's")
        stage.add_argument("--minutes", type=float, help="as many steps as fit into these, over all runs of the stage")
        stage.add_argument("--stop-after", type=float, metavar="SECONDS", help="save and stop; exit code 3")
        stage.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto")
    export = commands.add_parser("export", help="write the checkpoint that the pipeline loads")
    export.add_argument("directory", type=Path)
    _add_run(export)
    slim = commands.add_parser("slim", help="copy the run in half precision, to go on with it elsewhere")
    slim.add_argument("directory", type=Path)
    _add_run(slim)
    evaluate = commands.add_parser("evaluate", help="measure a checkpoint on photos that it was not trained on")
    evaluate.add_argument("checkpoint", type=Path)
    evaluate.add_argument("--photos", type=Path, default=_HELD_OUT, help="a folder (default: %(default)s)")
    evaluate.add_argument("--output", type=Path, default=Path("build/evaluation"), help="default: %(default)s")
    for name, default in (("width", 256), ("height", 128), ("num-frames", 14), ("steps", 8), ("seeds", 3)):
        evaluate.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    evaluate.add_argument("--device", default="auto")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, default=Path("build/training"), help="the run's folder; %(default)s")


if __name__ == "__main__":
    sys.exit(main())

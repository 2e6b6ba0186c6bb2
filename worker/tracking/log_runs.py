"""`python -m worker.tracking.log_runs ORDER`: write runs with wandb, one after the other.

A process of its own, since wandb starts threads and servers, talks to the network and may hang; whoever starts this
ends it when its time is up. Nothing secret is in the order: the key comes in `WANDB_API_KEY`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import wandb

from shared.processes import die_with_parent
from worker.tracking.order import Order, Reported, Run

#: what is refused however often it is tried. By its text: a server that is away is an AuthenticationError, too.
_REFUSED = re.compile(r"\b40[13]\b|API key|permission", re.IGNORECASE)


def log_runs(order: Order) -> None:
    """Write all runs; each is reported as soon as it is complete."""
    with order.report.open("a", encoding="utf-8") as report:

        def say(line: Reported) -> None:
            print(line.model_dump_json(), file=report, flush=True)

        try:
            settings = wandb.setup().settings
            mode = order.mode or settings.mode
            if mode == "online":
                # init says nothing of why a key is refused.
                wandb.login(verify=True)
            for run in order.runs:
                say(Reported(run_id=run.id, url=_log_run(order, run, mode)))
        except (wandb.Error, OSError, ValueError) as error:
            text = str(error).partition("\n")[0] or type(error).__name__
            say(Reported(error=text, permanent=_REFUSED.search(text) is not None))
            sys.exit(1)


def _log_run(order: Order, ordered: Run, mode: str) -> str | None:
    """Returns the run's URL; None if it was written offline.

    An offline run is moved to the others when it is whole, so that nothing that was cut off is ever synced.
    """
    order.folder.mkdir(parents=True, exist_ok=True)
    for cut_off in order.folder.glob(f".partial-{ordered.id}-*"):
        shutil.rmtree(cut_off)
    with tempfile.TemporaryDirectory(dir=order.folder, prefix=f".partial-{ordered.id}-") as scratch:
        run = wandb.init(
            project=order.project,
            entity=order.entity,
            id=ordered.id,
            name=ordered.name,
            group=ordered.group,
            tags=ordered.tags,
            config=ordered.config,
            # Online a run that was cut off goes on under its id; what it has already is not logged twice, by its step.
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                mode=mode,
                root_dir=scratch,
                init_timeout=order.timeout_s,
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )
        videos = {
            video.key: wandb.Video(str(order.video_path(ordered, video)), caption=video.caption, format="mp4")
            for video in ordered.videos
        }
        run.log({**ordered.metrics, **videos}, step=0)
        run.finish()
        if mode != "offline":
            url: str | None = run.url
            return url
        _keep(order.folder / "wandb", Path(scratch) / "wandb", ordered.id)
        return None


def _keep(folder: Path, scratch: Path, run_id: str) -> None:
    folder.mkdir(exist_ok=True)
    for earlier in folder.glob(f"offline-run-*-{run_id}"):
        # It was moved, and nobody lived to say so.
        shutil.rmtree(earlier)
    [written] = scratch.glob(f"offline-run-*-{run_id}")
    written.rename(folder / written.name)


def main() -> None:
    die_with_parent()
    with open(sys.argv[1], encoding="utf-8") as file:
        log_runs(Order.model_validate(json.load(file)))


if __name__ == "__main__":
    main()

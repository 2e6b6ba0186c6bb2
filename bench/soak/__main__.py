"""`python -m bench.soak`: N jobs through M workers while a seeded monkey kills processes and engines.

The seed fixes what is submitted and the order of the monkey's strokes; when each of them meets what depends on the
machine. Exit code 1 if an accepted job was lost, ended twice or was left, or if any other promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.soak.audit import Findings, audit, audit_stale, count_open
from bench.soak.clients import Clients, Load
from bench.soak.fleet import TIMES, Fleet
from bench.soak.ghost import Ghost
from bench.soak.monkey import Monkey
from bench.soak.receiver import FlakyReceiver
from shared.database import Sessions, make_engine, make_sessions, translated_errors
from shared.errors import DatabaseError
from shared.objects import open_store

_CLIENTS = 4
_LOOK_S = 0.1
_SAY_S = 2.0
#: the share of the monkey's time over which the jobs are submitted.
_SPREAD = 0.4


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1_800, help="how long the monkey goes on, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=6.0, help="mean pause between two strokes, s")
    parser.add_argument("--patience", type=float, default=120, help="give up when nothing moves for so long, s")
    parser.add_argument("--keep", action="store_true", help="keep the logs and the objects")
    parser.add_argument("--result", type=Path, help="write the table here too, as JSON")
    return parser.parse_args()


def soak(options: argparse.Namespace, folder: Path) -> Findings:
    """Run all of it in a folder."""
    hang_s = float(TIMES["ANIMATIC_WEBHOOK_TIMEOUT_S"]) + 1
    with FlakyReceiver(options.seed, hang_s=hang_s) as receiver:
        env = {
            "ANIMATIC_OUTBOUND_ALLOW": receiver.address,
            "ANIMATIC_QUEUED_JOBS_MAX": str(options.jobs + 1),
            "ANIMATIC_RATE_LIMIT_PER_MINUTE": "0",
        }
        fleet = Fleet(folder, workers=options.workers, env=env)
        try:
            fleet.start()
            settings = fleet.settings()
            engine = make_engine(settings, application="soak")
            sessions = make_sessions(engine)
            load = Load(options.jobs, _SPREAD * options.seconds, _CLIENTS, options.seed, receiver.url)
            clients = Clients(load, fleet.urls, fleet.api_key)
            ghost = Ghost(sessions)
            monkey = Monkey(fleet, seed=options.seed, every_s=options.every, lease_s=settings.lease_s)
            started = time.monotonic()
            clients.start()
            ghost.start()
            try:
                _drive(options, fleet, monkey, clients, sessions)
            finally:
                clients.stop()
                ghost.stop()
            took_s = time.monotonic() - started
            with sessions() as session:
                findings = audit(session, open_store(settings), clients.ledger, receiver.bodies)
                audit_stale(session, ghost, (worker.child.log.read_bytes() for worker in fleet.workers), findings)
            findings.table |= {
                "requests": sum(clients.ledger.answers.values()),
                "requests by answer (0: connection failed)": dict(sorted(clients.ledger.answers.items())),
                "webhook requests received": receiver.requests,
                "strokes": dict(sorted(monkey.strokes.items())),
                "seconds": round(took_s, 1),
            }
            if len(clients.ledger.accepted) < options.jobs:
                findings.problems.append(f"only {len(clients.ledger.accepted)} of {options.jobs} jobs were accepted")
            engine.dispose()
        finally:
            fleet.stop()
            fleet.erase()
    return findings


def _drive(options: argparse.Namespace, fleet: Fleet, monkey: Monkey, clients: Clients, sessions: Sessions) -> None:
    """Let the monkey play while there is work, then mend what it broke and wait for the rest."""
    started = moved_at = say_at = time.monotonic()
    rest_at = started + options.seconds
    is_resting = False
    last: tuple[int, ...] = ()
    while time.monotonic() < max(rest_at, moved_at) + options.patience:
        fleet.mend()
        now = time.monotonic()
        if now < rest_at:
            monkey.play()
        elif not is_resting:
            monkey.rest()
            is_resting = True
        if now >= say_at:
            say_at = now + _SAY_S
            with suppress(DatabaseError), translated_errors():
                jobs, deliveries = count_open(sessions)
                accepted = len(clients.ledger.accepted)
                if (accepted, jobs, deliveries) != last:
                    last, moved_at = (accepted, jobs, deliveries), now
                _say(
                    f"{now - started:4.0f} s: {accepted} accepted, {jobs} open, {deliveries} deliveries pending, "
                    f"{monkey.strokes.total()} strokes"
                )
                if clients.is_done and jobs == deliveries == 0:
                    break
        time.sleep(_LOOK_S)
    monkey.rest()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    options = parse_arguments()
    # Others may pass through: when we are root, Postgres runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="animatic-soak-"))
    folder.chmod(0o711)
    findings = soak(options, folder)
    result: dict[str, Any] = {
        "command": f"python -m bench.soak --jobs {options.jobs} --workers {options.workers} "
        f"--seconds {options.seconds:g} --seed {options.seed} --every {options.every:g}",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "seed": options.seed,
        "table": findings.table,
        "problems": findings.problems,
    }
    if options.result is not None:
        options.result.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, value in findings.table.items():
        shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        print(f"{name:<48} {shown}")
    for problem in findings.problems:
        print(f"problem: {problem}")
    if options.keep or findings.problems:
        _say(f"the logs are in {folder}/logs")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())

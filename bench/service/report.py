"""The README's tables of the service, from what was measured: `python -m bench.service.report [RESULT]`.

What a result does not have, such as a queue that was not installed, is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent.parent / "results" / "service.json"

_PNG, _AS_IT_CAME = "bare Flask, image as PNG", "bare Flask, file as it came"
_OTHERS = ("RQ", "procrastinate", "bare Celery")


def tables(result: dict[str, Any]) -> str:
    """In Markdown."""
    return "\n\n".join(filter(None, (_against_others(result), _claims(result), _experiment(result))))


def _against_others(result: dict[str, Any]) -> str:
    rows = [*_requests(result), *_streams(result), *_jobs(result)]
    return _table(["what (p50)", "Animatic", "instead"], rows) if rows else ""


def _requests(result: dict[str, Any]) -> Iterator[list[str]]:
    if "POST of a photo" in result:
        own, png, as_it_came = (result["POST of a photo"][name] for name in ("Animatic", _PNG, _AS_IT_CAME))
        poll, bare_poll = (result["GET of a job"][name] for name in ("Animatic", _AS_IT_CAME))
        yield [
            "`POST` of a photo of 640×427",
            _ms(own["p50_ms"]),
            f"{_ms(png['p50_ms'])}: bare Flask, Pillow's PNG, `INSERT`, `send_task`; "
            f"{_ms(as_it_came['p50_ms'])} if it keeps the file as it came",
        ]
        yield ["the same, p99", _ms(own["p99_ms"]), f"{_ms(png['p99_ms'])}; {_ms(as_it_came['p99_ms'])}"]
        rates = f"{png['per_s']:.0f} /s; {as_it_came['per_s']:.0f} /s"
        yield ["the same, 8 callers at once", f"{own['per_s']:.0f} /s", rates]
        yield ["`GET` of a job", _ms(poll["p50_ms"]), f"{_ms(bare_poll['p50_ms'])}: bare Flask, one `SELECT`, no key"]
        yield ["the same, 8 callers at once", f"{poll['per_s']:.0f} /s", f"{bare_poll['per_s']:.0f} /s"]


def _streams(result: dict[str, Any]) -> Iterator[list[str]]:
    if "beside idle streams" in result:
        found = result["beside idle streams"]
        without, beside = (found[f"connections to Postgres {how}"] for how in ("without", "beside"))
        yield [
            f"`POST` of a photo beside {found['streams']} idle streams; connections to Postgres then",
            f"{_ms(found['POST beside them']['p50_ms'])}; {beside}",
            f"{_ms(found['POST without them']['p50_ms'])}; {without}: without them",
        ]
        yield ["SIGTERM to the API's end with these open", f"{found['SIGTERM to end s']:.1f} s", "–"]


def _jobs(result: dict[str, Any]) -> Iterator[list[str]]:
    if "no-op jobs, one worker" in result:
        pickup, life = result["from 202 to start on an idle worker"], result["no-op jobs, one worker"]
        others = [name for name in _OTHERS if name in life]
        yield [
            "from the accepted row to the start of the job, idle worker",
            _ms(pickup["Animatic"]),
            f"{_ms(pickup['bare Flask + Celery'])}: bare Flask and Celery",
        ]
        yield [
            "no-op jobs from queue to end, one worker",
            f"{life['Animatic']['jobs_per_s']:.0f} /s",
            ", ".join(f"{life[name]['jobs_per_s']:.0f} /s {name}" for name in others),
        ]
        yield [
            "idle between two no-op jobs",
            _ms(life["Animatic"]["gap_p50_ms"]),
            ", ".join(f"{_ms(life[name]['gap_p50_ms'])} {name}" for name in others),
        ]


def _claims(result: dict[str, Any]) -> str:
    if "claims per s by rows and workers" not in result:
        return ""
    steps, claims = result["median ms of a step, by rows"], result["claims per s by rows and workers"]
    counts = list(next(iter(claims.values())))
    head = ["jobs that have ended", *next(iter(steps.values())), *(f"claims, {count} at once" for count in counts)]
    return _table(
        head,
        [
            [
                f"{int(rows):,}",
                *(_ms(value) for value in steps[rows].values()),
                *(f"{claims[rows][count]:.0f} /s" for count in counts),
            ]
            for rows in claims
        ]
        + [
            [
                "the last to the first, round by round",
                *(f"{ratio:.2f} ×" for ratio in result["cost at the most rows to that at the fewest"].values()),
                *("" for _ in counts),
            ]
        ],
    )


def _experiment(result: dict[str, Any]) -> str:
    for name, found in result.items():
        if name.startswith("an experiment"):
            head = ["an experiment, cells", "accept", "count its cells", "pause", "resume", "cancel"]
            row = [f"{found['cells']:,}", *(_ms(found[f"{step} ms"]) for step in head[1:])]
            beside = "a claim beside it to one without"
            return _table([*head, beside], [[*row, f"{found['claim beside it to without']:.2f} ×"]])
    return ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


if __name__ == "__main__":
    print(tables(json.loads((Path(sys.argv[1]) if sys.argv[1:] else RESULT).read_text(encoding="utf-8"))))

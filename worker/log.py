"""One line per message on stderr, for every process of the worker."""

from __future__ import annotations

import logging
import os


def configure_logging() -> None:
    """`ANIMATIC_LOG_LEVEL` sets the level; the default is INFO."""
    logging.basicConfig(
        level=os.environ.get("ANIMATIC_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    for noisy in ("celery", "kombu", "botocore", "urllib3", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

"""Keeping the libraries' progress bars and hints out of a worker's log."""

from __future__ import annotations

import diffusers.utils.logging
import transformers.utils.logging


def silence_libraries() -> None:
    """Errors only, and no progress bars: what they warn of here is about their own classes, not about the model."""
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()

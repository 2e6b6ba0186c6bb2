"""Where Triton keeps the machine code of the kernels, so that a restarted worker need not compile them again."""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from shared.scratch import scratch_folder

log = logging.getLogger(__name__)


def use_kernel_cache(directory: Path) -> None:
    """Keep compiled kernels in a directory; to be called before the first one runs.

    Where it cannot be written, as in a container without a volume, they are kept for this process only, and the next
    one compiles again. Triton's default is in the home directory, which a container need not have.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        log.warning("compiled kernels are not kept: %s: %s", directory, error.strerror)
        held = ExitStack()
        directory = held.enter_context(scratch_folder("kernels"))
        atexit.register(held.close)
    os.environ.setdefault("TRITON_CACHE_DIR", str(directory))

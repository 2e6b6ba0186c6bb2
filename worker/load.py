"""Loading the pipeline of a worker process: the one door to `worker.svd`, and so to torch."""

from __future__ import annotations

from shared.catalogue import ModelEntry
from shared.settings import Settings
from worker.pipeline import VideoPipeline


def load(settings: Settings, entry: ModelEntry) -> VideoPipeline:
    """Load the model; seconds to minutes, once for each process.

    Raises:
        StartupError: it cannot be loaded; one sentence that says what to do, and an exit code of its kind.
    """
    if entry.source == "double":
        from worker.double import DoublePipeline

        return DoublePipeline()
    # Imported here: it takes seconds, and whoever only needs the double or the signature must not pay.
    from worker.svd.loading import load_pipeline

    return load_pipeline(settings, entry)

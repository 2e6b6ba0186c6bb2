"""Workers, as last seen."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from shared.tables.base import CLOCK, Base


class Worker(Base):
    """A worker process and its device, as last seen."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    pid: Mapped[int]
    model: Mapped[str]
    #: of the weights, and the engine tier: what its results have in common.
    revision: Mapped[str | None]
    engine: Mapped[str | None]
    device: Mapped[str | None]
    #: the pipeline is loaded.
    ready: Mapped[bool] = mapped_column(default=False)
    #: what it took last, until that has ended; it may be finishing the one before, too.
    job_id: Mapped[UUID | None]
    #: how long its pipeline has worked since it was loaded.
    busy_s: Mapped[float] = mapped_column(server_default=text("0"))
    #: stops taking jobs; after this instant it releases those it has.
    drain_deadline_at: Mapped[datetime | None]
    started_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    last_seen_at: Mapped[datetime] = mapped_column(server_default=CLOCK)

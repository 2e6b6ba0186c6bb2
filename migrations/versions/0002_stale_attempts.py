"""Attempts remember that their worker came back too late."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("stale_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "attempts_stale_at_idx",
        "attempts",
        ["stale_at"],
        unique=False,
        postgresql_where=sa.text("stale_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("attempts_stale_at_idx", table_name="attempts")
    op.drop_column("attempts", "stale_at")

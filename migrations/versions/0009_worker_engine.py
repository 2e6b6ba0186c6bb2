"""Workers say which revision and engine tier they run, so that results of the same can be reused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("revision", "engine"):
        op.add_column("workers", sa.Column(column, sa.Text(), nullable=True))


def downgrade() -> None:
    for column in ("revision", "engine"):
        op.drop_column("workers", column)

"""Jobs say what their image is called, and what their experiment varies, so that people can tell them apart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("image_name", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("grid_axes", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "grid_axes")
    op.drop_column("jobs", "image_name")

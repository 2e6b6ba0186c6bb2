"""Tenants may have a highest priority of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("priority_max", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("tenants", "priority_max")

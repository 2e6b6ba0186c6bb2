"""What is known of an experiment's logging to Weights & Biases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With defaults: an API of the version before makes experiments, too.
    op.add_column("experiments", sa.Column("wandb_tries", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "experiments",
        sa.Column(
            "wandb_next_try_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
    )
    op.add_column(
        "experiments",
        sa.Column("wandb_run_ids", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
    )
    op.create_index(
        "experiments_track_idx",
        "experiments",
        ["wandb_next_try_at"],
        postgresql_where=sa.text("wandb_status = 'pending' AND finished_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("experiments_track_idx", "experiments")
    for column in ("wandb_run_ids", "wandb_next_try_at", "wandb_tries"):
        op.drop_column("experiments", column)

"""Signing in to the page: sessions of browsers, and links that sign in once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "browser_sessions",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("api_key_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name="browser_sessions_api_key_id_fkey"),
        sa.PrimaryKeyConstraint("token_sha256", name="browser_sessions_pkey"),
    )
    op.create_index("browser_sessions_expires_at_idx", "browser_sessions", ["expires_at"])
    op.create_table(
        "sign_in_links",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("api_key_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name="sign_in_links_api_key_id_fkey"),
        sa.PrimaryKeyConstraint("token_sha256", name="sign_in_links_pkey"),
    )
    op.create_index("sign_in_links_expires_at_idx", "sign_in_links", ["expires_at"])


def downgrade() -> None:
    op.drop_table("sign_in_links")
    op.drop_table("browser_sessions")

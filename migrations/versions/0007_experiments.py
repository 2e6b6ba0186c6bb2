"""Experiments and their cells; webhooks and idempotency keys that are about an experiment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")
_OWN_TAIL = ["tenant_id", "model", "priority", "rank"]

# Whoever waits for an experiment is woken by each change of its jobs.
_NOTIFY = """
CREATE OR REPLACE FUNCTION notify_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('animatic_jobs', NEW.id::text);
    IF NEW.experiment_id IS NOT NULL THEN
        PERFORM pg_notify('animatic_jobs', NEW.experiment_id::text);
    END IF;
    RETURN NULL;
END
$$
"""
_NOTIFY_BEFORE = """
CREATE OR REPLACE FUNCTION notify_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('animatic_jobs', NEW.id::text);
    RETURN NULL;
END
$$
"""
_NOTIFY_EXPERIMENT = """
CREATE FUNCTION notify_experiment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('animatic_jobs', NEW.id::text);
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("images", postgresql.JSONB(), nullable=False),
        sa.Column("grid", sa.JSON(), nullable=False),
        sa.Column("base", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("warnings", postgresql.JSONB(), nullable=False),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("reuse", sa.Boolean(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("wandb", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("wandb_status", sa.Text(), nullable=True),
        sa.Column("wandb_error", sa.Text(), nullable=True),
        sa.Column("wandb_urls", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("experiments_tenant_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("experiments_pkey")),
    )
    op.create_index(
        "experiments_tenant_created_idx", "experiments", ["tenant_id", sa.text("created_at DESC"), sa.text("id DESC")]
    )
    op.create_index(
        "experiments_open_idx",
        "experiments",
        ["tenant_id", "model", "priority"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "experiment_cells",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("experiment_id", sa.Uuid(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("reused", sa.Boolean(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("experiment_cells_experiment_id_fkey")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("experiment_cells_job_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("experiment_cells_pkey")),
        sa.UniqueConstraint("experiment_id", "index", name=op.f("experiment_cells_experiment_id_index_key")),
    )
    op.create_index(op.f("experiment_cells_job_id_idx"), "experiment_cells", ["job_id"])
    op.create_index("inputs_tenant_sha256_idx", "inputs", ["tenant_id", "sha256"])

    _add_reference("jobs")
    op.create_index(
        "jobs_experiment_idx",
        "jobs",
        ["experiment_id", "status"],
        postgresql_where=sa.text("experiment_id IS NOT NULL"),
    )
    op.drop_index("jobs_tail_idx", "jobs")
    op.create_index(
        "jobs_tail_idx",
        "jobs",
        _OWN_TAIL,
        postgresql_where=sa.text("status = 'queued' AND experiment_id IS NULL"),
    )

    _add_reference("idempotency_keys")
    op.alter_column("idempotency_keys", "job_id", nullable=True)
    op.create_index(op.f("idempotency_keys_experiment_id_idx"), "idempotency_keys", ["experiment_id"])
    op.create_check_constraint(
        op.f("idempotency_keys_made_check"), "idempotency_keys", "num_nonnulls(job_id, experiment_id) = 1"
    )

    _add_reference("webhook_deliveries")
    op.add_column("webhook_deliveries", sa.Column("round", sa.Integer(), nullable=True))
    op.alter_column("webhook_deliveries", "job_id", nullable=True)
    op.create_unique_constraint(
        op.f("webhook_deliveries_experiment_id_round_key"), "webhook_deliveries", ["experiment_id", "round"]
    )
    op.create_check_constraint(
        op.f("webhook_deliveries_about_check"), "webhook_deliveries", "num_nonnulls(job_id, experiment_id) = 1"
    )

    op.execute(_NOTIFY)
    op.execute(_NOTIFY_EXPERIMENT)
    op.execute(
        "CREATE TRIGGER experiments_notify AFTER UPDATE ON experiments"
        " FOR EACH ROW EXECUTE FUNCTION notify_experiment()"
    )


def _add_reference(table: str) -> None:
    op.add_column(table, sa.Column("experiment_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f(f"{table}_experiment_id_fkey"), table, "experiments", ["experiment_id"], ["id"])


def downgrade() -> None:
    op.execute(_NOTIFY_BEFORE)
    op.execute("DROP TRIGGER experiments_notify ON experiments")
    op.execute("DROP FUNCTION notify_experiment()")
    for table in ("webhook_deliveries", "idempotency_keys"):
        # What is about an experiment has no place in the tables of before.
        op.execute(f"DELETE FROM {table} WHERE job_id IS NULL")  # noqa: S608  # names of ours
        op.drop_column(table, "experiment_id")
        op.alter_column(table, "job_id", nullable=False)
    op.drop_column("webhook_deliveries", "round")
    op.drop_index("jobs_tail_idx", "jobs")
    op.create_index("jobs_tail_idx", "jobs", _OWN_TAIL, postgresql_where=sa.text("status = 'queued'"))
    op.drop_column("jobs", "experiment_id")
    op.drop_index("inputs_tenant_sha256_idx", "inputs")
    op.drop_table("experiment_cells")
    op.drop_table("experiments")

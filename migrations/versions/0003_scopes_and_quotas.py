"""Scopes and expiry of API keys; quotas of tenants, and a count of what each tenant stores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Keys that are here already could do everything, and so can those that the old version's processes still make.
_ALL_SCOPES = """'["jobs:read", "jobs:write", "admin"]'::jsonb"""

_RESULT_BYTES = """
CREATE FUNCTION result_bytes(result jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum((file ->> 'size_bytes')::bigint), 0)::bigint
    FROM jsonb_array_elements(
        CASE jsonb_typeof(result -> 'frames') WHEN 'array' THEN result -> 'frames' ELSE '[]' END
        || jsonb_build_array(result -> 'video', result -> 'manifest')
    ) AS file
$$
"""

_COUNT = """
CREATE FUNCTION count_storage(tenant uuid, delta bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE tenants SET storage_bytes = storage_bytes + delta WHERE id = tenant AND delta <> 0
$$
"""

_COUNT_INPUTS = """
CREATE FUNCTION count_inputs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.deleted_at IS NULL THEN
        PERFORM count_storage(OLD.tenant_id, -OLD.size_bytes);
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.deleted_at IS NULL THEN
        PERFORM count_storage(NEW.tenant_id, NEW.size_bytes);
    END IF;
    RETURN NULL;
END
$$
"""

_COUNT_RESULTS = """
CREATE FUNCTION count_results() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM count_storage(OLD.tenant_id, -result_bytes(OLD.result));
    ELSE
        PERFORM count_storage(NEW.tenant_id, result_bytes(NEW.result) - result_bytes(OLD.result));
    END IF;
    RETURN NULL;
END
$$
"""

# Deferred to the commit: the tenant's row is the last that a transaction locks, and is held only for a moment. So it
# neither joins a deadlock nor waits for a client.
_TRIGGERS = (
    """
    CREATE CONSTRAINT TRIGGER inputs_count AFTER INSERT OR DELETE OR UPDATE OF deleted_at, size_bytes ON inputs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_inputs()
    """,
    """
    CREATE CONSTRAINT TRIGGER jobs_count_update AFTER UPDATE OF result ON jobs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.result IS DISTINCT FROM NEW.result) EXECUTE FUNCTION count_results()
    """,
    """
    CREATE CONSTRAINT TRIGGER jobs_count_delete AFTER DELETE ON jobs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.result IS NOT NULL) EXECUTE FUNCTION count_results()
    """,
)

_FILL = """
UPDATE tenants SET storage_bytes =
    (SELECT coalesce(sum(size_bytes), 0) FROM inputs WHERE tenant_id = tenants.id AND deleted_at IS NULL)
    + (SELECT coalesce(sum(result_bytes(result)), 0) FROM jobs WHERE tenant_id = tenants.id AND result IS NOT NULL)
"""


def upgrade() -> None:
    op.add_column(
        "api_keys", sa.Column("scopes", postgresql.JSONB(), server_default=sa.text(_ALL_SCOPES), nullable=False)
    )
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tenants", sa.Column("storage_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("tenants", sa.Column("queued_jobs_max", sa.Integer(), nullable=True))
    op.add_column("tenants", sa.Column("storage_bytes_max", sa.BigInteger(), nullable=True))
    for statement in (_RESULT_BYTES, _COUNT, _COUNT_INPUTS, _COUNT_RESULTS, *_TRIGGERS):
        op.execute(statement)
    # Nothing is written meanwhile: making a trigger has locked the tables against it.
    op.execute(_FILL)


def downgrade() -> None:
    op.execute("DROP TRIGGER inputs_count ON inputs")
    op.execute("DROP TRIGGER jobs_count_update ON jobs")
    op.execute("DROP TRIGGER jobs_count_delete ON jobs")
    op.execute("DROP FUNCTION count_inputs()")
    op.execute("DROP FUNCTION count_results()")
    op.execute("DROP FUNCTION count_storage(uuid, bigint)")
    op.execute("DROP FUNCTION result_bytes(jsonb)")
    op.drop_column("tenants", "storage_bytes_max")
    op.drop_column("tenants", "queued_jobs_max")
    op.drop_column("tenants", "storage_bytes")
    op.drop_column("api_keys", "expires_at")
    op.drop_column("api_keys", "scopes")

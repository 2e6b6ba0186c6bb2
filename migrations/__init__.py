"""Alembic's scripts: one file per change of the tables, up and down."""

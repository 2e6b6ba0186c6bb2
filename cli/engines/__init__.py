"""Postgres and Redis from wheels or the PATH, run as direct children that never outlive their parent."""

from cli.engines.postgres import Postgres, run_postgres
from cli.engines.processes import Child, free_port, start_child
from cli.engines.redis import Redis, run_redis

__all__ = ["Child", "Postgres", "Redis", "free_port", "run_postgres", "run_redis", "start_child"]

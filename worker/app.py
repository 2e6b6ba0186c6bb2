"""The Celery application. Celery carries doorbells and keeps the process pool; it decides nothing about jobs."""

from __future__ import annotations

from typing import Any

from celery import Celery

from shared.doorbell import KEY_PREFIX
from shared.settings import Settings
from worker import transport
from worker.attempt import HARD_LIMIT_MARGIN_S


def make_app(settings: Settings) -> Celery:
    """Build the application of one worker."""
    transport.register()
    app = Celery("animatic", broker=settings.redis_url.get_secret_value(), include=["worker.tasks"])
    options: dict[str, Any] = {
        # One job at a time, in a child that was spawned: CUDA does not survive fork.
        "worker_pool": "prefork",
        "worker_pool_start_method": "spawn",
        "worker_concurrency": 1,
        "worker_prefetch_multiplier": 1,
        # The pipeline loads in the child's initializer; the default of 4 s would kill it over and over.
        "worker_proc_alive_timeout": 600,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_send_task_events": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 0,
        "worker_enable_remote_control": False,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "result_backend": None,
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_time_limit": settings.attempt_deadline_s + HARD_LIMIT_MARGIN_S,
        "task_create_missing_queues": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "global_keyprefix": KEY_PREFIX,
        },
    }
    app.conf.update(options)
    return app

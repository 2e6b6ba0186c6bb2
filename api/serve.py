"""`python -m api.serve`: the API under gunicorn, configured by the settings."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, NoReturn

from gunicorn.app.base import BaseApplication

from shared.environment import load_settings
from shared.errors import StartupError
from shared.exit_codes import ExitCode
from shared.processes import die_with_parent, end_in_order_on_sigterm
from shared.scratch import remove_left_folders, scratch_folder
from shared.settings import Settings

#: streams end by themselves within a second of SIGTERM; this is for uploads that are under way.
_GRACEFUL_TIMEOUT_S = 20


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn without its command line and configuration files."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {
            "bind": f"{settings.api_host}:{settings.api_port}",
            "workers": settings.api_workers,
            "worker_class": "gthread",
            "threads": settings.api_threads,
            "graceful_timeout": _GRACEFUL_TIMEOUT_S,
            "keepalive": 30,
            "limit_request_line": 8190,
            "limit_request_fields": 64,
            "limit_request_field_size": 8190,
            "control_socket_disable": True,
            # By default SCRIPT_NAME of a caller on this machine, such as a proxy passes on, would cut the path short.
            "forwarder_headers": "",
            "post_fork": _post_fork,
            "post_worker_init": _post_worker_init,
            "child_exit": _child_exit,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        from api.wsgi import make_app

        return make_app()


def _post_fork(_server: Any, _worker: Any) -> None:
    die_with_parent()


def _post_worker_init(worker: Any) -> None:
    # SIGTERM clears `alive`; streams and long polls look at it and end.
    services = worker.wsgi.extensions["animatic"]
    services.streams.is_stopping = lambda: not worker.alive
    services.decoder.warm()


def _child_exit(_server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def main() -> None:
    try:
        settings = load_settings()
    except StartupError as error:
        _end(error)
    end_in_order_on_sigterm()
    remove_left_folders()
    # gunicorn forks in `run`, and its workers leave through here too.
    with scratch_folder("metrics") as folder:
        # prometheus_client looks at this once, when it is imported: so the app is imported only now.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        try:
            from api.wsgi import make_app

            make_app()  # a wrong setting is one sentence here, not a crash loop of workers
            _check_port(settings)
            Server(settings).run()
        except StartupError as error:
            _end(error)


def _check_port(settings: Settings) -> None:
    """gunicorn would try for seconds, and say it in eleven lines."""
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.api_host, settings.api_port))
        except OSError as error:
            raise StartupError(
                f"cannot listen on {settings.api_host}:{settings.api_port}: {error.strerror}; "
                "set ANIMATIC_API_HOST and ANIMATIC_API_PORT",
                exit_code=ExitCode.UNAVAILABLE,
            ) from None


def _end(error: StartupError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""What gunicorn loads: `api.wsgi:make_app()`."""

from __future__ import annotations

from flask_openapi3 import OpenAPI

from api.app import create_app
from shared.environment import load_settings


def make_app() -> OpenAPI:
    return create_app(load_settings())

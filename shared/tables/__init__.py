"""The tables. Postgres is the truth about every job; docs/states.md draws how rows move."""

from shared.tables.base import Base
from shared.tables.experiments import Experiment, ExperimentCell
from shared.tables.jobs import Attempt, Input, Job, JobEvent
from shared.tables.messages import IdempotencyKey, WebhookDelivery
from shared.tables.tenants import ApiKey, BrowserSession, SignInLink, Tenant
from shared.tables.workers import Worker

__all__ = [
    "ApiKey",
    "Attempt",
    "Base",
    "BrowserSession",
    "Experiment",
    "ExperimentCell",
    "IdempotencyKey",
    "Input",
    "Job",
    "JobEvent",
    "SignInLink",
    "Tenant",
    "WebhookDelivery",
    "Worker",
]

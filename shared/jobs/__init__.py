"""The life of a job, as transactions on Postgres.

Plain functions that take a `Session`; the caller commits. `accept` makes the row, `claim` starts an attempt, `lease`
keeps it, `end` is the only way to a terminal status, `requeue` the only way back to the queue, `reap` heals.
"""

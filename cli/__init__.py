"""The `animatic` command: an HTTP client, and the whole stack on one machine."""

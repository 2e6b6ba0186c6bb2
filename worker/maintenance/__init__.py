"""What heals: ring again, reap, deliver webhooks, erase. Stateless; any number may run at once."""

"""Logging finished experiments to Weights & Biases, from the database and in a process of its own."""

"""The three stages, in the order in which they are trained."""

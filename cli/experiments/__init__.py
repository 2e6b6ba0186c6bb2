"""Experiments on the command line: submit a grid, watch its cells, write what came out side by side."""

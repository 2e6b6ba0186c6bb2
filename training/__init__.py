"""Training a checkpoint in SVD's format from nothing: data, stages, evaluation. `python -m training --help`."""

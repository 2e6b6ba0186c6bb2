"""An experiment: a grid of jobs over images and parameter values, made and steered as one.

Plain functions that take a `Session`; the caller commits. `grid` enumerates the cells, `accept` makes the rows,
`finish` notices the last end, `steer` pauses, resumes, cancels and retries, `resource` shows.

Locks are taken in one order: the experiment's turn (an advisory lock of those who steer), then rows of `jobs` by id,
then the row of `experiments`. Whoever ends a job holds the job's row already and so takes only the last.
"""

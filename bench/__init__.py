"""One script per published number. Each compares in one run, and writes its result to `bench/results`."""

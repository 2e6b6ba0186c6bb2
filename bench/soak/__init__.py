"""Many jobs through the whole service while a monkey kills its parts: is every accepted job ended exactly once?

`python -m bench.soak --jobs N --workers M --seconds S --seed K`
"""

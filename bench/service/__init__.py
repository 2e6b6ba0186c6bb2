"""What the service costs around the model, next to what a user would build instead, in one run.

`python -m bench.service`
"""

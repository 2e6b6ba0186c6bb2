"""The vocabulary that the API and the worker have in common; knows neither of them."""

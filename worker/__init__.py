"""The Celery application, the generate use case, the SVD engine, media and the maintainer."""

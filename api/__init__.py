"""The Flask application: routes, schemas, authentication, problem+json."""

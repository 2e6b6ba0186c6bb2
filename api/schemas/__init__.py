"""Request and answer models; validation and the OpenAPI document both come from these."""

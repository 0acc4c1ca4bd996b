"""A web service that creates and resizes machines on request; see docs/web-backend.md."""

"""A web service that creates, resizes and deletes VMs; see docs/web-backend.md."""

"""Readiness: what a VM must do besides being online, and the probes that find out.

It knows nothing of tasks; it may import models, telemetry and validation.
"""

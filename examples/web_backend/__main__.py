"""``python -m web_backend``: serve on 127.0.0.1, with one process or several."""

import argparse

import uvicorn

parser = argparse.ArgumentParser(prog="web_backend")
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--workers", type=int, default=1)
parser.add_argument("--grace", type=int, default=5, help="seconds for open requests at shutdown")
arguments = parser.parse_args()

uvicorn.run(
    "web_backend.app:create_app",
    factory=True,
    port=arguments.port,
    workers=arguments.workers,
    # Open requests are completed first; streams never end, so they are cut off then.
    timeout_graceful_shutdown=arguments.grace,
    log_level="warning",
)

"""An accepted operation, watched to its completion.

`Task` is what a user awaits, `completion` decides when an operation is over, and the poller asks
the API for all awaited tasks of a client together. `PollHub`, `Task` and the tokens are imported
from here; this room sends its reads through the transport and sends no write.
"""

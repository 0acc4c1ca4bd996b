"""An accepted operation, watched to its completion.

`Task` is what a user awaits, `completion` decides when an operation is complete by the rules of
`rules`, and the poller shares polling across all awaited tasks of a client. The layers above import
`PollHub`, `Task` and the tokens. This package sends reads through the transport, and no writes.
"""

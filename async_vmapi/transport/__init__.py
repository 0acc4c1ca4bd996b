"""One request and its response: sign, limit the rate, send, retry, decode.

`Pipeline.call` makes a call; a `Transport` sends the bytes. The packages above import the pipeline,
the codec and the response specs. This package imports the models, signing and errors; it knows
neither the states of VMs nor tasks.
"""

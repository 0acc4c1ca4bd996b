"""One request and its response: sign, pace, send, retry, decode.

`Pipeline.call` makes a call; a `Transport` sends its bytes. The rooms above import what they call
from here: the pipeline, the codec and the response specs. This room imports the models, signing and
errors beneath it, and knows neither VMs' states nor tasks.
"""

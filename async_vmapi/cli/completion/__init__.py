"""Shell completion: what may follow the words on a command line.

A shell's function (`scripts`) runs the program with ``_ASYNC_VMAPI_COMPLETE`` set at each press of
the key, so this package imports little. `answer` is the entry: `tree` knows the commands and their
options, from a cache, `values` asks the API for names, and `shells` reads and writes the words as
the shell needs them. Nothing but the imports of `tree`, without a cache, is slow.
"""

"""An event loop whose clock jumps, for tests that run one themselves."""

import asyncio
from functools import partial

import looptime

# Otherwise it goes around 42 times before it jumps, which takes most of the time of such tests.
JUMPING = {"noop_cycles": 0}

JumpingLoop = partial(looptime.make_event_loop_class(asyncio.SelectorEventLoop), **JUMPING)

"""``python -m dprobed``, as a client starts the private daemon of a command."""

import gc
import sys

# What is imported stays, and to look through it for garbage takes a tenth of the time of all
# imports; ``main`` switches the collector on again.
gc.disable()
# asyncio imports ssl where there is one, and does without it where there is none. Nobody here
# speaks TLS, and OpenSSL takes 8 of the 60 ms of CPU that asyncio takes to import.
sys.modules["ssl"] = None  # type: ignore[assignment]
import asyncio  # noqa: E402, F401

del sys.modules["ssl"]

from dprobed.daemon.main import main  # noqa: E402

main()

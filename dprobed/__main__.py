"""``python -m dprobed``."""

from dprobed.daemon.main import main

main()

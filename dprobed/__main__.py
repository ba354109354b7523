"""``python -m dprobed``."""

from dprobed.daemon import main

main()

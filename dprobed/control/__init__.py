"""The control socket: what a client and the daemon say to each other, and who may say it."""

"""What the daemon counts, for Prometheus: off unless the configuration says where to serve it."""

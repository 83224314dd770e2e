"""The ``ratchet`` command: the only place that sees every service, and only the one that was asked for."""

"""The services. None imports another; the command line sees them all."""

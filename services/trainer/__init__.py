"""The trainer: learns from joined examples, lets the gate decide, publishes versions."""

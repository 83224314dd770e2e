"""Everything that crosses a process boundary: events, frames, predictions, manifests, loops, tables."""

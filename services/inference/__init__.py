"""Inference: answers predictions with the champion, logs them, and swaps versions without failing a request."""

"""The demo: a product app that asks for predictions, tells the truth afterwards, and measures what came of it."""

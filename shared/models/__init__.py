"""Models: what trainer and inference share, so that what is trained is what is served. The only home of torch."""

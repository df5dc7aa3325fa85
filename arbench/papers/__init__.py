"""The papers: their tables as experiments, what they print, what of it can run here, and what was measured."""

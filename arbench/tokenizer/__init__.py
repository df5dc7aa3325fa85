"""Tokenizers as arbench finds and uses them: loading, conformance, reconstruction, statistics of latents."""

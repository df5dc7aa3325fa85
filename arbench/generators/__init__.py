"""Generators: backbones and the three methods built on them."""

"""Generators: backbones and the methods built on them."""

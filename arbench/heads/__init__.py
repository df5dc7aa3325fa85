"""Heads: condition vectors to drawn tokens."""

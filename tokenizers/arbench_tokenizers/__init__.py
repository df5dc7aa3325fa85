"""The tokenizers that ship with arbench, found by entry point like any plug-in."""

"""One run: what was asked for, its parts on one device, and the record that comes of it."""

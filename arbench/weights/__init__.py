"""Weight files: cards, safe readers, key maps, conversion."""

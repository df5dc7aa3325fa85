"""Speed: timing and rooflines."""

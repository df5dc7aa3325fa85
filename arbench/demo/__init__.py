"""A page on this machine that draws images while one looks: what may be chosen, the drawing, and the page."""

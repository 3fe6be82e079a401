"""Generated tabletop scenes: the embedded model's world."""

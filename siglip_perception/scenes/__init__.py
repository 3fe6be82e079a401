"""Generated tabletop scenes, on which the embedded model is trained and measured."""

"""Data sets as people have them: what their files are called, and what of them cannot be used."""

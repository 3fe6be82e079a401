"""Sentence -> the phrases that name its objects: rules over word lists, one language each."""

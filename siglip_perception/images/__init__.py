"""Images: messages and files to RGB, everything checked before a decoder sees it."""

"""Questions about contrastive learning, each answered by measuring."""

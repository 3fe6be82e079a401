"""A simulated arm that acts on published objects: physics, episodes and a scripted policy."""

"""What the doors share: who may do what, and how often."""

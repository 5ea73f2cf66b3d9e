"""What the doors share: who may do what, how often, and how times are typed."""

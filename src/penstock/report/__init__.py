"""Pictures of what a network's paths look like."""

"""What a training minimises, by what steps, and what it is measured by: losses, optimisers, schedules, metrics."""

"""Generation: sequences, memory, schedule, step loop."""

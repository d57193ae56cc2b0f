"""What this project claims about speed and memory, measured beside what people use today: `python -m benchmarks`."""

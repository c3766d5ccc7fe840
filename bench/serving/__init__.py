"""What serving costs, and what a latency budget makes of an overload."""

"""What the device is and what the system grants this process of it."""

"""What the commands write: tables, JSON, pictures."""

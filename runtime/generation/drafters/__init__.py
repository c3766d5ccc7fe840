"""What guesses the next tokens from the text alone, for the model to verify in one call."""

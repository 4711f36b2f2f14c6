"""What a block does inside a trained model."""

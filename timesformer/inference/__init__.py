"""A trained model on videos."""

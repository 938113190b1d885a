"""What a trained model does on its test set, beyond its accuracy: robustness, features, single clips."""

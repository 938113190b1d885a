"""Predictions with trained models."""

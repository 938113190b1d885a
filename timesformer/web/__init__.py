"""The web page: upload a video and see the model's predictions and attention."""

"""An HTTP service that predicts the classes of videos."""

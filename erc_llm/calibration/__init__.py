"""Calibration: from label distributions to answers; fitted on held-out predictions, stored with the run."""

"""Neighbours: labelled lines of train that resemble a line, and the label distribution that they give."""

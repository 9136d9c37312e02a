"""Video foundation models: encoders, objectives, training and interoperability."""

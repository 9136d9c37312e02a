"""What a frozen encoder has learned: probes and protocols on its features, and the report that shows them."""

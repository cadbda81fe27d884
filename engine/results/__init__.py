"""What runs are, what they leave on disk, and the tables and plots made from that alone."""

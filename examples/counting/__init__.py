"""The drawings' model learns to count from rewards: by one judge, with results by another."""

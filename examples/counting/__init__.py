"""The model of drawings learns to count from rewards of one judge; a second judge measures the result."""

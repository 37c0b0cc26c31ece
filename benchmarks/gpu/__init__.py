"""What a GPU does with these networks, measured in stages that resume on a machine that is lent for minutes."""

"""What a network costs: operations, memory and communication, by formula or from its trace."""

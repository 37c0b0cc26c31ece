"""The texts before and after the words of a user in the chats of Qwen."""

USER = "<|im_start|>user\n"
"""What stands before them."""
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
"""What stands behind them, up to where the answer begins."""
NO_THOUGHT = "<think>\n\n</think>\n\n"
"""What an answer begins with that is not to think."""

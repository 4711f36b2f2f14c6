"""The blocks' functions, made faster: tensors in, tensors out; nothing here knows a block."""

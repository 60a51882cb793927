"""A teacher's scores of training pairs: made once, kept by id, read by whoever distils them."""

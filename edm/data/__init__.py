"""Images in: data sets, readers, the writer, order and batches."""

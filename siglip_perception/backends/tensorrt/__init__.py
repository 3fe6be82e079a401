"""TensorRT on a GPU: engines built, tested, loaded and swapped in."""

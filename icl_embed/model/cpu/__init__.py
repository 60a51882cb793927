"""What only CPUs need: oneDNN's products, adapters in fewer passes, the heap."""
